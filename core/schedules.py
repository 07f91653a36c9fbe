"""Noise schedules alpha(t) and inference grids. Time runs from 0 (data) to 1 (noise); alpha is the part of the data left.

For a masked process alpha(t) is the probability that a site is still unmasked. Every schedule here falls from alpha(0) = 1,
so no mask is ever left over at t = 0 and no "noise removal" step is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """alpha(t), its derivative and its inverse, elementwise in t (any shape), differentiable, in t's dtype. Hashable."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def derivative(self, t: Tensor) -> Tensor:
        """d alpha / d t, at most 0."""
        ...

    def inverse(self, alpha: Tensor) -> Tensor:
        """The t at which alpha(t) = alpha."""
        ...


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; expected a positive finite number.")


@dataclass(frozen=True)
class Linear:
    """alpha(t) = 1 - t. The default: the NELBO weight is 1/t."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def inverse(self, alpha: Tensor) -> Tensor:
        return 1 - alpha


@dataclass(frozen=True)
class LogLinear:
    """sigma(t) = -log(1 - (1 - eps) t), so alpha(t) = 1 - (1 - eps) t (Lou et al. 2024; MDLM, Sahoo et al. 2024).

    `eps` is the part of the data left at t = 1; sampling starts from all masks nevertheless.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1:
            raise ValueError(f"eps is {self.eps}; expected 0 <= eps < 1.")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.eps) * t

    def derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.eps - 1)

    def inverse(self, alpha: Tensor) -> Tensor:
        return (1 - alpha) / (1 - self.eps)


@dataclass(frozen=True)
class Cosine:
    """alpha(t) = 1 - cos(pi/2 (1 - t)): few sites are decided while almost all are masked (MDLM, appendix)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.sin(math.pi / 2 * t)  # exactly 1 at 0, which the cosine of a rounded pi / 2 is not

    def derivative(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))

    def inverse(self, alpha: Tensor) -> Tensor:
        return 2 / math.pi * torch.asin(1 - alpha)


@dataclass(frozen=True)
class Polynomial:
    """alpha(t) = 1 - t^power."""

    power: float = 2.0

    def __post_init__(self) -> None:
        _positive("power", self.power)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.power

    def derivative(self, t: Tensor) -> Tensor:
        return -self.power * t ** (self.power - 1)

    def inverse(self, alpha: Tensor) -> Tensor:
        return (1 - alpha) ** (1 / self.power)


@dataclass(frozen=True)
class Geometric:
    """sigma(t) = sigma_min^(1-t) sigma_max^t, alpha = exp(-sigma) (Lou et al. 2024), stretched to run from exactly 1 to 0.

    Unstretched, exp(-sigma_min) < 1 leaves masks at t = 0; stretching moves alpha by at most sigma_min.
    """

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        _positive("sigma_min", self.sigma_min)
        _positive("sigma_max", self.sigma_max)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}.")

    @property
    def _ends(self) -> tuple[float, float]:
        return math.exp(-self.sigma_max), math.exp(-self.sigma_min)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def alpha(self, t: Tensor) -> Tensor:
        low, high = self._ends
        return (torch.exp(-self._sigma(t)) - low) / (high - low)

    def derivative(self, t: Tensor) -> Tensor:
        low, high = self._ends
        sigma = self._sigma(t)
        return -sigma * math.log(self.sigma_max / self.sigma_min) * torch.exp(-sigma) / (high - low)

    def inverse(self, alpha: Tensor) -> Tensor:
        low, high = self._ends
        sigma = -torch.log(low + alpha * (high - low))
        return torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)


SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "loglinear": LogLinear,
    "cosine": Cosine,
    "polynomial": Polynomial,
    "geometric": Geometric,
}


# Inference grids: float64 [steps + 1], descending from exactly 1 to exactly 0.


def _fractions(steps: int) -> Tensor:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; expected an integer of at least 1.")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def uniform_grid(steps: int) -> Tensor:
    """Equal steps."""
    return _fractions(steps)


def power_grid(steps: int, power: float = 2.0) -> Tensor:
    """t = u^power for equal steps in u: power > 1 takes small steps near the data, power < 1 near the noise."""
    _positive("power", power)
    return _fractions(steps) ** power


def cosine_grid(steps: int) -> Tensor:
    """t = (1 - cos(pi u)) / 2 for equal steps in u: small steps at both ends."""
    grid = (1 - torch.cos(math.pi * _fractions(steps))) / 2
    grid[0], grid[-1] = 1, 0
    return grid


GRIDS = {"uniform": uniform_grid, "power": power_grid, "cosine": cosine_grid}


def check_grid(grid: Tensor) -> Tensor:
    """Return `grid` as float64 [S + 1] on the CPU, or say what is wrong with it.

    Raises:
        ValueError: not 1-D, shorter than 2, not strictly descending, outside [0, 1], or not ending at 0.
    """
    grid = torch.as_tensor(grid, dtype=torch.float64).cpu()
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"A grid has shape {tuple(grid.shape)}; expected [steps + 1] with at least one step.")
    if not bool((grid[1:] < grid[:-1]).all()) or grid[0] > 1 or grid[-1] != 0:
        raise ValueError("A grid must descend strictly within [0, 1], from noise (1) to data (exactly 0).")
    return grid
