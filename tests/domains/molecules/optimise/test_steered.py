"""Steering and the prior as optimisers: they spend exactly their budget, on molecules of the model."""

from __future__ import annotations

import pytest
import torch
from tiltflow.core import SMC, SVDD
from tiltflow.domains import molecules
from tiltflow.domains.molecules.optimise import Random, Steered
from tiltflow.molecules import decode
from tiltflow.rewards import Budget
from tiltflow.rewards.molecules import pmo


@pytest.fixture(scope="module")
def domain(tiny):
    return molecules.load(tiny, steps=8)


OPTIMISERS = [
    Random(batch=8),
    Steered(SVDD(candidates=2), batch=4),
    Steered(SMC(particles=4, interval=2), alpha=0.1, batch=2, steps=4),
]


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: type(getattr(o, "method", o)).__name__)
def test_the_budget_is_spent_and_the_seed_decides_the_record(domain, optimiser) -> None:
    def record(seed: int) -> list[tuple[str, float]]:
        reward = pmo("qed", budget=Budget(40))
        optimiser.run(domain, reward, generator=torch.Generator().manual_seed(seed))
        return [(call.text, call.value) for call in reward.budget.calls]

    first = record(0)
    assert len(first) == 40
    assert record(0) == first
    assert record(1) != first


def test_random_asks_for_samples_of_the_prior(domain) -> None:
    reward = pmo("qed", budget=Budget(30))
    Random(batch=8).run(domain, reward, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    drawn = [text for _ in range(10) for text in decode(domain.diffusion.sample(8, generator=generator)) if text]
    assert [call.text for call in reward.budget.calls] == list(dict.fromkeys(drawn))[:30]


def test_steering_takes_its_own_number_of_steps(domain) -> None:
    looks: list[int] = []

    class Counting(SVDD):
        def step(self, tilt, state, t, s, *, generator=None):
            looks.append(len(tilt.diffusion.times) - 1)
            return super().step(tilt, state, t, s, generator=generator)

    Steered(Counting(candidates=2), batch=2, steps=3).run(
        domain, pmo("qed", budget=Budget(10)), generator=torch.Generator().manual_seed(0)
    )
    assert set(looks) == {3}


@pytest.mark.parametrize("optimiser", OPTIMISERS[:2], ids=["Random", "Steered"])
def test_a_reward_without_a_budget_is_refused(domain, optimiser) -> None:
    with pytest.raises(ValueError, match="no budget"):
        optimiser.run(domain, pmo("qed"), generator=torch.Generator())


@pytest.mark.parametrize("settings", [{"batch": 0}, {"steps": 0}, {"alpha": 0.0}])
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is 0"):
        Steered(**settings)
    with pytest.raises(ValueError, match="batch is 0"):
        Random(batch=0)
