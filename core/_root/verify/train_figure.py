"""The figure of trainers: the optimality gap before and after, a panel for each world, and the bias of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..domains.canvas import DESIGNS, INK, NATURAL, PRETRAINED, finish
from .bias import Bias
from .run import Result
from .train import Trained
from .train_report import by_world, name
from .trainers import TRAINERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 2
SMALLEST, LARGEST = 1e-5, 10.0  # gaps beyond are drawn at the edge: rounding, and models that ran away
INCH = 0.27  # height of a row


def draw(result: Result) -> Figure:
    """Panels of rows, two side by side."""
    from matplotlib.figure import Figure

    parts: list[list[Trained] | list[Bias]] = [*by_world(result.trained)]
    if result.biases:
        parts.append(result.biases)
    columns = min(COLUMNS, len(parts))
    lines = [parts[i : i + columns] for i in range(0, len(parts), columns)]
    heights = [1.1 + INCH * max(map(len, line)) for line in lines]
    figure = Figure(figsize=(1 + 5.2 * columns, sum(heights)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
    for axes, line in zip(panels, lines, strict=True):
        for panel, part in zip(axes, line, strict=False):
            _gaps(panel, part) if isinstance(part[0], Trained) else _biases(panel, part)
        for panel in axes[len(line) :]:
            panel.set_visible(False)
    figure.legend(handles=_legend(), loc="outside lower left", ncols=4, frameon=False, fontsize=10, labelcolor=INK)
    return figure


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    none: dict[str, Any] = {"linestyle": "none", "marker": "o"}
    return [
        Line2D([], [], color=INK, markerfacecolor="white", label="pretrained", **none),
        Line2D([], [], color=DESIGNS, label="trained", **none),
        Line2D([], [], color=NATURAL, label="trained, does not aim at p*", **none),
        Line2D([], [], color=INK, linestyle="--", label="floor (exact ascent)"),
    ]


def _gaps(axes: Axes, rows: Sequence[Trained]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    for place, row in enumerate(rows):
        aims = row.method not in TRAINERS or TRAINERS[row.method].aims
        colour = (INK if row.method == "exact" else DESIGNS) if aims else NATURAL
        ends = _drawn(row.before), _drawn(row.gap)
        axes.plot(ends, (place, place), color="#cccccc", linewidth=1.2, zorder=1)
        axes.plot(ends[0], place, "o", color=INK, markerfacecolor="white", markersize=5, zorder=2)
        axes.plot(ends[1], place, ">" if row.gap > LARGEST else "o", color=colour, markersize=6, zorder=3)
    if rows[0].floor > SMALLEST:
        axes.axvline(rows[0].floor, color=INK, linewidth=1, linestyle="--")
    shown = [_drawn(x) for row in rows for x in (row.before, row.gap)]
    low, high = min(shown) / 2, max(shown) * 2
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 300 * low else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _rows(axes, [name(row) for row in rows])
    finish(axes, "optimality gap, in units of the reward", "", rows[0].world)


def _drawn(gap: float) -> float:
    return min(max(gap, SMALLEST), LARGEST) if math.isfinite(gap) else LARGEST


def _biases(axes: Axes, biases: Sequence[Bias]) -> None:
    shown = [bias for bias in biases if bias.bias is not None]
    for place, bias in enumerate(shown):
        judged = bias.outcome is not None
        axes.errorbar(
            bias.bias or 0.0,
            place,
            xerr=bias.error,
            fmt="o",
            color=PRETRAINED if judged else DESIGNS,
            markersize=5,
            capsize=2,
        )
    axes.axvline(0, color=INK, linewidth=1)
    _rows(axes, [f"{name(bias)} ({bias.world.removeprefix('train-')})" for bias in shown])
    finish(axes, "relative bias of the gradient", "", "gradients (blue: claim to have none)")


def _rows(axes: Axes, names: list[str]) -> None:
    """One below the other, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
