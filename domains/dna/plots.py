"""Figures of sequences: logo and k-mers; and, from `domains.figures`, those that every domain has.

Every function returns a matplotlib `Figure` that belongs to no window and touches no global state; `save` writes it, and
`show` also displays it in a notebook.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...dna import ALPHABET
from ..base import Drawing
from ..canvas import DESIGNS, INK, finish, panels, save, show
from ..figures import reward_histogram, reward_vs_naturalness, trace
from .metrics import site_counts
from .statistics import kmer_spectrum, pearson, reverse_complement_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Outline

    from .reference import Reference

__all__ = [
    "kmer_scatter",
    "letter_heights",
    "logo",
    "report_figures",
    "reward_histogram",
    "reward_vs_naturalness",
    "save",
    "show",
    "trace",
]

LETTERS = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00"}  # green, blue, orange, red, as everywhere


def report_figures(sets: Mapping[str, Any]) -> Iterator[Drawing]:
    """What a report shows beside the figures of every domain: the logo of the designs. `sets` as for `domains.base.Figures`."""
    yield Drawing(
        "logo",
        logo(sets["steered"].x),
        "Which bases the designs share at each position. Low stacks everywhere mean that the designs differ freely; a tall "
        "letter is a base that most of them have, by a constraint or because the reward wants it.",
    )


def logo(tokens: Tensor, start: int = 1, per_row: int = 40, *, title: str | None = None) -> Figure:
    """Sequence logo of `tokens` int64 [B, L]: stacks as high as a site is informative, letters by frequency.

    Height: 2 bits minus the entropy of the site, minus 3 / (2 n ln 2) for the bias of n sequences (Schneider et al.
    1986), not below 0; one sequence alone stands at 2 bits. `start` is the number of the first site. The axis is cut at
    the first of 0.25, 0.5, 1 and 2 bits that holds all stacks, which the title says.
    """
    heights = letter_heights(tokens)
    rows, width = math.ceil(len(heights) / per_row), min(per_row, len(heights))
    limit = next(top for top in (0.25, 0.5, 1.0, 2.0) if float(heights.sum(1).max()) <= top + 1e-9)
    of = f"{len(tokens)} sequences" if len(tokens) > 1 else "one sequence"
    title = f"{title or f'Logo of {of}'} (axis to {limit:g} of 2 bits)"
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
    tokens: Tensor,
    reference: Reference,
    k: int = 3,
    both_strands: bool = False,
    named: int = 6,
    *,
    names: tuple[str, str] = ("designs", "natural promoters"),
    title: str | None = None,
) -> Figure:
    """k-mer frequencies of `tokens` int64 [B, L] against natural ones; up to `named` that deviate most bear their names.

    `both_strands`: count every sequence on both, as is fair for samples of a model that was trained on both. `names`: what
    `tokens` and the sequences of the reference are called; `title`: instead of the words that name k, strands and correlation.
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
    title = title or f"{k}-mers{strands}: correlation {pearson(ours, natural):.3f} (dotted: equal)"
    finish(axes, f"in {names[1]} (% of {k}-mers)", f"in {names[0]} (% of {k}-mers)", title)
    return figure


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
