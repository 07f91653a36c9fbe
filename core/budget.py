"""A limit on how many times an expensive function may be asked, and the record of what it answered when."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from .cost import BudgetSpentError


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
