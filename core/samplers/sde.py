"""Stochastic samplers of Gaussian processes whose continuous limit keeps every marginal p_t.

All solve dx = [velocity - w^2 / 2 score] dt + w dW backward in time, for some w(t); w = 0 is the probability flow and w = g
the reverse SDE of Song et al. (2021). Their step to t = 0 gives the clean estimate and has no noise, since the score has no
limit there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..parameterisations.gaussian import combine, on_sites
from ..processes.base import Process
from ..transitions import GaussianTransition
from .base import Sampler, need_gaussian

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class ExponentialSDE(Sampler):
    """The SDE with w = gamma g, solved exactly for a clean estimate that stays: SDE-DPM-Solver++(1).

    x_s = a_s x0 + s_s (kept eps + sqrt(1 - kept^2) z), kept = (SNR(t) / SNR(s))^(gamma^2 / 2). gamma = 0 is `DDIM(0)`, 1 the
    ancestral sampler; between them it differs from DDIM(eta), and it may exceed 1. No step size is unstable.

    Args:
        gamma: noise level, at least 0.

    Raises:
        ValueError: a negative gamma; (when run) a process that is not Gaussian.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        _not_negative("gamma", self.gamma)

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0

    def times(self, diffusion: Diffusion) -> Tensor:
        need_gaussian(diffusion.process, "ExponentialSDE")
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> GaussianTransition:
        gaussian = need_gaussian(process, "ExponentialSDE")
        return gaussian.bridge(clean, x, t, s, gaussian.snr_ratio(x, t, s) ** self.gamma**2)


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """Euler-Maruyama on the SDE with w = eta g: dx = [f x - (1 + eta^2) / 2 g^2 score] dt + eta g dW (Song et al. 2021).

    f = a' / a and g^2 = -s^2 lambda'. Order 1 in law; steps must be small against the path's rates. Where no signal is left
    (a = 0, t = 1 of flow matching) f and g are infinite, and the exact step is taken: x_s from the prior and the clean
    estimate. `ExponentialSDE` solves the same equation better; this one is here to compare with.

    Args:
        eta: noise level, at least 0.

    Raises:
        ValueError: a negative eta; (when run) a process that is not Gaussian.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        _not_negative("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def times(self, diffusion: Diffusion) -> Tensor:
        need_gaussian(diffusion.process, "EulerMaruyama")
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> GaussianTransition:
        gaussian = need_gaussian(process, "EulerMaruyama")
        path, time, after = gaussian.path, on_sites(t, x), on_sites(s, x)
        a, noise, step = path.a(time), path.s(time), time - after
        pure = a == 0
        a = torch.where(pure, 1.0, a)  # any number: not used
        f = path.da(time) / a
        g2 = 2 * noise * (path.ds(time) - noise * f)
        pull = (1 + self.eta**2) / 2 * g2 / noise**2
        moved = _Step(1 - step * (f + pull), step * pull * a, self.eta * (g2 * step).sqrt())
        exact = gaussian.bridge(clean, x, t, s, gaussian.snr_ratio(x, t, s) ** self.eta**2)
        return moved.transition(clean, x, pure | (path.s(after) == 0), exact)


@dataclass(frozen=True)
class InterpolantSDE(Sampler):
    """Euler-Maruyama on the flow with a diffusion coefficient w(t) of one's choice, and the drift that makes up for it:
    dx = [velocity - w^2 / 2 score] dt + w dW (Albergo et al. 2023; Ma et al. 2024, SiT).

    The sampler of Flow-GRPO (Liu et al. 2025) and of DanceGRPO (Xue et al. 2025): noise gives the flow's steps a density.
    Order 1 in law where w is bounded. "flow-grpo" is not, at t = 1: started there, its first steps add noise of order one
    however fine the grid, and what is left of their error falls only as steps^(-level^2). It is small (Gaussian data: .001).

    Args:
        level: scale of w.
        shape: w / level as a function of t: "flow-grpo" is sqrt(s / a) (a taken at the end of the step where it is 0), as
            they have it; "constant" is 1, DanceGRPO's; or any function of a float64 tensor of times.

    Raises:
        ValueError: a negative level or an unknown shape; (when run) a process that is not Gaussian.
    """

    level: float = 0.7
    shape: str | Callable[[Tensor], Tensor] = "flow-grpo"

    def __post_init__(self) -> None:
        _not_negative("level", self.level)
        if not callable(self.shape) and self.shape not in ("flow-grpo", "constant"):
            raise ValueError(f"shape is {self.shape!r}; expected 'flow-grpo', 'constant' or a function of time.")

    @property
    def stochastic(self) -> bool:
        return self.level > 0

    def times(self, diffusion: Diffusion) -> Tensor:
        need_gaussian(diffusion.process, "InterpolantSDE")
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> GaussianTransition:
        gaussian = need_gaussian(process, "InterpolantSDE")
        path, time, after = gaussian.path, on_sites(t, x), on_sites(s, x)
        a, noise, step = path.a(time), path.s(time), time - after
        w = self.level * self._shape(a, noise, path.a(after), time)
        growth, pull = path.ds(time) / noise, w**2 / 2 / noise**2  # velocity = a' x0 + s' eps, score = -eps / s
        moved = _Step(1 - step * (growth + pull), step * (a * (growth + pull) - path.da(time)), w * step.sqrt())
        return moved.transition(clean, x, path.s(after) == 0, gaussian.bridge(clean, x, t, s, 1.0))

    def _shape(self, a: Tensor, noise: Tensor, a_after: Tensor, time: Tensor) -> Tensor:
        if callable(self.shape):
            return self.shape(time)
        if self.shape == "constant":
            return torch.ones_like(time)
        return (noise / torch.where(a == 0, a_after, a)).sqrt()


@dataclass(frozen=True)
class _Step:
    """mean = on_x x + on_clean clean; everything float64, `[1 or B, 1, ...]`."""

    on_x: Tensor
    on_clean: Tensor
    std: Tensor

    def transition(self, clean: Tensor, x: Tensor, special: Tensor, exact: GaussianTransition) -> GaussianTransition:
        """The step, or `exact` where `special` (bool) says so."""
        mean = torch.where(special, exact.mean, combine(x, clean, self.on_x, self.on_clean))
        return GaussianTransition(mean, torch.where(special, exact.std, self.std.to(x.dtype)))


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; expected a number of at least 0.")
