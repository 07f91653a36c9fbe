"""The figures that every domain has: rewards before and after, reward against naturalness, the trace of a run.

Every function returns a matplotlib `Figure` that belongs to no window and touches no global state; `canvas.save` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .canvas import DESIGNS, INK, NATURAL, PRETRAINED, finish, legend_below, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto", "reward_against_kl", "reward_histogram", "reward_vs_naturalness", "trace", "training"]

_Cloud = tuple[Tensor, Tensor]  # reward [B], NELBO [B] in nats per site


def reward_histogram(
    before: Tensor,
    after: Tensor,
    natural: Tensor | None = None,
    label: str = "reward",
    *,
    names: tuple[str, str, str] = ("pretrained", "designs", "natural"),
    title: str = "Reward before and after",
) -> Figure:
    """How rewards `before` (pretrained samples) [A] and `after` (designs) [B] are distributed, and `natural` [N].

    Rewards that are not finite are counted in the legend, not drawn.

    Args:
        label: the reward's name with its unit. names: of the sets, in the order of the arguments.
    """
    import numpy as np

    sets = zip(names, (before, after, natural), (PRETRAINED, DESIGNS, NATURAL), strict=True)
    drawn = [(name, _on_cpu(values), colour) for name, values, colour in sets if values is not None]
    drawn = drawn[2:] + drawn[:2]  # natural behind the others
    figure, (axes,) = panels(1, 7.0, 4.6)
    edges = np.histogram_bin_edges(torch.cat([v[v.isfinite()] for _, v, _ in drawn]).numpy(), bins=30)
    for name, values, colour in drawn:
        _bars(axes, values, edges, colour, name)
    finish(axes, label, "fraction of the set", title)
    legend_below(axes)
    return figure


def reward_vs_naturalness(
    designs: _Cloud,
    pretrained: _Cloud | None = None,
    natural: _Cloud | None = None,
    label: str = "reward",
    *,
    names: tuple[str, str, str] = ("designs", "pretrained", "natural"),
    title: str = "Reward against naturalness",
    site: str = "site",
) -> Figure:
    """Reward against NELBO under the pretrained model, one dot a sample; each cloud is (reward [B], NELBO [B]).

    NELBO in nats per site. Natural is where the natural cloud is: samples far right of it are like nothing that the model
    knows, and samples far left of it are too easy to guess, such as long runs of one letter.

    Args:
        label: the reward's name with its unit. names: of the clouds, in the order of the arguments.
        site: what one site is called, such as "base".
    """
    figure, (axes,) = panels(1, 7.0, 5.2)
    looks = ((DESIGNS, "D", 26), (PRETRAINED, "o", 26), (NATURAL, ".", 30))
    clouds = list(zip(names, (designs, pretrained, natural), looks, strict=True))
    for name, cloud, (colour, marker, size) in reversed(clouds):  # designs on top
        if cloud is not None:
            reward, nelbo = (_on_cpu(values) for values in cloud)
            kept = reward.isfinite() & nelbo.isfinite()
            shown: dict[str, Any] = {"label": _counted(name, kept), "c": colour, "marker": marker, "s": size}
            axes.scatter(nelbo[kept].numpy(), reward[kept].numpy(), alpha=0.65, linewidths=0, **shown)
    finish(axes, f"NELBO under the pretrained model (nats per {site}; left: easier to guess)", label, title)
    legend_below(axes)
    return figure


def trace(columns: Mapping[str, Tensor], label: str = "value", *, title: str | None = None) -> Figure:
    """Effective sample size and predicted reward along the steps of one run, from noise (t = 1) to data (t = 0).

    `columns`, as `tiltflow.core.observers.Trace.table` gives them, each [S]: "t", "ess" (fraction, 0 to 1; all NaN for a
    method without groups, and then not drawn), "value_q10", "value_median", "value_q90" (in the reward's unit). NaN
    leaves a gap. `title` stands above the value instead of words with `label`.
    """
    names = ("t", "ess", "value_q10", "value_median", "value_q90")
    t, ess, low, median, high = (_on_cpu(columns[name]).numpy() for name in names)
    marker = "o" if len(t) == 1 else ""
    grouped = not bool(columns["ess"].isnan().all())
    figure, rows = panels(1 + grouped, 7.0, 3.2 + 2.0 * grouped)
    if grouped:
        rows[0].plot(t, ess, color=PRETRAINED, linewidth=2, marker=marker)
        rows[0].set_ylim(0, 1.05)
        finish(rows[0], "", "fraction", "Effective sample size of a group along the steps")
    rows[-1].fill_between(t, low, high, color=DESIGNS, alpha=0.25, linewidth=0)
    rows[-1].plot(t, median, color=DESIGNS, linewidth=2, marker=marker)
    finish(rows[-1], "time t (1: noise, 0: data)", "median, 10 to 90 %", title or f"Value along the steps: {label}")
    rows[-1].set_xlim(1, 0)
    return figure


def pareto(
    clouds: Mapping[str, Tensor],
    front: Tensor,
    names: Sequence[str],
    lower: Sequence[bool] = (),
    *,
    title: str = "Objectives against each other",
) -> Figure:
    """Samples by their objectives, a panel for each pair of them; designs that no other design beats have a ring.

    Two objectives have a line along the front: what is below it in both is beaten. With more, the rings are the front of
    all of them together, which may lie inside of the cloud of a pair.

    Args:
        clouds: objectives `[n, M]` of the sets "natural", "pretrained" and "designs"; rows that are not finite are left out.
        front: bool `[n]`, which designs are in the front.
        names: of the M objectives, 2 to 4. lower: which of them are better when lower (default: none).
    """
    from itertools import combinations

    from matplotlib.figure import Figure

    pairs = list(combinations(range(len(names)), 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(max(7.0, 4.4 * columns), 0.8 + 4.2 * rows), layout="constrained", facecolor="white")
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    below = [*lower, *[False] * len(names)][: len(names)]
    axes_names = [f"{name} (lower is better)" * down or name for name, down in zip(names, below, strict=True)]
    for index, (axes, (x, y)) in enumerate(zip(cells, pairs, strict=True)):
        for name, (colour, marker, size) in _SETS.items():
            if name in clouds:
                points = _on_cpu(clouds[name])
                kept = points.isfinite().all(1)
                shown: dict[str, Any] = {"label": _counted(name, kept), "c": colour, "marker": marker, "s": size}
                axes.scatter(points[kept, x].numpy(), points[kept, y].numpy(), alpha=0.65, linewidths=0, **shown)
        best = _on_cpu(clouds["designs"])[front.cpu()][:, [x, y]]
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.2, "s": 60}
        axes.scatter(best[:, 0].numpy(), best[:, 1].numpy(), label=f"front of the designs ({len(best)})", **ring)
        if len(names) == 2:
            ordered = best[best[:, 0].argsort()].numpy()
            # Up to a point from the side on which it beats others.
            axes.step(ordered[:, 0], ordered[:, 1], where="post" if below[0] else "pre", color=INK, linewidth=1)
        finish(axes, axes_names[x], axes_names[y], "" if index else title)
    legend_below(cells[(rows - 1) * columns])
    return figure


_SETS = {"natural": (NATURAL, ".", 30), "pretrained": (PRETRAINED, "o", 26), "designs": (DESIGNS, "D", 26)}


_LOOKS = (
    ("reward_median", "reward, median"),
    ("heldout_median", "held-out reward,\nmedian"),
    ("kmer3_correlation", "3-mer correlation"),
    ("kl", "KL of the path (nats)"),
)


def training(curves: Mapping[str, Sequence[Mapping[str, Any]]], label: str = "reward") -> Figure:
    """Meters along a training: reward, held-out reward, 3-mer correlation and KL against the step, a line for each curve.

    `curves`: by name, rows with "step" and any of the meters (missing or None: not drawn).
    """
    kept = [look for look in _LOOKS if any(row.get(look[0]) is not None for rows in curves.values() for row in rows)]
    figure, panes = panels(max(1, len(kept)), 7.0, 1.0 + 1.9 * max(1, len(kept)))
    for axes, (key, words) in zip(panes, kept, strict=False):
        for (name, rows), colour in zip(curves.items(), (DESIGNS, NATURAL, PRETRAINED), strict=False):
            _line(axes, rows, "step", key, color=colour, label=name, marker="o")
        finish(axes, "", words, f"Along the training: {label}" if key == kept[0][0] else "")
    panes[-1].set_xlabel("training step")
    legend_below(panes[-1])
    return figure


def reward_against_kl(curves: Mapping[str, Sequence[Mapping[str, Any]]], label: str = "reward") -> Figure:
    """Median reward (solid) and held-out reward (dashed) against the KL of the path in nats; `curves` as for `training`.

    Beyond 1 nat the axis is logarithmic where one curve goes far beyond another, which would be a dot otherwise.
    """
    figure, (axes,) = panels(1, 7.0, 4.8)
    ends = [max((row["kl"] for row in rows if row.get("kl") is not None), default=0.0) for rows in curves.values()]
    if max(ends, default=0.0) > 10 * max(1.0, min(ends, default=0.0)):
        axes.set_xscale("symlog", linthresh=1)
    for (name, rows), colour in zip(curves.items(), (DESIGNS, NATURAL, PRETRAINED), strict=False):
        _line(axes, rows, "kl", "reward_median", color=colour, label=name, marker="o")
        if any(row.get("heldout_median") is not None for row in rows):
            look: dict[str, Any] = {"linestyle": "--", "marker": "s", "label": f"{name}, held-out"}
            _line(axes, rows, "kl", "heldout_median", color=colour, **look)
    finish(axes, "KL of the path from the pretrained model's (nats)", label, "Reward against divergence")
    legend_below(axes)
    return figure


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str, **look: Any) -> None:
    """A line through the rows that have both."""
    points = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
    axes.plot([p[0] for p in points], [p[1] for p in points], linewidth=2, markersize=4, **look)


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().double().cpu()


def _counted(name: str, kept: Tensor) -> str:
    """`name` with how many of [B] are shown, and how many are not."""
    missing = len(kept) - int(kept.sum())
    return f"{name} ({int(kept.sum())})" + (f", {missing} not finite" if missing else "")


def _bars(axes: Axes, values: Tensor, edges: Any, colour: str, name: str) -> None:
    """One histogram of `values` [B] as fractions, and a dashed line at the median."""
    kept = values[values.isfinite()]
    text = _counted(name, values.isfinite())
    if len(kept):
        median = float(kept.quantile(0.5))
        text += f", median {median:.3g}"
        axes.axvline(median, color=colour, linewidth=2, linestyle="--")
        # Only the bins between the extremes: the outline would otherwise run along the axis from end to end.
        edges = edges[max(0, (edges <= float(kept.min())).sum() - 1) : (edges < float(kept.max())).sum() + 1]
    shares = [1 / max(1, len(kept))] * len(kept)
    axes.hist(
        kept.numpy(), edges, weights=shares, histtype="stepfilled", fc=(colour, 0.25), ec=colour, lw=1.8, label=text
    )
