"""Tests that state their error rates: do draws follow a law, do weights have their mean, and would a fault have been seen?

`accept` compares counts with a law by Pearson's chi-square. It answers pass, fail or underpowered; it is underpowered, and
so never passes, when some alternative law (a seeded fault) would have been missed too often at this number of draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ALARM = 1e-4  # probability of failing correct code
MISS = 1e-4  # probability of passing a named fault
SMALLEST = 10.0  # expected count below which cells are pooled

Outcome = Literal["pass", "fail", "underpowered"]


@dataclass(frozen=True)
class Verdict:
    """True only where the test passed with enough power."""

    outcome: Outcome
    p_value: float
    power: float  # against the alternative that is hardest to see
    n: int

    def __bool__(self) -> bool:
        return self.outcome == "pass"


# --- draws against a law --------------------------------------------------------------------------------------------


def accept(counts: Tensor, law: Tensor, alternatives: Sequence[Tensor] = (), alarm: float = ALARM) -> Verdict:
    """Do `counts` `[S]` come from `law` `[S]`, and would each of `alternatives` `[S]` have been noticed?"""
    n = int(counts.sum())
    observed, expected = counts.double(), law.double() * n
    impossible = bool((observed[law <= 0] > 0).any())
    weakest = min((power(law, other, n, alarm) for other in alternatives), default=0.0)
    groups = pool(law, n)
    statistic = ((_sum(observed, groups) - _sum(expected, groups)) ** 2 / _sum(expected, groups)).sum()
    p_value = 0.0 if impossible else chi_square_tail(float(statistic), int(groups.max()))
    return verdict(p_value, weakest, n, alarm)


def verdict(p_value: float, weakest: float, n: int, alarm: float = ALARM) -> Verdict:
    """Fail below the alarm; pass only with power 1 - MISS."""
    outcome: Outcome = "fail" if p_value < alarm else "pass" if weakest >= 1 - MISS else "underpowered"
    return Verdict(outcome, p_value, weakest, n)


def power(law: Tensor, other: Tensor, n: int, alarm: float = ALARM) -> float:
    """Probability that n draws from `other` fail the test for `law`.

    With counts O ~ N(n q, n (diag q - q q')), expected counts being at least 10, the statistic sum (O - n p)^2 / (n p) is
    a quadratic form of known mean and variance. It is skewed to the right, so that the normal law with these moments
    overstates its lower tail: the power is not overstated.
    """
    groups = pool(law, n)
    escaped = float(other.double()[law <= 0].sum())
    p, q = _sum(law.double(), groups), _sum(other.double(), groups)
    covariance = q.diag() - q.outer(q)
    slope = q / p
    mean = n * ((q - p) ** 2 / p).sum() + (covariance.diag() / p).sum()
    variance = 4 * n * slope @ covariance @ slope + 2 * ((covariance / p.sqrt().outer(p.sqrt())) ** 2).sum()
    score = (mean - chi_square_quantile(int(groups.max()), alarm)) / variance.clamp(min=1e-12).sqrt()
    seen = float(torch.special.ndtr(score))
    return max(seen, -math.expm1(n * math.log1p(-escaped)) if escaped < 1 else 1.0)


def sample_size(law: Tensor, alternatives: Sequence[Tensor], alarm: float = ALARM, most: float = 1e9) -> int:
    """Draws that are enough to see every alternative, found by doubling, plus a tenth; `most` at the most.

    Raises:
        ValueError: even 1e9 draws would not do.
    """
    n = 1000
    while n < most and min(power(law, other, n, alarm) for other in alternatives) < 1 - MISS:
        if n > 1e9:
            raise ValueError("An alternative equals the law.")
        n = int(n * 1.25)
    return int(min(n * 1.1, most))


def contaminated(law: Tensor, share: float = 0.01) -> Tensor:
    """The law with a share of uniform draws mixed in."""
    return (1 - share) * law + share / len(law)


def pool(law: Tensor, n: int) -> Tensor:
    """Group of each cell `[S]`: cells with small expected counts share group 0, joined by the next until it is large too."""
    order = law.argsort()
    expected = law[order].double() * n
    small = expected < SMALLEST
    if small[0]:
        small |= expected.cumsum(0) - expected < SMALLEST
    rank = torch.where(small, 0, (~small).cumsum(0) - 1 + int(small[0]))
    return torch.empty_like(rank).scatter_(0, order, rank)


def _sum(values: Tensor, groups: Tensor) -> Tensor:
    return torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add_(0, groups, values.double())


# --- means against their expectation --------------------------------------------------------------------------------


def mean_scores(values: Tensor, expected: Tensor, error: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """z-scores of the means of `values` `[n, m]` against `expected` `[m]`, freed of skewness, and what skewness is left.

    Weights have long right tails, with which the plain z-score falls too low too often. Hall's transformation (1992) is a
    monotone cubic that takes out the first term of that; it can be trusted where skewness / sqrt(n) is small.

    Args:
        error: standard error of `expected` itself, where it was measured.

    Returns:
        z `[m]`; skewness / sqrt(n) `[m]`.
    """
    n = len(values)
    spread = values.double() - values.double().mean(0)
    std = spread.std(0).clamp(min=TINY * math.sqrt(n))
    skew = (spread**3).mean(0) / std**3 / math.sqrt(n)
    own = std / math.sqrt(n)
    total = (own**2 + torch.as_tensor(error, dtype=torch.float64) ** 2).sqrt()
    z, skew = (values.double().mean(0) - expected) / total, skew * (own / total) ** 3
    return z + skew * (z**2 / 3 + 1 / 6) + skew**2 * z**3 / 27, skew


TINY = 1e-9  # standard errors below this are rounding: weights that are all equal are compared to nine digits


# --- tails ----------------------------------------------------------------------------------------------------------


def chi_square_tail(x: float, df: int) -> float:
    """P(chi-square with df degrees of freedom > x); 1 where df is 0."""
    if df == 0:
        return 1.0
    return float(torch.special.gammaincc(*torch.tensor([df / 2, x / 2], dtype=torch.float64)))


def chi_square_quantile(df: int, tail: float) -> float:
    """The x with P(chi-square > x) = tail."""
    low, high = 0.0, 10.0 * df + 200.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(middle, df) > tail else (low, middle)
    return high


def normal_tail(z: float) -> float:
    """P(|N(0, 1)| > |z|)."""
    return math.erfc(abs(z) / math.sqrt(2))


def normal_quantile(tail: float) -> float:
    """The z with P(N(0, 1) > z) = tail."""
    return float(-torch.special.ndtri(torch.tensor(tail, dtype=torch.float64)))
