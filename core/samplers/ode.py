"""Euler and Heun on the probability flow, dx / dt = a' x0 + s' eps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..parameterisations.gaussian import combine, on_sites
from ..processes.base import Process
from ..processes.gaussian import Gaussian
from ..transitions import GaussianTransition
from .base import Sampler, need_gaussian, only_samples

if TYPE_CHECKING:
    from ..diffusion import Diffusion

Variable = Literal["straight", "time"]


@dataclass(frozen=True)
class _Flow(Sampler):
    """What both solvers share: the variable in which a path is followed.

    "straight" is y = x / (a + s) against u = s / (a + s): every affine path is then y = (1 - u) x0 + u eps, the rectified
    flow, without a singularity at either end. "time" is x against the path's own t, the textbook form; for `FlowMatching`
    the two are the same. A path whose s starts as a square root (VP with linear beta, VE) costs order in "time".
    """

    variable: Variable = "straight"

    def __post_init__(self) -> None:
        if self.variable not in ("straight", "time"):
            raise ValueError(f"variable is {self.variable!r}; expected 'straight' or 'time'.")

    @property
    def stochastic(self) -> bool:
        return False

    def times(self, diffusion: Diffusion) -> Tensor:
        need_gaussian(diffusion.process, type(self).__name__)
        return diffusion.base_times

    def _slope(self, process: Gaussian, clean: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """dy / du or dx / dt, `[B, *shape]`."""
        if self.variable == "time":
            return process.predict("velocity", clean, x, t)
        return process.predict("eps", clean, x, t) - clean

    def _advance(self, process: Gaussian, x: Tensor, slope: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
        time, after = on_sites(t, x), on_sites(s, x)
        if self.variable == "time":
            return combine(x, slope, torch.ones_like(time), after - time)
        path = process.path
        before, scale = path.a(time) + path.s(time), path.a(after) + path.s(after)
        return combine(x, slope, scale / before, path.s(after) - scale * path.s(time) / before)


@dataclass(frozen=True)
class EulerODE(_Flow):
    """One estimate a step, order 1. In the straight variable it is `DDIM(eta=0)`, exact for a clean estimate that stays.

    The step to t = 0 gives the clean estimate, in either variable.
    """

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> GaussianTransition:
        gaussian = need_gaussian(process, "EulerODE")
        if self.variable == "straight":
            return gaussian.bridge(clean, x, t, s, 1.0)
        ahead = self._advance(gaussian, x, self._slope(gaussian, clean, x, t), t, s)
        arrived = gaussian.path.s(on_sites(s, x)) == 0
        return GaussianTransition(torch.where(arrived, clean, ahead), torch.zeros_like(arrived, dtype=x.dtype))


@dataclass(frozen=True)
class HeunODE(_Flow):
    """Euler to s, then again with the mean of the slopes at both ends: order 2, two estimates a step.

    The last step takes one and gives the clean estimate, since the slope at t = 0 needs eps, which x_0 does not tell. On
    the `EDM` path with variable="time" this is Algorithm 1 of Karras et al. (2022) without churn.
    """

    @property
    def single_step(self) -> bool:
        return False

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> GaussianTransition:
        raise only_samples("HeunODE takes two estimates a step")

    def run(
        self,
        diffusion: Diffusion,
        x: Tensor,
        times: Tensor,
        *,
        generator: torch.Generator | None = None,
        cond: Any = None,
        clean: Tensor | None = None,
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        process = need_gaussian(diffusion.process, "HeunODE")
        for t, s in pairwise(times.tolist()):
            first = diffusion.clean(x, t, cond) if clean is None else clean
            if s == 0:
                x = first
            else:
                slope = self._slope(process, first, x, t)
                ahead = self._advance(process, x, slope, t, s)
                second = diffusion.clean(ahead, s, cond)
                x = self._advance(process, x, (slope + self._slope(process, second, ahead, s)) / 2, t, s)
            yield s, x, first
            clean = None
