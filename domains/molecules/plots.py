"""Figures of molecules: a grid of structures with their scores, and how descriptors are distributed.

Every function returns a matplotlib `Figure` that belongs to no window and touches no global state; `save` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...molecules import decode
from ...smiles import molecule, quiet
from ..base import Drawing
from ..canvas import DESIGNS, INK, NATURAL, PRETRAINED, finish, legend_below, save, show
from .properties import DESCRIPTORS, properties

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .reference import Reference

__all__ = ["descriptor_histograms", "grid", "report_figures", "save", "show"]

SHOWN = ("qed", "logp", "weight", "tpsa", "rings", "rotatable")
NAMES = {
    "qed": "QED (drug-likeness, 0 to 1)",
    "logp": "logP (Crippen)",
    "weight": "molecular weight (Da)",
    "tpsa": "TPSA (square angstrom)",
    "rings": "rings",
    "rotatable": "rotatable bonds",
}


def report_figures(sets: Mapping[str, Any], reference: Reference | None = None) -> Iterator[Drawing]:
    """What a report shows beside the figures of every domain: the best designs, and descriptors of all sets."""
    designs = sets["steered"]
    yield Drawing(
        "molecules",
        grid(designs.x, designs.reward),
        "The designs of highest reward, each molecule once. Under each stands its reward.",
    )
    yield Drawing(
        "descriptors",
        descriptor_histograms({name: sets[name].x for name in sets if name in _LOOKS}, reference),
        "How descriptors are distributed in the sets. Where the designs leave the range of natural molecules although nobody "
        "asked for it, the reward pays for something else than was meant.",
    )


def grid(
    tokens: Tensor,
    scores: Tensor | None = None,
    *,
    columns: int = 4,
    most: int = 12,
    legends: Sequence[str] | None = None,
    title: str = "Designs of highest reward",
) -> Figure:
    """Structures of molecules int64 `[B, L]`, the highest of `scores` `[B]` first, each molecule once; at most `most`.

    `legends`: B texts to write below instead of the scores.
    """
    from matplotlib.figure import Figure

    rows = _best(tokens, scores, most)
    height = max(1, math.ceil(len(rows) / columns))
    figure = Figure(figsize=(2.6 * columns, 2.75 * height + 0.4), layout="constrained", facecolor="white")
    figure.suptitle(title if rows else f"{title}: no valid molecule", fontsize=12, color=INK, x=0.01, ha="left")
    cells = figure.subplots(height, columns, squeeze=False).flatten()
    for axes in cells:
        axes.set_axis_off()
    for axes, (row, smiles) in zip(cells, rows, strict=False):
        axes.imshow(picture(smiles), interpolation="lanczos")
        text = legends[row] if legends is not None else "" if scores is None else f"{float(scores[row]):.3f}"
        axes.set_title(text, fontsize=10, color=INK, y=-0.08)
    return figure


def _best(tokens: Tensor, scores: Tensor | None, most: int) -> list[tuple[int, str]]:
    """(row, SMILES) of the best distinct molecules; what has no finite score comes last."""
    order = (
        range(len(tokens)) if scores is None else scores.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)
    )
    texts, seen = decode(tokens), dict[str, int]()
    for row in map(int, order):
        if texts[row]:
            seen.setdefault(texts[row], row)
    return [(row, text) for text, row in seen.items()][:most]


def picture(smiles: str, size: int = 420) -> NDArray[np.uint8]:
    """The structure as rdkit draws it: `[size, size, 3]`.

    Raises:
        MoleculeError: the SMILES is none.
    """
    import io

    from matplotlib.image import imread
    from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DCairo, PrepareAndDrawMolecule

    with quiet():
        canvas = MolDraw2DCairo(size, size)
        look: Any = canvas.drawOptions()
        look.padding, look.bondLineWidth = 0.08, 2
        PrepareAndDrawMolecule(canvas, molecule(smiles))
        canvas.FinishDrawing()
    shades = imread(io.BytesIO(canvas.GetDrawingText()), format="png")[..., :3]
    return np.asarray(np.round(shades * 255), dtype=np.uint8)


_LOOKS = {"natural": NATURAL, "pretrained": PRETRAINED, "steered": DESIGNS}
_CALLED = {"natural": "natural", "pretrained": "pretrained", "steered": "designs"}


def descriptor_histograms(sets: Mapping[str, Tensor], reference: Reference | None = None) -> Figure:
    """Histograms of six descriptors; `sets` are tokens `[B, L]` by the names natural, pretrained and steered.

    `reference`: take natural from it, where it is not among the sets.
    """
    from matplotlib.figure import Figure

    values = {name: _descriptors(tokens) for name, tokens in sets.items()}
    if "natural" not in values and reference is not None:
        values = {"natural": reference.descriptors.double().numpy(), **values}
    figure = Figure(figsize=(10.5, 6.2), layout="constrained", facecolor="white")
    cells = figure.subplots(2, 3).flatten()
    for axes, name in zip(cells, SHOWN, strict=True):
        _histogram(axes, name, {each: found[:, list(DESCRIPTORS).index(name)] for each, found in values.items()})
    legend_below(cells[3])
    return figure


def _descriptors(tokens: Tensor) -> NDArray[np.float64]:
    found = [properties(text).descriptors for text in decode(tokens) if text]
    return np.stack(found) if found else np.zeros((0, len(DESCRIPTORS)))


def _histogram(axes: Axes, name: str, values: Mapping[str, NDArray[np.float64]]) -> None:
    """One descriptor; counts as fractions of each set, whole numbers in bins of their own."""
    whole = name in ("rings", "rotatable")
    every = np.concatenate(list(values.values())) if values else np.zeros(0)
    if not len(every):
        every = np.zeros(1)
    edges: Any = np.arange(-0.5, every.max() + 1.5) if whole else np.histogram_bin_edges(every, bins=24)
    for each in (set_name for set_name in _LOOKS if set_name in values):
        found = values[each]
        weights = np.full(len(found), 1 / max(1, len(found)))
        style: dict[str, Any] = {"color": _LOOKS[each], "label": _CALLED[each]}
        if each == "natural":
            axes.hist(found, edges, weights=weights, alpha=0.45, **style)
        else:
            axes.hist(found, edges, weights=weights, histtype="step", linewidth=2, **style)
    finish(axes, NAMES[name], "fraction of the set" if name in ("qed", "tpsa") else "", "")
