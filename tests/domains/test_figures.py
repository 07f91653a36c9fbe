"""Figures of every domain: what is drawn is what was given."""

from __future__ import annotations

import torch
from tiltflow.domains import figures


def test_two_objectives_have_a_line_along_their_front():
    designs = torch.tensor([[0.0, 3.0], [1.0, 2.0], [2.0, 0.0], [0.5, 1.0], [float("nan"), 9.0]])
    front = torch.tensor([True, True, True, False, False])
    (axes,) = figures.pareto({"designs": designs, "natural": designs[:2]}, front, ["qed", "weight"], [False, True]).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("qed", "weight (lower is better)")
    natural, cloud, rings = axes.collections
    assert cloud.get_label() == "designs (4), 1 not finite"
    assert natural.get_label() == "natural (2)"
    assert rings.get_offsets().tolist() == designs[:3].tolist()
    (line,) = axes.lines
    assert line.get_drawstyle() == "steps-pre"
    assert line.get_xdata().tolist() == [0, 1, 2]
    (axes,) = figures.pareto({"designs": designs}, front, ["qed", "weight"], [True, False]).axes
    assert axes.lines[0].get_drawstyle() == "steps-post"


def test_more_objectives_have_a_panel_for_each_pair_and_no_line():
    points = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    figure = figures.pareto({"designs": points}, torch.ones(20, dtype=torch.bool), list("abcd"))
    pairs = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert pairs == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert not any(axes.lines for axes in figure.axes)
    assert figure.axes[5].collections[0].get_offsets().tolist() == points[:, 2:].tolist()
