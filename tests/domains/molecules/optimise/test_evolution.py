"""Evolution with the prior as mutation operator: where masks go, who makes children, what is learned, and that it improves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiltflow.domains.molecules import constrain, load
from tiltflow.domains.molecules.optimise import Evolution, Learning
from tiltflow.domains.molecules.optimise.evolution import _Law, _People, _Record, spliced
from tiltflow.molecules import MASK, encode
from tiltflow.rewards import Budget
from tiltflow.rewards.molecules import pmo

SHARES = {"crossover": 0.4, "remask": 0.3, "mutate": 0.1, "splice": 0.1, "draw": 0.1}
SMALL = Evolution(population=60, offspring=20, start=40, shares=SHARES, learning=Learning(batch=8, start=60))


@pytest.fixture(scope="module")
def domain(tiny):
    return load(tiny)


def record(domain, seed=0, calls=160, evolution=SMALL):
    reward = pmo("isomers_c7h8n2o2", budget=Budget(calls))
    evolution.run(domain, reward, generator=torch.Generator().manual_seed(seed))
    return [(call.text, call.value) for call in reward.budget.calls]


def test_the_seed_decides_the_record_and_the_domains_prior_stays(domain):
    before = {name: weight.clone() for name, weight in domain.diffusion.denoiser.state_dict().items()}
    first = record(domain)
    torch.manual_seed(9)
    assert record(domain) == first
    assert record(domain, 1) != first
    assert all(torch.equal(weight, before[name]) for name, weight in domain.diffusion.denoiser.state_dict().items())
    assert not any(weight.requires_grad for weight in domain.diffusion.denoiser.parameters())


def test_it_gets_better_than_its_start_within_the_budget(domain):
    calls = record(domain, calls=300)
    assert len(calls) == len({smiles for smiles, _ in calls}) == 300
    values = [value for _, value in calls]
    assert np.mean(sorted(values)[-10:]) > np.mean(sorted(values[:40])[-10:]) + 0.1


@pytest.mark.parametrize("operator", ["remask", "splice", "crossover", "mutate", "draw"])
def test_each_operator_alone_spends_the_budget(domain, operator):
    assert len(record(domain, calls=70, evolution=replace(SMALL, shares={operator: 1}))) == 70


def test_a_splice_keeps_the_head_of_one_and_the_tail_of_the_other():
    first, second = encode(["CCCCCCCCCCCCCCCCCCCC", "c1ccccc1CCN"] * 50), encode(["OCCOCCOCCOCCO"] * 100)
    x = spliced(first, second, np.random.default_rng(0))
    masks = (x == MASK).sum(1)
    assert set(masks.tolist()) == {1, 2, 3}
    for row, one, two in zip(x.tolist(), first.tolist(), second.tolist(), strict=True):
        start = row.index(MASK)
        after = start + row.count(MASK)
        assert row[:start] == one[:start]
        assert MASK not in row[after:]
        tail = [token for token in row[after:] if token]
        assert not tail or tail == [token for token in two if token][-len(tail) :]
        assert row[after + len(tail) :] == [0] * (len(row) - after - len(tail))


def test_parents_are_drawn_by_rank():
    people, rng = _People(_Record(24), 1000, greed=3.0), np.random.default_rng(0)
    people.best = [str(rank) for rank in range(1000)]
    ranks = np.array([int(name) for name in people.parents(20_000, rng)])
    # The best is drawn with probability E[1 / ceil(1000 / 10^u)], the best tenth with at least 2 / 3.
    assert np.mean(ranks == 0) == pytest.approx(np.mean(1 / np.ceil(1000 * 10 ** (-3 * rng.random(200_000)))), rel=0.1)
    assert np.mean(ranks < 100) > 2 / 3
    assert ranks.max() > 900
    people.greed = 0.0
    assert np.mean([int(name) for name in people.parents(20_000, rng)]) == pytest.approx(499.5, rel=0.02)


def test_islands_hear_of_each_other_when_they_merge():
    reward = pmo("isomers_c7h8n2o2", budget=Budget(50))
    record = _Record(24)
    isles = [_People(record, 3, 2.0) for _ in range(2)]
    isles[0].add(["Cc1ccccc1", "CCO", "CCN", "CCCC"], reward)
    isles[1].add(["c1ccccc1", "CO"], reward)
    assert len(isles[0].best) == 3
    assert set(isles[1].best) == {"c1ccccc1", "CO"}
    whole = _People.merged(isles, 4)
    assert set(whole.best) == {*isles[0].best[:2], *isles[1].best[:2]}
    scores = [record.scores[name] for name in whole.best]
    assert scores == sorted(scores, reverse=True)


def test_islands_spend_the_budget_too(domain):
    assert len(record(domain, calls=120, evolution=replace(SMALL, islands=3, apart=0.5))) == 120


def test_learning_makes_the_best_molecules_likelier(domain):
    settings = Learning(batch=16, learning_rate=3e-3)
    law = _Law(domain.diffusion, settings, torch.Generator().manual_seed(0))
    elite = encode(["c1ccccc1CCN", "c1ccccc1CCO"])
    noise = [torch.Generator().manual_seed(1) for _ in range(2)]
    before = law.diffusion.elbo(elite, draws=20, generator=noise[0]).detach()
    for _ in range(20):
        law.learn(elite, settings)
    after = law.diffusion.elbo(elite, draws=20, generator=noise[1]).detach()
    assert bool((after > before + 5).all())


def test_molecules_that_cannot_be_written_in_words_are_passed_over():
    record = _Record(24)
    assert torch.equal(record.written(["CCO", "CB(O)O", "CCO"]), encode(["CCO", "CCO"]))
    assert record.written([]).shape == (0, 24)


def test_what_it_cannot_do_is_refused(domain):
    held = constrain(domain, scaffold="*c1ccccc1")
    with pytest.raises(ValueError, match="does not keep to scaffold"):
        SMALL.run(held, pmo("qed", budget=Budget(10)), generator=torch.Generator())
    with pytest.raises(ValueError, match="has no budget"):
        SMALL.run(domain, pmo("qed"), generator=torch.Generator())
    for shares in ({"swap": 1.0}, {"draw": 0.0}, {"draw": -1.0, "remask": 2.0}):
        with pytest.raises(ValueError, match="shares are"):
            Evolution(shares=shares)
    with pytest.raises(ValueError, match="30 islands share a population of 400 and 40 molecules"):
        Evolution(islands=30, start=40)
    with pytest.raises(ValueError, match="apart is 2"):
        Evolution(apart=2)
    with pytest.raises(ValueError, match="greed is -1"):
        Evolution(greed=-1)
    with pytest.raises(ValueError, match="offspring is 0"):
        Evolution(offspring=0)
    with pytest.raises(ValueError, match="longest is 0"):
        Evolution(longest=0)
