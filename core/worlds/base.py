"""What every world offers: a law p and a tilt of it about which everything is known."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..diffusion import Diffusion
from ..samplers import Sampler
from ..steering import Steering
from ..tilt import Tilt


class World(Protocol):
    """A small world: p, V, h, Z and p* in closed form or by enumeration, all float64.

    Outcomes are numbered: `outcome` gives the number of a sample, and laws are tables over outcomes. Worlds of many outcomes
    are compared on cells, to which `pool` adds them up.

    Attributes:
        alpha: temperature of the tilt.
        diffusion: the exact denoiser with a sampler whose law is p.
        p, tilted: `[S]`, the base law and p* over outcomes; log_z: log E_p[exp(r / alpha)].
    """

    @property
    def alpha(self) -> float: ...
    @property
    def diffusion(self) -> Diffusion: ...
    @property
    def p(self) -> Tensor: ...
    @property
    def tilted(self) -> Tensor: ...
    @property
    def log_z(self) -> float: ...

    def reward(self, x: Tensor) -> Tensor:
        """r(x), float64 `[B]`."""
        ...

    def value(self, x: Tensor, t: float = 0.0) -> Tensor:
        """V(x_t, t) = alpha log E[exp(r(x0) / alpha) | x_t], float64 `[B]`."""
        ...

    def h(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Doob's h = exp(V / alpha), float64 `[B]`."""
        ...

    def outcome(self, x: Tensor) -> Tensor:
        """Number of the outcome of each clean sample, int64 `[B]`."""
        ...

    def pool(self, law: Tensor) -> Tensor:
        """Masses of cells from masses of outcomes, `[S] -> [C]`."""
        ...

    def tilt(self, *, steps: int | None = None, sampler: Sampler | None = None, value: Any = None) -> Tilt:
        """The tilt of this world, with its exact value unless another is given; `sampler` and `steps` replace the default."""
        ...

    def base_law(self, diffusion: Diffusion | None = None) -> Tensor:
        """p_T, the law of the unguided sampler over outcomes, `[S]`."""
        ...

    def log_z_of(self, diffusion: Diffusion) -> float:
        """log E[exp(r / alpha)] under p_T, the sampler's own law: what a method's weights estimate."""
        ...

    def law(self, method: Steering, tilt: Tilt) -> Tensor:
        """The method's own law over outcomes, `[S]`, whatever the quality of its value.

        Raises:
            NotImplementedError: no computable law for this method or value.
        """
        ...


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the L1 distance of two laws `[S]`."""
    return float((p - q).abs().sum() / 2)


def relative_entropy(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats of two laws `[S]`; inf where q misses mass of p."""
    return float(torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.log()), 0.0).sum())
