"""Statistical tests that state their error rates: false alarm 1e-4, and every named fault missed with at most 1e-4.

The chi-square test and its power are those of the product (`tiltflow.core.worlds.statistics`). Here is what tests need
beside them: outcomes in place of counts, and means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from tiltflow.core.worlds import total_variation
from tiltflow.core.worlds.statistics import (
    ALARM,
    MISS,
    TINY,
    Verdict,
    accept,
    chi_square_quantile,
    chi_square_tail,
    contaminated,
    normal_quantile,
    normal_tail,
    power,
    sample_size,
    verdict,
)
from torch import Tensor

__all__ = [
    "ALARM",
    "MISS",
    "Verdict",
    "accept",
    "accept_law",
    "accept_means",
    "chi_square_quantile",
    "chi_square_tail",
    "contaminated",
    "enough_draws",
    "normal_quantile",
    "power",
    "sample_size",
    "total_variation",
]


def accept_law(x: Tensor, law: Tensor, alternatives: Sequence[Tensor]) -> Verdict:
    """`accept` for outcomes, int64 `[n]` in [0, S)."""
    return accept(x.bincount(minlength=len(law)), law, alternatives)


def accept_means(values: Tensor, expected: Tensor, shifts: Tensor | None = None, alarm: float = ALARM) -> Verdict:
    """Are the means of `values` `[n, m]` equal to `expected` `[m]`? z-tests, the alarm shared among the m columns.

    Args:
        shifts: how far each fault moves each mean, `[faults, m]`; a fault must be noticed in one column at least.
    """
    n, columns = values.shape
    # 0 where an outcome is impossible; where all values are equal, rounding is no difference (and differs by processor)
    error = (values.double().std(0) / math.sqrt(n)).clamp(min=TINY)
    z = ((values.double().mean(0) - expected) / error).abs().amax()
    limit = normal_quantile(alarm / 2 / columns)
    weakest = 0.0
    if shifts is not None:
        weakest = float(torch.special.ndtr((shifts.abs() / error).amax(1) - limit).amin())
    return verdict(min(1.0, columns * normal_tail(float(z))), weakest, n, alarm)


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
