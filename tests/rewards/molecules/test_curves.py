"""Desirability curves against values by hand."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiltflow.rewards.molecules import Gauss, Peak, Ramp, Sigmoid, Smooth, Window
from tiltflow.rewards.molecules.curves import Curve

E = math.exp(-0.5)


@pytest.mark.parametrize(
    ("curve", "points"),
    [
        (Ramp(0, 0.8), [(-1, 0), (0, 0), (0.4, 0.5), (0.8, 1), (2, 1)]),
        (Ramp(zero=6, one=2), [(7, 0), (6, 0), (3, 0.75), (2, 1), (0, 1)]),
        (Ramp(0, 2, power=2), [(1, 0.25), (2, 1)]),
        (Peak(0, 4, 6), [(-1, 0), (0, 0), (1, 0.25), (4, 1), (5, 0.5), (6, 0), (9, 0)]),
        (Peak(0, 4, 6, rise=0.5, fall=3), [(1, 0.5), (5, 0.125)]),
        (Window(1, 3, slack=2), [(-1, 0), (0, 0.5), (1, 1), (2, 1), (3, 1), (4, 0.5), (5, 0), (9, 0)]),
        (Window(2, 2, slack=1), [(2, 1), (2.5, 0.5)]),
        (Smooth(0, 4), [(2, 0.5), (4, 1 / (1 + math.exp(-2))), (0, 1 / (1 + math.exp(2)))]),
        (Sigmoid(5, 0.5), [(5, 0.5), (5.5, 1 / (1 + 1 / math.e)), (1e6, 1), (-1e6, 0)]),
        (Sigmoid(5, -0.5), [(5.5, 1 / (1 + math.e))]),
        (Gauss(1, 2), [(1, 1), (3, E), (-1, E), (5, E**4)]),
        (Gauss(1, 2, "above"), [(0, 1), (1, 1), (3, E)]),
        (Gauss(1, 2, "below"), [(-1, E), (1, 1), (30, 1)]),
    ],
)
def test_curves_have_the_values_of_their_formula(curve: Curve, points: list[tuple[float, float]]) -> None:
    for x, expected in points:
        assert curve(x) == pytest.approx(expected, abs=1e-12)


@given(x=st.floats(-1e9, 1e9))
def test_every_curve_stays_between_0_and_1(x: float) -> None:
    for curve in (Ramp(3, 1), Peak(0, 1, 9), Window(1, 2, 1), Smooth(0, 1e-3), Sigmoid(0, -1e-3), Gauss(0, 1e-3)):
        assert 0 <= curve(x) <= 1


def test_smooth_is_as_steep_as_the_straight_line_in_its_middle() -> None:
    smooth, straight, step = Smooth(1, 5), Ramp(1, 5), 1e-6
    slopes = [(curve(3 + step) - curve(3 - step)) / (2 * step) for curve in (smooth, straight)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)


def test_curves_travel_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(Gauss(1, 2, "above"))) == Gauss(1, 2, "above")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ramp(1, 1), "zero and one are both 1"),
        (lambda: Ramp(0, 1, power=0), "power 0"),
        (lambda: Ramp(0, math.nan), "one nan: expected a finite number"),
        (lambda: Peak(0, 0, 1), "rising order"),
        (lambda: Peak(0, 1, 2, fall=-1), "fall -1"),
        (lambda: Window(3, 1, slack=1), "low 3 above high 1"),
        (lambda: Window(1, 3, slack=0), "slack 0"),
        (lambda: Smooth(2, 2), "both 2"),
        (lambda: Sigmoid(2, 0), "width 0"),
        (lambda: Gauss(0, -1), "sigma -1"),
        (lambda: Gauss(0, 1, "left"), "side 'left': expected 'both', 'above' or 'below'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_curves_are_refused(build: Callable[[], Curve], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
