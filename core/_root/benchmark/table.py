"""The numbers of a benchmark: means over seeds, sums over tasks, and who is ahead on how many tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from .plan import Plan
from .published import CALLS, PUBLISHED, Published

DIGITS = 3  # to which numbers were published, and are compared


@dataclass(frozen=True)
class Cell:
    """Top-10 AUC of a method on a task: mean and standard deviation (None of a single run), and of how many runs."""

    mean: float
    std: float | None
    runs: int


@dataclass(frozen=True)
class Column:
    """A method: its cells by task, with those of published ones what is to be known of them."""

    name: str
    cells: Mapping[str, Cell]
    published: Published | None = None

    def total(self, tasks: Sequence[str]) -> float | None:
        """Sum of the means, where there are all."""
        return sum(self.cells[task].mean for task in tasks) if all(task in self.cells for task in tasks) else None


@dataclass(frozen=True)
class Duel:
    """One method against another: tasks on which its mean is higher, lower, and equal to three digits.

    `close` counts those of the higher and lower ones that are apart by no more than the larger of the two deviations.
    """

    one: str
    other: str
    won: int
    lost: int
    even: int
    close: int


def columns(plan: Plan, done: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    """The methods of a benchmark, from the summaries of its finished units."""
    found = []
    for method in plan.methods:
        cells = {}
        for task in plan.tasks:
            values = [
                done[unit.name]["auc_top10"]
                for unit in plan.units
                if unit.settings["method"] == method and unit.settings["task"] == task and unit.name in done
            ]
            if values:
                cells[task] = Cell(mean(values), stdev(values) if len(values) > 1 else None, len(values))
        found.append(Column(method, cells))
    return found


def published(tasks: Sequence[str]) -> list[Column]:
    """What was published on these tasks."""
    return [
        Column(each.name, {task: Cell(*each.auc[task], each.runs) for task in tasks if task in each.auc}, each)
        for each in PUBLISHED
    ]


def comparable(plan: Plan) -> bool:
    """Whether published numbers may be held against this benchmark: an AUC depends on the number of calls."""
    return plan.calls == CALLS


def duel(one: Column, other: Column, tasks: Sequence[str]) -> Duel:
    """Over those of the tasks that both have."""
    shared = [task for task in tasks if task in one.cells and task in other.cells]
    ahead = {task: round(one.cells[task].mean, DIGITS) - round(other.cells[task].mean, DIGITS) for task in shared}
    noise = {task: max(one.cells[task].std or 0.0, other.cells[task].std or 0.0) for task in shared}
    apart = [task for task in shared if not math.isclose(ahead[task], 0.0, abs_tol=1e-9)]
    won = sum(ahead[task] > 0 for task in apart)
    close = sum(abs(ahead[task]) <= noise[task] for task in apart)
    return Duel(one.name, other.name, won, len(apart) - won, len(shared) - len(apart), close)


def duels(plan: Plan, own: Sequence[Column], others: Sequence[Column]) -> list[Duel]:
    """The first method against the other ones, and every method against the published ones where they are comparable."""
    found = [duel(own[0], other, plan.tasks) for other in own[1:]]
    if comparable(plan):
        found += [duel(one, other, plan.tasks) for one in own for other in others]
    return found
