"""What every noising process offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..transitions import Transition


@dataclass(frozen=True)
class Noised:
    """Noised samples on which a denoiser is trained or a bound is estimated.

    Attributes:
        x: `[B, *shape]`; t: float `[B]`; importance: float `[B]`, one over the density that t was drawn from.
    """

    x: Tensor
    t: Tensor
    importance: Tensor


class Process(Protocol):
    """A noising process from data (t = 0) to noise (t = 1)."""

    def prior(self, n: int, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x_1, `[n, *shape]`."""
        ...

    def corrupt(self, x0: Tensor, t: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """x_t ~ q(x_t | x0), the same shape as x0."""
        ...

    def transition(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> Transition:
        """p(x_s | x_t) for s < t, given the clean estimate at (x, t)."""
        ...

    def elbo(self, clean: Tensor, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """A one-sample estimate of the evidence lower bound of x0, `[B]` nats; minus it trains the denoiser."""
        ...

    def noise(self, x0: Tensor, *, strata: int | None = None, generator: torch.Generator | None = None) -> Noised:
        """Draw (t, x_t) for `elbo`: the mean of importance * elbo is the bound. Times are stratified over each `strata`
        consecutive samples (None: the whole batch), which lowers the variance."""
        ...

    def parameterise(self, network: torch.nn.Module | Any) -> torch.nn.Module:
        """Wrap a bare network in this process's default parameterisation: a `Denoiser`."""
        ...

    def check(self, x: Tensor, *, clean: bool) -> None:
        """Raise ValueError where x is not a state of this process (`clean`: not a state at t = 0)."""
        ...
