"""The figure: top-10 AUC of each task, a dot for each method, and the published ones in grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..domains.canvas import INK, finish
from .plan import Plan
from .table import Column, comparable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008): colours that colour-blind readers can tell apart
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = {"Graph GA": "s", "Genetic GFN": "^", "GenMol": "D"}  # of the published ones that are drawn
SPREAD = 0.5  # height over which the dots of a task are spread, in rows


def draw(plan: Plan, own: Sequence[Column], theirs: Sequence[Column]) -> Figure:
    """A row for each task, the first at the top; published numbers only where they are for as many calls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.8 + 0.42 * len(plan.tasks)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    rows = {task: len(plan.tasks) - 1 - index for index, task in enumerate(plan.tasks)}
    if comparable(plan):
        for column in theirs:
            if column.name in MARKERS:
                _dots(axes, column, rows, 0.0, "#999999", MARKERS[column.name], filled=False)
    for index, column in enumerate(own):
        shift = SPREAD * (0.5 - (index + 0.5) / len(own))
        _dots(axes, column, rows, shift, COLOURS[index % len(COLOURS)], "o", filled=True)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    finish(axes, f"top-10 AUC in {plan.calls} calls (mean and standard deviation over runs)", "task", plan.name)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=10, labelcolor=INK)
    return figure


def _dots(
    axes: object, column: Column, rows: dict[str, int], shift: float, colour: str, marker: str, *, filled: bool
) -> None:
    cells = [(column.cells[task], row + shift) for task, row in rows.items() if task in column.cells]
    if not cells:
        return
    screened = column.published is not None and column.published.screened
    label = column.name + (", published" if column.published else "") + (", screened" if screened else "")
    axes.errorbar(  # type: ignore[attr-defined]
        [cell.mean for cell, _ in cells],
        [height for _, height in cells],
        xerr=[cell.std or 0.0 for cell, _ in cells],
        fmt=marker,
        color=colour,
        markersize=5,
        markerfacecolor=colour if filled else "none",
        elinewidth=1,
        label=label,
    )
