"""Observers: progress, traces and early stops, passed in as `observe=[...]` and never built into a loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .particles import Particles, ess


class Observer(Protocol):
    """Called with the state after every step; a true answer stops the steering (the rest runs unguided).

    An observer's `close()`, if it has one, is called at the end, also after an error or an early stop.
    """

    def __call__(self, state: Particles) -> bool | None: ...


def quantiles(values: Tensor, levels: Sequence[float]) -> list[float]:
    """Quantiles of the finite ones among values `[B]`, interpolated; NaN where there is none."""
    finite = values[values.isfinite()].double()
    return finite.quantile(finite.new_tensor(levels)).tolist() if len(finite) else [math.nan] * len(levels)


@dataclass
class Trace:
    """Records, per step: time, effective sample size as a fraction, quantiles of the value, network rows, reward calls.

    The effective sample size is the mean over groups. A group of one particle has none: NaN, for methods such as SVDD whose
    samples never compete (what their final weights are worth is `particles.ess(samples.log_weight)`). Used for a second
    run, a trace starts anew.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, state: Particles) -> None:
        if state.index <= 1:
            self.rows = []
        size = state.grouped.shape[1]
        low, median, high = quantiles(state.value, (0.1, 0.5, 0.9))
        self.rows.append(
            {
                "t": state.t,
                "ess": float(ess(state.grouped).mean() / size) if size > 1 else math.nan,
                "value_q10": low,
                "value_median": median,
                "value_q90": high,
                "forward_rows": state.cost.forward_rows,
                "reward_calls": state.cost.reward_calls,
            }
        )

    def table(self) -> dict[str, Tensor]:
        """1-D float64 tensors by column, one entry a step."""
        return {name: torch.tensor([row[name] for row in self.rows]).double() for name in (self.rows or [{}])[0]}


@dataclass
class Progress:
    """A progress bar on the terminal, with the median value so far."""

    title: str = "steering"
    _bar: Any = field(default=None, repr=False)
    _task: Any = field(default=None, repr=False)

    def __call__(self, state: Particles) -> None:
        if self._bar is None:
            self._open(state.total)
        self._bar.update(self._task, completed=state.index, value=quantiles(state.value, (0.5,))[0])

    def _open(self, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("median value {task.fields[value]:.2f}"))
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=total, value=0.0)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@dataclass(frozen=True)
class StopWhen:
    """Early stop: as soon as `condition(state)` is true.

    >>> StopWhen(lambda state: state.cost.seconds > 60)  # doctest: +ELLIPSIS
    StopWhen(condition=...)
    """

    condition: Callable[[Particles], bool]

    def __call__(self, state: Particles) -> bool:
        return bool(self.condition(state))
