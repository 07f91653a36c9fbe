"""Statistical tests that state their error rates: false alarm 1e-4, and every named fault missed with at most 1e-4.

`accept` compares counts with a law by Pearson's chi-square. It answers pass, fail or underpowered; it is underpowered, and
so never passes, when some alternative law (a seeded fault) would have been missed too often at this number of draws.
`accept_means` compares sample means with their expectations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ALARM = 1e-4  # probability of failing correct code
MISS = 1e-4  # probability of passing a named fault
SMALLEST = 10.0  # expected count below which cells are pooled


@dataclass(frozen=True)
class Verdict:
    """True only where the test passed with enough power."""

    outcome: Literal["pass", "fail", "underpowered"]
    p_value: float
    power: float  # against the alternative that is hardest to see
    n: int

    def __bool__(self) -> bool:
        return self.outcome == "pass"


def accept(counts: Tensor, law: Tensor, alternatives: Sequence[Tensor] = (), alarm: float = ALARM) -> Verdict:
    """Do `counts` `[S]` come from `law` `[S]`, and would each of `alternatives` `[S]` have been noticed?"""
    n = int(counts.sum())
    observed, expected = counts.double(), law.double() * n
    impossible = bool((observed[law <= 0] > 0).any())
    weakest = min((power(law, other, n, alarm) for other in alternatives), default=0.0)
    groups = _pool(law, n)
    statistic = ((_sum(observed, groups) - _sum(expected, groups)) ** 2 / _sum(expected, groups)).sum()
    p_value = 0.0 if impossible else chi_square_tail(float(statistic), int(groups.max()))
    outcome = "fail" if p_value < alarm else "pass" if weakest >= 1 - MISS else "underpowered"
    return Verdict(outcome, p_value, weakest, n)


def accept_law(x: Tensor, law: Tensor, alternatives: Sequence[Tensor]) -> Verdict:
    """`accept` for outcomes, int64 `[n]` in [0, S)."""
    return accept(x.bincount(minlength=len(law)), law, alternatives)


def power(law: Tensor, other: Tensor, n: int, alarm: float = ALARM) -> float:
    """Probability that n draws from `other` fail the test for `law`.

    With counts O ~ N(n q, n (diag q - q q')), expected counts being at least 10, the statistic sum (O - n p)^2 / (n p) is
    a quadratic form of known mean and variance. It is skewed to the right, so that the normal law with these moments
    overstates its lower tail: the power is not overstated.
    """
    groups = _pool(law, n)
    escaped = float(other.double()[law <= 0].sum())
    p, q = _sum(law.double(), groups), _sum(other.double(), groups)
    covariance = q.diag() - q.outer(q)
    slope = q / p
    mean = n * ((q - p) ** 2 / p).sum() + (covariance.diag() / p).sum()
    variance = 4 * n * slope @ covariance @ slope + 2 * ((covariance / p.sqrt().outer(p.sqrt())) ** 2).sum()
    score = (mean - chi_square_quantile(int(groups.max()), alarm)) / variance.clamp(min=1e-12).sqrt()
    seen = float(torch.special.ndtr(score))
    return max(seen, -math.expm1(n * math.log1p(-escaped)) if escaped < 1 else 1.0)


def sample_size(law: Tensor, alternatives: Sequence[Tensor]) -> int:
    """Draws that are enough to see every alternative, found by doubling, plus a tenth."""
    n = 1000
    while min(power(law, other, n) for other in alternatives) < 1 - MISS:
        if n > 1e9:
            raise ValueError("An alternative equals the law.")
        n = int(n * 1.25)
    return int(n * 1.1)


def contaminated(law: Tensor, share: float = 0.01) -> Tensor:
    """The law with a share of uniform draws mixed in."""
    return (1 - share) * law + share / len(law)


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


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


def _pool(law: Tensor, n: int) -> Tensor:
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


def accept_means(values: Tensor, expected: Tensor, shifts: Tensor | None = None, alarm: float = ALARM) -> Verdict:
    """Are the means of `values` `[n, m]` equal to `expected` `[m]`? z-tests, the alarm shared among the m columns.

    Args:
        shifts: how far each fault moves each mean, `[faults, m]`; a fault must be noticed in one column at least.
    """
    n, columns = values.shape
    error = (values.double().std(0) / math.sqrt(n)).clamp(min=1e-300)  # 0 where an outcome is impossible
    z = ((values.double().mean(0) - expected) / error).abs().amax()
    limit = normal_quantile(alarm / 2 / columns)
    weakest = 0.0
    if shifts is not None:
        weakest = float(torch.special.ndtr((shifts.abs() / error).amax(1) - limit).amin())
    p_value = min(1.0, 2 * columns * float(torch.special.ndtr(-z)))
    outcome = "fail" if p_value < alarm else "pass" if weakest >= 1 - MISS else "underpowered"
    return Verdict(outcome, p_value, weakest, n)


def enough_draws(draw: Callable[[int], Tensor], shifts: Tensor, first: int = 4000, most: int = 256_000) -> Tensor:
    """Values `[n, m]` for `accept_means`, n doubled until every fault in `shifts` `[faults, m]` would be seen.

    Only standard deviations decide when to stop, so the test that follows is the only look at the means.
    """
    values = draw(first)
    limit = normal_quantile(ALARM / 2 / values.shape[1]) + normal_quantile(MISS)
    while len(values) < most:
        hardest = float((shifts.abs() / values.std(0).clamp(min=1e-300)).amax(1).amin())  # in standard deviations
        if hardest * math.sqrt(len(values)) > limit:
            break
        values = torch.cat([values, draw(len(values))])
    return values


def normal_quantile(tail: float) -> float:
    """The z with P(N(0, 1) > z) = tail."""
    return float(-torch.special.ndtri(torch.tensor(tail, dtype=torch.float64)))
