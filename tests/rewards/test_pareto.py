"""Fronts and volumes by hand, and against a plain search and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.rewards import hypervolume, pareto_front
from torch import Tensor


def points(count: int, objectives: int, seed: int) -> Tensor:
    return torch.rand(count, objectives, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_front_by_hand() -> None:
    values = torch.tensor([[1.0, 4.0], [2, 3], [2, 2], [4, 1], [4, 1], [0, 0], [math.nan, 9]])
    assert pareto_front(values).tolist() == [True, True, False, True, True, False, False]
    assert pareto_front(torch.zeros(0, 2)).tolist() == []
    assert pareto_front(torch.tensor([[3.0], [5], [5]])).tolist() == [False, True, True]


@pytest.mark.parametrize("objectives", [2, 3, 5])
def test_a_front_against_a_plain_search(objectives: int) -> None:
    values = (points(150, objectives, seed=objectives) * 8).round()  # with ties
    rows = values.tolist()
    plain = [not any(all(b >= a for a, b in zip(me, you, strict=True)) and you != me for you in rows) for me in rows]
    assert pareto_front(values).tolist() == plain


def test_areas_by_hand() -> None:
    # Boxes 1 x 4, 2 x 3 and 4 x 1: their union is 4 + 2 + 2 = 4 * 1 + 2 * 2 + 1 * 1.
    values = torch.tensor([[1.0, 4.0], [2, 3], [4, 1], [1, 1]])
    assert hypervolume(values, [0, 0]) == 9
    assert hypervolume(values, [1, 0]) == 1 * 3 + 2 * 1
    assert hypervolume(values, [9, 9]) == 0
    assert hypervolume(torch.zeros(0, 2), [0, 0]) == 0


def test_volumes_by_hand() -> None:
    # Two boxes 2 x 2 x 1 and 1 x 1 x 3 share 1 x 1 x 1.
    assert hypervolume(torch.tensor([[2.0, 2, 1], [1, 1, 3]]), [0, 0, 0]) == 4 + 3 - 1
    corners = torch.tensor([[2.0, 1, 1], [1, 2, 1], [1, 1, 2], [1, 1, 1]])
    assert hypervolume(corners, [0, 0, 0]) == 1 + 3
    assert hypervolume(torch.zeros(0, 3), [0, 0, 0]) == 0


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
def test_volumes_against_monte_carlo(objectives: int) -> None:
    values, reference = points(30 if objectives < 5 else 12, objectives, seed=1), [0.1] * objectives
    draws = points(200_000, objectives, seed=2)
    covered = (draws >= 0.1).all(1) & torch.stack([(draws <= row).all(1) for row in values]).any(0)
    share = float(covered.double().mean())
    error = math.sqrt(share * (1 - share) / len(draws))
    assert hypervolume(values, reference) == pytest.approx(share, abs=4 * error)


def test_a_third_objective_that_is_equal_gives_area_times_height() -> None:
    values = points(40, 2, seed=3)
    deep = torch.cat([values, torch.full((40, 1), 0.5)], 1)
    assert hypervolume(deep, [0, 0, 0]) == pytest.approx(0.5 * hypervolume(values, [0, 0]))


@pytest.mark.parametrize(
    ("values", "reference", "message"),
    [
        (torch.zeros(3), [0], r"shape \[3\]: expected \[N, M\]"),
        (torch.zeros(3, 1), [0], "one objective: its volume is no more than the best value"),
        (torch.zeros(3, 2), [0] * 3, "expected 2 finite numbers"),
        (torch.zeros(3, 2), [0, -math.inf], "expected 2 finite numbers"),
        (torch.tensor([[math.inf, 1.0]]), [0, 0], "an infinite value"),
    ],
)
def test_impossible_volumes_are_refused(values: Tensor, reference: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hypervolume(values, reference)
