"""The genetic algorithm: deterministic, within its budget, better than where it starts, and fair in choosing parents."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiltflow.domains.molecules.optimise import GraphGA, natural
from tiltflow.domains.molecules.optimise.graph_ga import parents
from tiltflow.domains.molecules.reference import Reference
from tiltflow.rewards import Budget
from tiltflow.rewards.molecules import Descriptor, Molecular, pmo


@pytest.fixture(scope="module")
def domain() -> SimpleNamespace:
    """All that it takes of a domain: natural molecules."""
    return SimpleNamespace(reference=Reference.load())


def record(domain, seed: int = 0, calls: int = 300, ga: GraphGA | None = None) -> list[tuple[str, float]]:
    reward = pmo("isomers_c7h8n2o2", budget=Budget(calls))
    (ga or GraphGA()).run(domain, reward, generator=torch.Generator().manual_seed(seed))
    return [(call.text, call.value) for call in reward.budget.calls]


def test_the_seed_decides_the_record(domain) -> None:
    torch.manual_seed(1)
    first = record(domain, 0, 200)
    torch.manual_seed(2)
    np.random.default_rng(3).random()
    assert record(domain, 0, 200) == first
    assert record(domain, 1, 200) != first


def test_it_gets_better_than_its_start_within_the_budget(domain) -> None:
    calls = record(domain, calls=300)
    assert len(calls) == len({smiles for smiles, _ in calls}) == 300
    values = [value for _, value in calls]
    start, end = sorted(values[:120])[-10:], sorted(values)[-10:]
    assert np.mean(end) > np.mean(start) + 0.2
    assert [smiles for smiles, _ in calls[:120]] == natural(domain, 120, _same_rng(0))


def _same_rng(seed: int) -> np.random.Generator:
    from tiltflow.domains.molecules.optimise import numpy_generator

    return numpy_generator(torch.Generator().manual_seed(seed))


def test_every_round_is_heard_of(domain) -> None:
    heard: list[int] = []
    reward = pmo("qed", budget=Budget(150))
    GraphGA(population=40, offspring=20).run(
        domain, reward, generator=torch.Generator().manual_seed(0), on_round=lambda budget: heard.append(budget.left)
    )
    assert heard == sorted(heard, reverse=True)
    assert len(heard) >= 4
    assert reward.budget.left == 0


def test_scores_that_fail_do_not_stop_it(domain) -> None:
    def heavy(molecule) -> float:
        if molecule.GetNumAtoms() % 2:
            raise RuntimeError("odd")
        return float(molecule.GetNumAtoms())

    reward = Molecular(heavy, "maximize", budget=Budget(100))
    GraphGA(population=30, offspring=20).run(domain, reward, generator=torch.Generator().manual_seed(0))
    assert reward.budget.left == 0
    assert reward.counts.failed > 10


def test_it_ends_where_nothing_new_comes() -> None:
    """Two molecules that have no children: no call is left to make, and the loop must see it."""
    domain = SimpleNamespace(reference=SimpleNamespace(tokens=Reference.load().tokens[:2]))
    reward = Molecular(Descriptor("qed"), "maximize", budget=Budget(1000))

    class Barren(GraphGA):
        def _child(self, pair, rng) -> str:
            return ""

    Barren(population=2, offspring=2).run(domain, reward, generator=torch.Generator().manual_seed(0))
    assert len(reward.budget.calls) == 2


def test_a_reward_without_a_budget_is_refused(domain) -> None:
    with pytest.raises(ValueError, match=r"no budget.*budget=Budget\(10000\)"):
        GraphGA().run(domain, pmo("qed"), generator=torch.Generator())


def test_a_domain_without_natural_molecules_is_refused() -> None:
    with pytest.raises(ValueError, match="no natural molecules"):
        GraphGA().run(
            SimpleNamespace(reference=None), pmo("qed", budget=Budget(10)), generator=torch.Generator().manual_seed(0)
        )


def test_parents_are_drawn_in_proportion_to_their_scores() -> None:
    rng = np.random.default_rng(0)
    drawn = parents({"a": 0.6, "b": 0.3, "c": 0.1, "d": 0.0, "e": -np.inf}, 20_000, rng)
    shares = [drawn.count(name) / len(drawn) for name in "abcde"]
    assert shares == pytest.approx([0.6, 0.3, 0.1, 0.0, 0.0], abs=0.012)  # 3.5 standard deviations of a share of 0.5
    shifted = parents({"a": -1.0, "b": -3.0, "c": -2.0}, 20_000, rng)
    assert [shifted.count(name) / 20_000 for name in "abc"] == pytest.approx([2 / 3, 0, 1 / 3], abs=0.012)
    assert set(parents({"a": -np.inf, "b": -np.inf}, 100, rng)) == {"a", "b"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"population": 1}, "population is 1; expected a whole number of at least 2"),
        ({"offspring": 0}, "offspring is 0"),
        ({"mutation_rate": 1.5}, "mutation_rate is 1.5; expected a share between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GraphGA(**settings)
