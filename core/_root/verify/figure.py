"""The figure: total variation to p* against what a sample costs, a panel for each world, a line for each method and value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..domains.canvas import INK, finish
from .cases import METHODS
from .measure import Point
from .run import Result, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): colours that colour-blind readers can tell apart; the value is told by the stroke
COLOURS = {
    "best_of_n": "#999999",
    "importance": "#000000",
    "svdd": "#D55E00",
    "svdd_argmax": "#E69F00",
    "smc": "#0072B2",
    "twisted_smc": "#56B4E9",
    "doob": "#009E73",
}
STROKES = {"-": "-", "exact": "-", "plug-in": "--", "completions": ":", "rollout": "-."}
MARKERS = {"-": "o", "exact": "o", "plug-in": "s", "completions": "^", "rollout": "D"}
WORDS = {"-": "", "exact": ", exact value", "plug-in": ", plug-in value"}
COLUMNS = 3
LOWEST = 1e-6  # a distance below this is rounding


def draw(result: Result) -> Figure:
    """One panel a world."""
    from matplotlib.figure import Figure

    names = list(result.references)
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.6 + 3.9 * columns, 1.2 + 3.5 * rows), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=False).flatten()
    handles: dict[str, Any] = {}
    for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
        _panel(axes, name, result, handles)
        finish(axes, "reward calls a sample", "" if index % columns else "total variation to p*", name)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK
    )
    return figure


def _panel(axes: Axes, name: str, result: Result, handles: dict[str, Any]) -> None:
    points = [p for p in (*result.rows, *result.points) if p.world == name and METHODS[p.method].drawn]
    pairs = dict.fromkeys((p.method, p.value) for p in points)
    axes.set(xscale="log", yscale="log")
    for method, value in pairs:
        label = METHODS[method].label + WORDS.get(value, f", {value}")
        handles[label] = _line(axes, line(points, name, method, value), COLOURS[method], value)
    if result.reach[name] > LOWEST:
        handles["the sampler's own part"] = axes.axhline(
            result.reach[name], color=INK, linewidth=1, linestyle=(0, (1, 3))
        )
    bottom = min((p.tv for p in points if p.tv > LOWEST), default=1e-3) / 3
    axes.set_ylim(bottom, 1.2)


def _line(axes: Axes, points: list[Point], colour: str, value: str) -> Any:
    """Filled markers: exact, or clear of the noise; open ones: within twice the noise of the draws."""
    x = [max(point.reward_calls, 0.5) for point in points]
    shown = [point.tv for point in points]
    if all(tv <= LOWEST for tv in shown):
        return _at_zero(axes, x[0], colour)
    look: dict[str, Any] = {"color": colour, "marker": MARKERS[value], "markersize": 4.5}
    (handle,) = axes.plot(x, shown, linestyle=STROKES[value], linewidth=1.6, **look)
    blurred = [(a, p.tv) for a, p in zip(x, points, strict=True) if p.tv < 2 * p.floor]
    if blurred:
        axes.plot(*zip(*blurred, strict=True), linestyle="none", markerfacecolor="white", zorder=3, **look)
    return handle


def _at_zero(axes: Axes, x: float, colour: str) -> Any:
    """A distance of 0 has no place on a logarithmic axis: a triangle at its foot."""
    place = axes.get_xaxis_transform()
    (handle,) = axes.plot([x], [0.03], "v", color=colour, markersize=8, transform=place, clip_on=False)
    axes.annotate(
        "0", (x, 0.03), (7, -3), xycoords=place, textcoords="offset points", color=colour, fontsize=10, weight="bold"
    )
    return handle
