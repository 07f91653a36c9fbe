"""How many times an expensive function may be asked, and what it answered when; and the area under that curve."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..core.cost import BudgetSpentError

__all__ = ["Budget", "BudgetSpentError", "Call", "top_auc"]


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        number: 1, 2, ...: the unique texts in the order in which they were asked for.
        text: what was asked; value: the answer, NaN where the function failed.
        seconds: since the budget was made, when the answer came.
    """

    number: int
    text: str
    value: float
    seconds: float


@dataclass(eq=False)
class Budget:
    """At most `limit` calls, each unique text counted once however often it is asked for; a ledger, so it changes.

    Args:
        limit: number of calls.

    Attributes:
        calls: the record, in order.
    """

    limit: int
    calls: list[Call] = field(init=False, default_factory=list)
    _known: dict[str, float] = field(init=False, default_factory=dict, repr=False)
    _start: float = field(init=False, default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise ValueError(f"limit {self.limit!r}: expected a whole number of calls, at least 1")

    @property
    def left(self) -> int:
        """Calls that remain."""
        return self.limit - len(self.calls)

    def allowed(self, texts: Iterable[str]) -> list[str]:
        """Those of the distinct `texts` that may be asked: all that were asked before, and new ones as far as it reaches."""
        allowed, left = [], self.left
        for text in dict.fromkeys(texts):
            new = text not in self._known
            if not new or left > 0:
                allowed.append(text)
                left -= new
        return allowed

    def record(self, answers: Iterable[tuple[str, float]]) -> None:
        """Enter (text, value); texts that were entered before are not entered again.

        Raises:
            BudgetSpentError: more new texts than calls that remain.
        """
        for text, value in answers:
            if text not in self._known:
                self._enter(text, value)

    def _enter(self, text: str, value: float) -> None:
        if not self.left:
            raise BudgetSpentError(f"all {self.limit} calls are used up; the record of them is in .calls")
        self._known[text] = value
        self.calls.append(Call(len(self.calls) + 1, text, value, time.monotonic() - self._start))


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
