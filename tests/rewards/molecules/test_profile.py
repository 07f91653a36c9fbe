"""Several properties in one number: arithmetic by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from tiltflow.rewards.molecules import Descriptor, Part, Profile, Ramp, Smarts, parse

METHANE = parse("C")


def constant(value: float) -> Callable[[Any], float]:
    return lambda mol: value


def parts(*pairs: tuple[float, float]) -> list[Part]:
    return [Part(constant(value), None, weight, name=str(n)) for n, (value, weight) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", (0.25 + 3 * 0.5) / 4),
        ("geometric", (0.25 * 0.5**3) ** (1 / 4)),
        ("chebyshev", 1 - 1.5 - 0.1 * (0.75 + 1.5)),
    ],
)
def test_values_by_hand(how: Any, expected: float) -> None:
    profile = Profile(parts((0.25, 1), (0.5, 3)), how, rho=0.1)
    assert profile(METHANE) == pytest.approx(expected)
    assert profile.combine([1, 1]) == pytest.approx(1)


def test_a_useless_part_makes_the_geometric_mean_useless() -> None:
    assert Profile(parts((0, 1), (1, 100)))(METHANE) == 0


@pytest.mark.parametrize("how", ["mean", "geometric", "chebyshev"])
def test_never_stays_never(how: Any) -> None:
    assert Profile(parts((-math.inf, 1), (1, 1)), how)(METHANE) == -math.inf
    ruled = Profile([Part(Descriptor("heavy_atoms"))], how, rules=[Smarts(forbid="[#7]")], rho=0)
    assert (ruled(parse("CC")), ruled(parse("CN"))) == (2, -math.inf)
    assert Part(constant(-math.inf), Ramp(0, 1))(METHANE) == -math.inf


def test_a_broken_rule_is_asked_first() -> None:
    def never(mol: Any) -> float:
        raise AssertionError

    assert Profile([Part(never)], rules=[constant(-math.inf)])(METHANE) == -math.inf


def test_parts_are_reported_by_name() -> None:
    profile = Profile([Part(Descriptor("heavy_atoms"), Ramp(0, 4)), Part(Descriptor("rings"), name="cycles")])
    assert profile.values(parse("C1CC1")) == {"heavy_atoms": 0.75, "cycles": 1}
    assert profile.name == "geometric of heavy_atoms, cycles"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Profile([]), ValueError, "at least one Part"),
        (lambda: Profile([Descriptor("qed")]), ValueError, "at least one Part"),  # type: ignore[list-item]
        (lambda: Profile([Part(Descriptor("qed"))] * 2), ValueError, "two parts are called qed; give them a name="),
        (lambda: Profile(parts((1, 1)), "median"), ValueError, "how 'median'"),  # type: ignore[arg-type]
        (lambda: Profile(parts((1, 1)), rho=-1), ValueError, "rho -1"),
        (lambda: Part("qed"), TypeError, "expected a scorer"),  # type: ignore[arg-type]
        (lambda: Part(Descriptor("qed"), weight=0), ValueError, "weight 0 of qed"),
        (lambda: Profile(parts((-0.5, 1)))(METHANE), ValueError, "0 is -0.5: a geometric mean needs numbers >= 0"),
    ],
)
def test_impossible_profiles_are_refused(build: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
