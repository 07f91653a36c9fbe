"""The look of all figures of the domains: palette, panels, labels, and how they are written.

Figures are plain matplotlib `Figure` objects: no windows, no pyplot, no global state. Colours are those of Okabe and Ito
(2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..core.storage import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NATURAL, PRETRAINED, DESIGNS, INK = "#999999", "#0072B2", "#D55E00", "#333333"


def panels(rows: int, width: float, height: float, shared: bool = True) -> tuple[Figure, Sequence[Axes]]:
    """A figure of `width` x `height` inches with `rows` panels, one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, list(figure.subplots(rows, 1, squeeze=False, sharex=shared)[:, 0])


def finish(axes: Axes, x: str, y: str, title: str) -> None:
    """The house style, on one panel; long names are broken into lines."""
    axes.set_xlabel(fill(x, 75), fontsize=11, color=INK)
    axes.set_ylabel("\n".join(fill(line, 40) for line in y.split("\n")), fontsize=11, color=INK)
    axes.set_title(fill(title, 70), fontsize=12, color=INK, loc="left", pad=8)
    axes.tick_params(labelsize=10, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)


def legend_below(axes: Axes) -> None:
    """The legend under the label of the x axis, where it can hide no data."""
    from matplotlib.transforms import ScaledTranslation

    drop = 22 + 15 * (1 + axes.get_xlabel().count("\n"))  # points: tick labels, and the lines of the label
    below = axes.transAxes + ScaledTranslation(-8 / 72, -drop / 72, axes.figure.dpi_scale_trans)
    anchor: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below, "borderpad": 0.2}
    axes.legend(frameon=False, fontsize=10, labelcolor=INK, **anchor)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG of 150 dots per inch, whole or not at all. Raises: StorageError if it cannot be written."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def show(figure: Figure, path: str | Path) -> None:
    """`save`, say where, and in a notebook display the picture too. Raises: StorageError if it cannot be written."""
    save(figure, path)
    print("figure:", path)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from IPython.display import Image, display

        display(Image(filename=str(path), width=700))
