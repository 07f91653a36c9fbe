"""Desirability curves: from a property in its own unit to a number between 0 (useless) and 1 (as good as it gets).

Derringer and Suich, Journal of Quality Technology 12:214 (1980), for `Ramp` and `Peak`; Brown et al., Journal of Chemical
Information and Modeling 59:1096 (2019), for `Smooth` and `Gauss`. Every curve is a function float -> float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Curve = Callable[[float], float]


@dataclass(frozen=True)
class Ramp:
    """0 up to `zero`, 1 from `one` on, ((x - zero) / (one - zero))^power between. `one` < `zero`: small is good.

    Derringer and Suich's one-sided desirability, eq. 1; power > 1 asks for values near `one`.
    """

    zero: float
    one: float
    power: float = 1.0

    def __post_init__(self) -> None:
        _check_finite(self, "zero", "one", "power")
        _check_distinct(self.zero, self.one)
        if self.power <= 0:
            raise ValueError(f"power {self.power!r}: expected a number > 0")

    def __call__(self, x: float) -> float:
        return _unit((x - self.zero) / (self.one - self.zero)) ** self.power


@dataclass(frozen=True)
class Peak:
    """1 at `target`, 0 outside [low, high]: ((x - low) / (target - low))^rise below it, and so above it with `fall`.

    Derringer and Suich's two-sided desirability, eq. 2.
    """

    low: float
    target: float
    high: float
    rise: float = 1.0
    fall: float = 1.0

    def __post_init__(self) -> None:
        _check_finite(self, "low", "target", "high", "rise", "fall")
        if not self.low < self.target < self.high:
            raise ValueError(f"low {self.low}, target {self.target}, high {self.high}: expected them in rising order")
        if self.rise <= 0 or self.fall <= 0:
            raise ValueError(f"rise {self.rise!r}, fall {self.fall!r}: expected numbers > 0")

    def __call__(self, x: float) -> float:
        if x <= self.target:
            return _unit((x - self.low) / (self.target - self.low)) ** self.rise
        return _unit((self.high - x) / (self.high - self.target)) ** self.fall


@dataclass(frozen=True)
class Window:
    """1 from `low` to `high`, falling in a straight line to 0 at a distance `slack` outside."""

    low: float
    high: float
    slack: float

    def __post_init__(self) -> None:
        _check_finite(self, "low", "high", "slack")
        if self.low > self.high:
            raise ValueError(f"low {self.low} above high {self.high}: expected low <= high")
        _check_width("slack", self.slack)

    def __call__(self, x: float) -> float:
        return _unit(1 - max(self.low - x, x - self.high, 0.0) / self.slack)


@dataclass(frozen=True)
class Smooth:
    """A logistic curve that passes 1/2 midway between `zero` and `one`, there as steep as the straight line between them.

    d(x) = 1 / (1 + exp(-4 (x - (zero + one) / 2) / (one - zero)))
    """

    zero: float
    one: float

    def __post_init__(self) -> None:
        _check_finite(self, "zero", "one")
        _check_distinct(self.zero, self.one)

    def __call__(self, x: float) -> float:
        return _logistic(4 * (x - (self.zero + self.one) / 2) / (self.one - self.zero))


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(-(x - middle) / width)). A negative width: small is good."""

    middle: float
    width: float

    def __post_init__(self) -> None:
        _check_finite(self, "middle", "width")
        if self.width == 0:
            raise ValueError("width 0: expected another number; negative where small is good")

    def __call__(self, x: float) -> float:
        return _logistic((x - self.middle) / self.width)


@dataclass(frozen=True)
class Gauss:
    """exp(-((x - mu) / sigma)^2 / 2), on both sides of `mu`, or only "above" or "below" it, with 1 on the other side."""

    mu: float
    sigma: float
    side: Literal["both", "above", "below"] = "both"

    def __post_init__(self) -> None:
        _check_finite(self, "mu", "sigma")
        _check_width("sigma", self.sigma)
        if self.side not in ("both", "above", "below"):
            raise ValueError(f"side {self.side!r}: expected 'both', 'above' or 'below', where the curve falls")

    def __call__(self, x: float) -> float:
        if (self.side == "above" and x < self.mu) or (self.side == "below" and x > self.mu):
            return 1.0
        miss = (x - self.mu) / self.sigma
        return math.exp(-miss * miss / 2)


def _unit(x: float) -> float:
    return min(1.0, max(0.0, x))


def _logistic(z: float) -> float:
    # Two forms, since exp overflows for large arguments.
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def _check_finite(curve: object, *names: str) -> None:
    for name in names:
        value = getattr(curve, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} {value!r}: expected a finite number, in the property's unit")


def _check_distinct(zero: float, one: float) -> None:
    if zero == one:
        raise ValueError(f"zero and one are both {zero}: expected two values, where the curve is 0 and where it is 1")


def _check_width(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} {value!r}: expected a number > 0, in the property's unit")
