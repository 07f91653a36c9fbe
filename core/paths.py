"""Affine noising paths x_t = a(t) x0 + s(t) eps, and inference grids that follow the noise.

Time runs from 0 (data: a = 1, s = 0 exactly) to 1 (noise). Every path is given with its derivatives, the log signal-to-noise
ratio lambda(t) = 2 log(a / s) and the inverse of it. All are elementwise in t (any shape), differentiable, in t's dtype;
the process calls them in float64. a(1) may be exactly 0 and lambda may be infinite at both ends: callers must not divide by
a at t = 1 nor by s at t = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .schedules import uniform_grid

_SMALLEST = 1e-24  # some derivatives are infinite at 0: they are given at this time instead


class Path(ABC):
    """One affine path. `predicts` is what a bare network on this path is taken to predict."""

    predicts: ClassVar[str] = "v"

    @abstractmethod
    def a(self, t: Tensor) -> Tensor:
        """The part of the data left: falls from 1, at least 0."""

    @abstractmethod
    def s(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise: 0 at t = 0, positive after."""

    @abstractmethod
    def da(self, t: Tensor) -> Tensor:
        """d a / d t."""

    @abstractmethod
    def ds(self, t: Tensor) -> Tensor:
        """d s / d t; where that is infinite at 0, its value at t = 1e-24."""

    @abstractmethod
    def inverse(self, log_snr: Tensor) -> Tensor:
        """The t with this log-SNR, +inf giving 0. Values out of reach give times outside [0, 1] or the nearest end."""

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda = 2 log(a / s), strictly falling; +inf at t = 0, -inf where a = 0."""
        return 2 * (self.a(t).log() - self.s(t).log())

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """d lambda / d t < 0, for t inside (0, 1)."""
        return 2 * (self.da(t) / self.a(t) - self.ds(t) / self.s(t))

    def grid(self, steps: int) -> Tensor:
        """The inference grid taken where none is given, float64 `[steps + 1]` from 1 to 0."""
        return uniform_grid(steps)


def _ordered(low: float, high: float, names: str) -> None:
    if not (math.isfinite(high) and 0 < low < high):
        raise ValueError(f"{names} are {low} and {high}; expected 0 < first < second.")


class _LinearBeta(Path):
    """beta(t) = beta_min + (beta_max - beta_min) t and its integral B(t), which VP and sub-VP share."""

    beta_min: float
    beta_max: float

    def beta(self, t: Tensor) -> Tensor:
        """The rate of noising."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)

    def _invert(self, integral: Tensor) -> Tensor:
        """The root of a quadratic, in the form that loses nothing near 0."""
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return 2 * integral / (self.beta_min + root)

    def a(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def da(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2 * self.a(t)


@dataclass(frozen=True)
class VPLinear(_LinearBeta):
    """a = exp(-B / 2), s = sqrt(1 - a^2), with d B / d t rising linearly (Ho et al. 2020; Song et al. 2021, eq. 33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _ordered(self.beta_min, self.beta_max, "beta_min and beta_max")

    def s(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def ds(self, t: Tensor) -> Tensor:
        t = t.clamp(min=_SMALLEST)
        return self.beta(t) / 2 * self.a(t) ** 2 / self.s(t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return self._invert(
            torch.nn.functional.softplus(-log_snr, threshold=1e3)
        )  # torch's own threshold is an error of 1e-9


@dataclass(frozen=True)
class SubVP(_LinearBeta):
    """a as in `VPLinear`, s = 1 - a^2 (Song et al. 2021, eq. 29): less noise than VP at every time."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _ordered(self.beta_min, self.beta_max, "beta_min and beta_max")

    def s(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def ds(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.a(t) ** 2

    def inverse(self, log_snr: Tensor) -> Tensor:
        # q a^2 + a = q with q = a / s. With p = 1 / q near the data, so that a near 1 keeps 1 - a.
        p, q = torch.exp(-log_snr.clamp(min=0) / 2), torch.exp(log_snr.clamp(max=0) / 2)
        near = -torch.log1p(-2 * p / (p + (p**2 + 4).sqrt()))  # 1 - a^2 = a p
        far = -2 * (2 * q / (1 + (1 + 4 * q**2).sqrt())).log()
        return self._invert(torch.where(log_snr > 0, near, far))


@dataclass(frozen=True)
class VPCosine(Path):
    """a = cos(pi t / 2), s = sin(pi t / 2) (Nichol and Dhariwal 2021; Salimans and Ho 2022).

    Args:
        end: the path is followed up to this part of the quarter circle; below 1, some signal is left at t = 1, which a
            network that predicts eps needs.
    """

    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.end <= 1:
            raise ValueError(f"end is {self.end}; expected 0 < end <= 1.")

    @property
    def _rate(self) -> float:
        return math.pi / 2 * self.end

    def a(self, t: Tensor) -> Tensor:
        return torch.sin(
            math.pi / 2 * (1 - self.end * t)
        )  # exactly 0 at the end, which the cosine of a rounded pi / 2 is not

    def s(self, t: Tensor) -> Tensor:
        return torch.sin(self._rate * t)

    def da(self, t: Tensor) -> Tensor:
        return -self._rate * self.s(t)

    def ds(self, t: Tensor) -> Tensor:
        return self._rate * self.a(t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) / self._rate


@dataclass(frozen=True)
class VE(Path):
    """a = 1, s^2 = sigma(t)^2 - sigma_min^2 with sigma(t) geometric from sigma_min to sigma_max (Song et al. 2021, eq. 31).

    Args:
        sigma_min, sigma_max: in the units of the data.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _ordered(self.sigma_min, self.sigma_max, "sigma_min and sigma_max")

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def a(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def s(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(2 * self._log_ratio * t).sqrt()

    def da(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def ds(self, t: Tensor) -> Tensor:
        t = t.clamp(min=_SMALLEST)
        return self.sigma_min**2 * self._log_ratio * torch.exp(2 * self._log_ratio * t) / self.s(t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-log_snr) / self.sigma_min**2) / (2 * self._log_ratio)


@dataclass(frozen=True)
class EDM(Path):
    """a = 1, s = sigma_max t (Karras et al. 2022). Its own grid is `karras_grid`."""

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _ordered(0.002, self.sigma_max, "the grid's smallest sigma and sigma_max")

    def a(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def s(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def da(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def ds(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2) / self.sigma_max

    def grid(self, steps: int) -> Tensor:
        return karras_grid(self, steps)


@dataclass(frozen=True)
class FlowMatching(Path):
    """a = 1 - t, s = t: rectified flow (Liu et al. 2023; Lipman et al. 2023). The velocity is eps - x0."""

    predicts: ClassVar[str] = "velocity"

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def s(self, t: Tensor) -> Tensor:
        return t

    def da(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def ds(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True)
class Affine(Path):
    """Any path from two functions of time, such as a stochastic interpolant with Gaussian noise (Albergo et al. 2023).

    Args:
        a_of, s_of: elementwise functions of a tensor of times, made of differentiable torch operations.

    Raises:
        ValueError: a(0) is not 1, s(0) is not 0, a is negative, or a / s does not fall strictly.
    """

    a_of: Callable[[Tensor], Tensor]
    s_of: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        t = torch.linspace(0, 1, 257, dtype=torch.float64)
        a, s = self.a(t), self.s(t)
        if abs(float(a[0]) - 1) > 1e-9 or abs(float(s[0])) > 1e-9:
            raise ValueError(
                f"A path starts at a = {float(a[0])}, s = {float(s[0])}; expected 1 and 0 at t = 0 (data)."
            )
        falls = self.log_snr(t).diff() < 0
        if bool((a < 0).any()) or bool((s < 0).any()) or not bool(falls.all()):
            raise ValueError("A path needs a, s >= 0 and a / s falling strictly from t = 0 (data) to 1 (noise).")

    def a(self, t: Tensor) -> Tensor:
        return self.a_of(t)

    def s(self, t: Tensor) -> Tensor:
        return self.s_of(t)

    def da(self, t: Tensor) -> Tensor:
        return _derivative(self.a_of, t)

    def ds(self, t: Tensor) -> Tensor:
        return _derivative(self.s_of, t)

    def inverse(self, log_snr: Tensor) -> Tensor:
        """By bisection: 64 halvings of [0, 1]."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(64):
            middle = (low + high) / 2
            early = self.log_snr(middle) > log_snr
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return torch.where(log_snr == math.inf, 0.0, (low + high) / 2)


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Of an elementwise function; itself differentiable where t is."""
    with torch.enable_grad():
        time = t.clamp(min=_SMALLEST) if t.requires_grad else t.clamp(min=_SMALLEST).requires_grad_()
        value = function(time)
        if not value.requires_grad:
            return torch.zeros_like(t)
        return torch.autograd.grad(value.sum(), time, create_graph=t.requires_grad)[0]


PATHS: dict[str, type[Path]] = {
    "vp": VPLinear,
    "cosine": VPCosine,
    "subvp": SubVP,
    "ve": VE,
    "edm": EDM,
    "flow": FlowMatching,
}


# Inference grids: float64 [steps + 1], descending from exactly 1 to exactly 0.


def _closed(times: Tensor) -> Tensor:
    """Interior times `[steps]`, the first replaced by exactly 1, and 0 after the last."""
    times = torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    times[0] = 1
    return times


def karras_grid(path: Path, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """sigma = s / a equally spaced in sigma^(1 / rho) from sigma_max to sigma_min, then 0 (Karras et al. 2022, eq. 5).

    Args:
        sigma_max: lowered to the path's own largest; a path that goes beyond jumps to it in the first step.
    """
    sigma_max = min(sigma_max, math.exp(-float(path.log_snr(torch.ones((), dtype=torch.float64))) / 2))
    _ordered(sigma_min, sigma_max, "sigma_min and sigma_max")
    fractions = _even(steps)
    sigma = (sigma_max ** (1 / rho) + fractions * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return _closed(path.inverse(-2 * sigma.log()))


def log_snr_grid(path: Path, steps: int, low: float = -10.0, high: float = 12.0) -> Tensor:
    """Equal steps of log-SNR from `low` (raised to the path's own smallest) to `high`, then 0 (Lu et al. 2022)."""
    low = max(low, float(path.log_snr(torch.ones((), dtype=torch.float64))))
    if not low < high:
        raise ValueError(f"The log-SNR would run from {low} to {high}; it must rise.")
    return _closed(path.inverse(low + _even(steps) * (high - low)))


def shifted_grid(steps: int, shift: float = 3.0) -> Tensor:
    """t = shift u / (1 + (shift - 1) u) for equal steps in u (Esser et al. 2024): more steps near the noise if shift > 1."""
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift is {shift}; expected a positive finite number.")
    u = uniform_grid(steps)
    return shift * u / (1 + (shift - 1) * u)


def _even(steps: int) -> Tensor:
    """`steps` equal parts of [0, 1], both ends in (just 0 for one step)."""
    return 1 - uniform_grid(steps - 1) if steps > 1 else 1 - uniform_grid(steps)[:1]
