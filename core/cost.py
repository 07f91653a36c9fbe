"""What a run spends: network rows, reward calls and seconds, counted where they happen so that no method can skip it.

`Denoiser` and `Tilt.reward` report to every meter that is open in the current context. A method never counts by itself.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any


class BudgetSpentError(RuntimeError):
    """All calls of a reward are used up; the record of them stays."""


_open: ContextVar[tuple[Meter, ...]] = ContextVar("tiltflow_open_meters", default=())


@dataclass(frozen=True)
class Cost:
    """A bill. Rows are samples that went through a network; a batch of 64 is 64 rows."""

    forward_rows: int = 0
    backward_rows: int = 0
    reward_calls: int = 0  # samples that the reward evaluated
    reward_failures: int = 0  # of these, how many came back as NaN and were excluded by the failure policy
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        mine, theirs = asdict(self), asdict(other)
        return Cost(**{name: mine[name] + theirs[name] for name in mine})


@dataclass
class Meter:
    """Context manager that adds up what is spent inside it. May be entered again later, and inside other meters.

    >>> with Meter() as meter:
    ...     spend(forward_rows=3)
    >>> meter.cost.forward_rows
    3
    """

    cost: Cost = field(default_factory=Cost)
    _entered: list[tuple[Any, float]] = field(default_factory=list, repr=False)

    def __enter__(self) -> Meter:
        self._entered.append((_open.set((*_open.get(), self)), time.perf_counter()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        token, started = self._entered.pop()
        _open.reset(token)
        self.cost = replace(self.cost, seconds=self.cost.seconds + time.perf_counter() - started)


def spend(**amounts: int) -> None:
    """Add `amounts` (fields of `Cost`) to every open meter."""
    charge(open_meters(), **amounts)


def open_meters() -> tuple[Meter, ...]:
    """The meters open here, for work that is billed later (a backward pass)."""
    return _open.get()


def charge(meters: tuple[Meter, ...], **amounts: int) -> None:
    """Add `amounts` to the given meters."""
    for meter in meters:
        meter.cost = meter.cost + Cost(**amounts)
