"""How many times an expensive function may be asked (`core.budget`), and the area under the curve of what it answered."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.budget import Budget, Call
from ..core.cost import BudgetSpentError

__all__ = ["Budget", "BudgetSpentError", "Call", "top_auc"]


def top_auc(values: Sequence[float], limit: int, top: int = 10, every: int = 100) -> float:
    """Area under the mean of the best `top` values so far against the number of calls, over `limit`: 0 to 1.

    The measure of the PMO benchmark (Gao et al., NeurIPS 2022 Datasets and Benchmarks, section 3): the mean is taken
    after every `every` calls and after the last one, joined by straight lines from 0 at no call, and stays what it is from
    the last call to `limit`. Values are scores of 0 to 1, in the order of the calls; NaN counts as 0.

    Raises:
        ValueError: no value, or more values than `limit`.
    """
    if not 0 < len(values) <= limit or min(top, every) < 1:
        raise ValueError(f"{len(values)} values, limit {limit}, top {top}, every {every}: expected 1 to limit values")
    area = before = 0.0
    asked = 0
    for calls in (*range(every, len(values), every), len(values)):
        now = _top_mean(values[:calls], top)
        area += (calls - asked) * (now + before) / 2
        asked, before = calls, now
    return (area + (limit - asked) * before) / limit


def _top_mean(values: Sequence[float], top: int) -> float:
    best = sorted((0.0 if math.isnan(value) else value for value in values), reverse=True)[:top]
    return sum(best) / len(best)
