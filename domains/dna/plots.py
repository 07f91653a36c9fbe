"""The figures of a report: rewards before and after, reward against naturalness, logo, trace of a run, k-mers.

Every function returns a matplotlib `Figure` that belongs to no window and touches no global state; `save` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...dna import ALPHABET
from ..canvas import DESIGNS, INK, NATURAL, PRETRAINED, finish, legend_below, panels, save
from .metrics import site_counts
from .statistics import kmer_spectrum, pearson, reverse_complement_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Outline

    from .reference import Reference

__all__ = ["kmer_scatter", "letter_heights", "logo", "reward_histogram", "reward_vs_naturalness", "save", "trace"]

LETTERS = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00"}  # green, blue, orange, red, as everywhere
_Cloud = tuple[Tensor, Tensor]  # reward [B], NELBO [B] in nats per base


def reward_histogram(before: Tensor, after: Tensor, natural: Tensor | None = None, label: str = "reward") -> Figure:
    """How rewards `before` (pretrained samples) [A] and `after` (designs) [B] are distributed, and `natural` [N].

    `label` is the reward's name with its unit. Rewards that are not finite are counted in the legend, not drawn.
    """
    import numpy as np

    sets = [("natural", natural, NATURAL), ("pretrained", before, PRETRAINED), ("designs", after, DESIGNS)]
    drawn = [(name, _on_cpu(values), colour) for name, values, colour in sets if values is not None]
    figure, (axes,) = panels(1, 7.0, 4.6)
    edges = np.histogram_bin_edges(torch.cat([v[v.isfinite()] for _, v, _ in drawn]).numpy(), bins=30)
    for name, values, colour in drawn:
        _bars(axes, values, edges, colour, name)
    finish(axes, label, "fraction of sequences", "Reward before and after")
    legend_below(axes)
    return figure


def reward_vs_naturalness(
    designs: _Cloud, pretrained: _Cloud | None = None, natural: _Cloud | None = None, label: str = "reward"
) -> Figure:
    """Reward against NELBO under the pretrained model, one dot a sequence; each cloud is (reward [B], NELBO [B]).

    NELBO in nats per base: lower is more natural. Designs far right of the others bought reward with strangeness.
    """
    figure, (axes,) = panels(1, 7.0, 5.2)
    clouds = [
        ("natural", natural, NATURAL, ".", 30),
        ("pretrained", pretrained, PRETRAINED, "o", 26),
        ("designs", designs, DESIGNS, "D", 26),
    ]
    for name, cloud, colour, marker, size in clouds:
        if cloud is not None:
            reward, nelbo = (_on_cpu(values) for values in cloud)
            kept = reward.isfinite() & nelbo.isfinite()
            shown: dict[str, Any] = {"label": _counted(name, kept), "c": colour, "marker": marker, "s": size}
            axes.scatter(nelbo[kept].numpy(), reward[kept].numpy(), alpha=0.65, linewidths=0, **shown)
    x = "NELBO under the pretrained model (nats per base; left: easier to guess)"
    finish(axes, x, label, "Reward against naturalness")
    legend_below(axes)
    return figure


def trace(columns: Mapping[str, Tensor], label: str = "value") -> Figure:
    """Effective sample size and predicted reward along the steps of one run, from noise (t = 1) to data (t = 0).

    `columns`, as `tiltflow.core.observers.Trace.table` gives them, each [S]: "t", "ess" (fraction, 0 to 1),
    "value_q10", "value_median", "value_q90" (in the reward's unit). NaN leaves a gap.
    """
    names = ("t", "ess", "value_q10", "value_median", "value_q90")
    t, ess, low, median, high = (_on_cpu(columns[name]).numpy() for name in names)
    marker = "o" if len(t) == 1 else ""
    figure, (top, bottom) = panels(2, 7.0, 5.2)
    top.plot(t, ess, color=PRETRAINED, linewidth=2, marker=marker)
    top.set_ylim(0, 1.05)
    finish(top, "", "fraction", "Effective sample size along the steps")
    bottom.fill_between(t, low, high, color=DESIGNS, alpha=0.25, linewidth=0)
    bottom.plot(t, median, color=DESIGNS, linewidth=2, marker=marker)
    finish(bottom, "time t (1: noise, 0: data)", "median, 10 to 90 %", f"Value of the particles: {label}")
    bottom.set_xlim(1, 0)
    return figure


def logo(tokens: Tensor, start: int = 1, per_row: int = 40) -> Figure:
    """Sequence logo of `tokens` int64 [B, L]: stacks as high as a site is informative, letters by frequency.

    Height: 2 bits minus the entropy of the site, minus 3 / (2 n ln 2) for the bias of n sequences (Schneider et al.
    1986), not below 0; one sequence alone stands at 2 bits. `start` is the number of the first site. The axis is cut at
    the first of 0.25, 0.5, 1 and 2 bits that holds all stacks.
    """
    heights = letter_heights(tokens)
    rows, width = math.ceil(len(heights) / per_row), min(per_row, len(heights))
    limit = next(top for top in (0.25, 0.5, 1.0, 2.0) if float(heights.sum(1).max()) <= top + 1e-9)
    of = f"{len(tokens)} sequences" if len(tokens) > 1 else "one sequence"
    title = f"Logo of {of} (axis to {limit:g} of 2 bits)"
    figure, strips = panels(rows, max(5.5, 1.2 + 0.245 * width), 0.7 + 1.6 * rows, shared=False)
    for row, axes in enumerate(strips):
        first = row * per_row
        shown = heights[first : first + per_row]
        _stacks(axes, shown, start + first)
        sites = range(start + first, start + first + len(shown))
        axes.set_xticks([site for site in sites if width <= 10 or site % 5 == 0])
        axes.spines["bottom"].set_bounds(sites[0] - 0.6, sites[-1] + 0.4)
        axes.set(xlim=(start + first - 0.6, start + first + width - 0.4), ylim=(0, limit))
        finish(axes, "position (bases)" if row == rows - 1 else "", "information\n(bits)", "" if row else title)
    return figure


def letter_heights(tokens: Tensor) -> Tensor:
    """Height of each letter of the logo of `tokens` int64 [B, L]: float64 [L, 4] in bits. See `logo`."""
    n = len(tokens)
    frequency = site_counts(tokens) / n
    bias = 3 / (2 * n * math.log(2)) if n > 1 else 0.0
    information = 2 - torch.special.entr(frequency).sum(1) / math.log(2) - bias
    return frequency * information.clamp(min=0)[:, None]


def kmer_scatter(
    tokens: Tensor, reference: Reference, k: int = 3, both_strands: bool = False, named: int = 6
) -> Figure:
    """k-mer frequencies of `tokens` int64 [B, L] against natural ones; up to `named` that deviate most bear their names.

    `both_strands`: count every sequence on both, as is fair for samples of a model that was trained on both.
    """
    spectra = [kmer_spectrum(tokens, k), reference.spectrum(k)]
    if both_strands:
        spectra = [(spectrum + reverse_complement_spectrum(spectrum)) / 2 for spectrum in spectra]
    ours, natural = (100 * spectrum for spectrum in spectra)
    figure, (axes,) = panels(1, 5.6, 5.6)
    top = 1.08 * float(torch.maximum(ours, natural).max())
    axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle=":")
    axes.scatter(natural.numpy(), ours.numpy(), s=22, c=DESIGNS, alpha=0.7, linewidths=0)
    for code in _apart(torch.stack([natural, ours], 1) / top, k, named):
        _name_point(axes, _word(code, k), float(natural[code]), float(ours[code]), top)
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    strands = ", both strands" if both_strands else ""
    title = f"{k}-mers{strands}: correlation {pearson(ours, natural):.3f} (dotted: equal)"
    finish(axes, f"in natural promoters (% of {k}-mers)", f"in designs (% of {k}-mers)", title)
    return figure


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


def _stacks(axes: Axes, heights: Tensor, start: int) -> None:
    """Draw stacks of letters, the tallest on top, for `heights` [W, 4] from position `start` on."""
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    for site, column in enumerate(heights.tolist()):
        floor = 0.0
        for height, letter in sorted(zip(column, ALPHABET, strict=True)):
            if height > 0:
                place = Affine2D().scale(0.92, height).translate(start + site - 0.46, floor)
                axes.add_patch(PathPatch(_glyph(letter).transformed(place), facecolor=LETTERS[letter], linewidth=0))
                floor += height


@lru_cache(maxsize=4)
def _glyph(letter: str) -> Outline:
    """The outline of a bold letter, stretched to the unit square."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    outline = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    box = outline.get_extents()
    return outline.transformed(Affine2D().translate(-box.x0, -box.y0).scale(1 / box.width, 1 / box.height))


def _word(code: int, k: int) -> str:
    return "".join(ALPHABET[code // 4**place % 4] for place in reversed(range(k)))


def _apart(points: Tensor, k: int, n: int) -> list[int]:
    """Up to n of `points` [4^k, 2] (in axes) farthest from the diagonal, leaving out those whose names would collide."""
    far = (points[:, 1] - points[:, 0]).abs()
    chosen: list[int] = []
    for code in far.argsort(descending=True).tolist():
        if len(chosen) == n or float(far[code]) < 0.01:
            break
        gap = (points[chosen] - points[code]).abs()
        if not bool(((gap[:, 0] < 0.03 * (k + 1)) & (gap[:, 1] < 0.04)).any()):
            chosen.append(code)
    return chosen


def _name_point(axes: Axes, word: str, x: float, y: float, top: float) -> None:
    """A word beside its dot, on the side away from the diagonal unless that lies outside."""
    left, up = y > x > 0.025 * (len(word) + 1) * top, y > x or y < 0.04 * top
    shift, align = (-5 if left else 5, 3 if up else -9), "right" if left else "left"
    axes.annotate(word, (x, y), shift, textcoords="offset points", ha=align, family="monospace", fontsize=9, color=INK)
