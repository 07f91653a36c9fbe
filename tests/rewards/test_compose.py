"""Sums, constraints and targets: arithmetic by hand, what follows from the parts, and what is refused."""

from __future__ import annotations

import importlib
import math

import pytest
import tiltflow.rewards
import torch
from tiltflow import dna
from tiltflow.rewards import (
    Chebyshev,
    GcWindow,
    GeometricMean,
    Homopolymer,
    MotifOccupancy,
    Repeats,
    Require,
    Sum,
    Target,
    Term,
)
from torch import Tensor

TOKENS = torch.randint(4, (16, 20), generator=torch.Generator().manual_seed(0))


class Given:
    """A reward with chosen values that counts its calls."""

    def __init__(self, values: list[float], takes: str = "tokens", alphabet: str | None = None) -> None:
        self.values, self.takes, self.alphabet, self.calls = torch.tensor(values), takes, alphabet, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.values


def test_sum_is_the_weighted_sum_with_directions() -> None:
    up, down = Given([1.0, 2.0, -3.0]), Given([0.5, -math.inf, 4.0])
    total = Sum([Term(up, 2.0, "maximize", "up"), Term(down, 3.0, "minimize", "down")])
    assert total(torch.zeros(3, 1)).tolist() == [0.5, math.inf, -18.0]


def test_parts_are_the_rewards_own_values_and_combine_to_the_sum() -> None:
    up, limit = Given([1.0, 2.0, 3.0]), Given([0.1, 0.2, math.nan])
    total = Sum([Term(up, 2.0, "minimize", "up"), Require(limit, at_most=0.15, name="limit")])
    x = torch.zeros(3, 1)
    parts = total.parts(x)
    assert list(parts) == ["up", "limit"]
    assert parts["up"].tolist() == [1, 2, 3]
    assert parts["limit"].tolist()[:2] == [0, -math.inf]
    assert total.combine(parts)[:2].tolist() == total(x)[:2].tolist() == [-2, -math.inf]
    assert bool(total(x)[2].isnan())


def test_directions_are_those_of_the_objectives() -> None:
    up, down = Given([1.0]), Given([2.0])
    total = Sum([Term(up, 1, "maximize", "up"), Require(up, at_least=0), Term(down, 1, "minimize", "down")])
    assert list(total.directions.items()) == [("up", "maximize"), ("down", "minimize")]


def test_every_reward_is_evaluated_once() -> None:
    shared, other = Given([1.0]), Given([2.0])
    total = Sum([Term(shared, 1, "maximize"), Require(shared, at_least=0.0), Term(other, 1, "maximize", "other")])
    assert total(torch.zeros(1, 1)).tolist() == [3.0]
    assert (shared.calls, other.calls) == (1, 1)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"at_least": 1.0}, [-math.inf, 0, 0, -math.inf]),
        ({"at_most": 1.0}, [0, 0, -math.inf, 0]),
        ({"at_least": 1, "at_most": 1}, [-math.inf, 0, -math.inf, -math.inf]),
    ],
)
def test_require_includes_its_bounds_and_keeps_failures(bounds: dict[str, float], expected: list[float]) -> None:
    values = Require(Given([0.0, 1.0, 2.0, -math.inf, math.nan]), **bounds)(torch.zeros(5, 1)).tolist()
    assert values[:4] == expected
    assert math.isnan(values[4])


def test_target_costs_one_or_a_half_at_one_width() -> None:
    values, x = Given([3.0, 1.0, 5.0, 7.0]), torch.zeros(4, 1)
    assert Target(values, level=3, width=2)(x).tolist() == [0, -1, -1, -2]
    assert Target(values, level=3, width=2, shape="gaussian")(x).tolist() == [0, -0.5, -0.5, -2]


def test_what_a_sum_takes_follows_from_its_parts() -> None:
    gc, motif, repeats = GcWindow(0.4, 0.6), MotifOccupancy("TATA"), Repeats(5)
    smooth = Sum([Term(gc, 1, "maximize"), Term(Target(motif, 2.0), 1, "maximize")])
    assert (smooth.takes, smooth.differentiable, smooth.alphabet) == ("relaxed", True, "ACGT")
    hard = Sum([Term(motif, 1, "maximize"), Require(gc, at_least=0)])
    assert (hard.takes, hard.differentiable) == ("relaxed", False)
    mixed = Sum([Term(motif, 1, "maximize"), Term(repeats, 1, "maximize")])
    assert (mixed.takes, mixed.differentiable) == ("tokens", False)
    plain = Sum([Term(lambda x: x.sum(-1), 1, "maximize", "any")])
    assert (plain.takes, plain.differentiable, plain.alphabet) == ("tokens", False, None)


def test_relaxed_sum_equals_the_token_sum_and_has_the_right_gradient() -> None:
    motif = MotifOccupancy("TATA")
    total = Sum([Term(Target(motif, 2.0, shape="gaussian"), 0.5, "maximize"), Term(Homopolymer(2), 2.0, "minimize")])
    assert torch.equal(total(dna.one_hot(TOKENS)), total(TOKENS))
    relaxed = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(total, relaxed.requires_grad_())


def test_foreign_rewards_may_return_lists() -> None:
    assert Sum([Term(lambda x: [1.0, 2.0], 2, "minimize", "list")])(torch.zeros(2, 1)).tolist() == [-2, -4]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Term(GcWindow(0, 1), 1.0), TypeError, "direction"),  # type: ignore[call-arg]
        (lambda: Term(GcWindow(0, 1), 1.0, "max"), ValueError, "direction 'max' of GcWindow"),  # type: ignore[arg-type]
        (lambda: Term(GcWindow(0, 1), -1.0, "maximize"), ValueError, "weight -1.0.*direction says which way"),
        (lambda: Term(GcWindow(0, 1), math.nan, "maximize"), ValueError, "weight nan"),
        (lambda: Term("expression", 1.0, "maximize"), TypeError, "'expression' is not a reward"),  # type: ignore[arg-type]
        (lambda: Require(GcWindow(0, 1)), ValueError, "at_least or at_most"),
        (lambda: Require(GcWindow(0, 1), at_least=2, at_most=1), ValueError, "from 2 to 1"),
        (lambda: Require(GcWindow(0, 1), at_least=math.nan), ValueError, "from nan"),
        (lambda: Target(GcWindow(0, 1), 1, width=0), ValueError, "width 0"),
        (lambda: Target(GcWindow(0, 1), math.inf), ValueError, "level inf"),
        (lambda: Target(GcWindow(0, 1), 1, shape="square"), ValueError, "shape 'square'"),  # type: ignore[arg-type]
        (lambda: Sum([]), ValueError, "Sum of nothing"),
        (lambda: Sum([GcWindow(0, 1)]), TypeError, "expected a Term"),  # type: ignore[list-item]
        (
            lambda: Sum([Term(GcWindow(0, 1), 1, "maximize"), Term(GcWindow(0.5, 1), 1, "maximize")]),
            ValueError,
            "two terms are called GcWindow",
        ),
        (
            lambda: Sum([Term(GcWindow(0, 1), 1, "maximize"), Term(Given([1.0], alphabet="ACDE"), 1, "maximize")]),
            ValueError,
            "GcWindow reads ACGT, Given reads ACDE",
        ),
        (
            lambda: Sum([Term(GcWindow(0, 1), 1, "maximize"), Term(Given([1.0], takes="samples"), 1, "maximize")]),
            ValueError,
            "GcWindow takes relaxed, Given takes samples",
        ),
        (
            lambda: Sum([Term(lambda x: torch.zeros(len(x), 1), 1, "maximize", "wide")])(TOKENS),
            ValueError,
            r"returned shape \[16, 1\]",
        ),
        (lambda: Target(lambda x: ["a"], 1)(TOKENS), ValueError, "did not return numbers"),
    ],
)
def test_bad_input_is_named(build, error, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        build()


def test_public_names_resolve_whatever_was_imported_before() -> None:
    pytest.importorskip("tiltflow.rewards.expression")
    for home in tiltflow.rewards._HOMES:
        importlib.import_module(f"tiltflow.rewards.{home}")
    for name in tiltflow.rewards.__all__:
        assert callable(getattr(tiltflow.rewards, name))
    assert sorted(tiltflow.rewards.__all__) == dir(tiltflow.rewards)
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        tiltflow.rewards.Missing  # noqa: B018


# geometric means and distances from an ideal


def test_geometric_mean_by_hand() -> None:
    one, other = Given([0.25, 0.0, 1.0, -math.inf]), Given([1.0, 1.0, 1.0, 1.0])
    mean = GeometricMean([Term(one, 1.0, "maximize", "one"), Term(other, 3.0, "maximize", "other")])
    assert mean(torch.zeros(4, 1)).tolist() == pytest.approx([0.25**0.25, 0, 1, -math.inf])


def test_chebyshev_by_hand() -> None:
    up, down = Given([1.0, 3.0, -math.inf]), Given([2.0, 0.5, 0.0])
    distance = Chebyshev([Term(up, 2.0, "maximize", "up"), Term(down, 1.0, "minimize", "down")], [3, 0], rho=0.5)
    assert distance(torch.zeros(3, 1)).tolist() == [-(4 + 0.5 * 6), -(0.5 + 0.5 * 0.5), -math.inf]


def test_chebyshev_finds_the_middle_of_a_hollow_front_where_no_weighted_sum_does() -> None:
    one, other = Given([0.0, 0.4, 1.0]), Given([1.0, 0.4, 0.0])
    terms = [Term(one, 1.0, "maximize", "one"), Term(other, 1.0, "maximize", "other")]
    x = torch.zeros(3, 1)
    assert int(Chebyshev(terms, [1, 1])(x).argmax()) == 1
    for weight in (0.5, 0.9, 1.0, 1.1, 2.0):
        total = Sum([Term(one, weight, "maximize", "one"), Term(other, 1.0, "maximize", "other")])
        assert int(total(x).argmax()) != 1


def test_hard_constraints_stand_in_every_combination() -> None:
    score, limit = Given([0.5, 0.5, 0.5]), Given([1.0, 2.0, math.nan])
    terms = [Term(score, 1.0, "maximize", "score"), Require(limit, at_most=1, name="limit")]
    for reward in (GeometricMean(terms), Chebyshev(terms, [0.5])):
        values = reward(torch.zeros(3, 1)).tolist()
        assert values[:2] == [
            pytest.approx(reward.combine({"score": score.values[:1], "limit": torch.zeros(1)})),
            -math.inf,
        ]
        assert math.isnan(values[2])
        assert list(reward.parts(torch.zeros(3, 1))) == ["score", "limit"]


def test_combinations_are_differentiable_where_their_terms_are() -> None:
    motif, gc = MotifOccupancy("TATA"), GcWindow(0.0, 1.0)
    mean = GeometricMean([Term(motif, 2.0, "maximize"), Term(MotifOccupancy("GGG"), 1.0, "maximize", "other")])
    relaxed = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(mean, relaxed.requires_grad_())
    assert (mean.takes, mean.differentiable, mean.alphabet) == ("relaxed", True, "ACGT")
    assert not Chebyshev([Term(motif, 1.0, "maximize"), Require(gc, at_least=0)], [1.0]).differentiable


def test_symbols_of_several_letters_are_one_alphabet() -> None:
    one, other = Given([1.0], alphabet=("[C]", "[O]")), Given([1.0], alphabet=("[C]", "[N]"))  # type: ignore[arg-type]
    assert Sum([Term(one, 1, "maximize")]).alphabet == ("[C]", "[O]")
    one.name = "a"  # type: ignore[attr-defined]
    terms = [Term(one, 1, "maximize"), Term(other, 1, "maximize", "other")]
    with pytest.raises(ValueError, match=r"different alphabets: a reads \[C\] \[O\], Given reads \[C\] \[N\]"):
        Sum(terms)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GeometricMean([]), "a GeometricMean of nothing"),
        (lambda: Chebyshev([Require(GcWindow(0, 1), at_least=0)], []), "a Chebyshev of nothing"),
        (lambda: GeometricMean([Term(GcWindow(0, 1), 1, "minimize")]), "GcWindow to be minimised in a GeometricMean"),
        (lambda: Chebyshev([Term(GcWindow(0, 1), 1, "maximize")], [1, 2]), "one finite number for each of GcWindow"),
        (lambda: Chebyshev([Term(GcWindow(0, 1), 1, "maximize")], [1], rho=-1), "rho -1"),
        (
            lambda: GeometricMean([Term(Given([-0.5]), 1, "maximize")])(torch.zeros(1, 1)),
            "a reward of -0.5 in a GeometricMean",
        ),
    ],
)
def test_impossible_combinations_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
