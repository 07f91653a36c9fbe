"""DRAKES as published: its states, its penalty, and the faults that its docstring states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core.tuning import DRAKES, PublishedDRAKES, Reinforce
from tiltflow.core.tuning.published import estimate
from tiltflow.core.tuning.roles import Roles, frozen, trainable

from .tables import disturb, gradient, masked, mixture, uniform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def roles_of(tilt) -> Roles:
    return Roles(disturb(trainable(tilt.diffusion)), frozen(tilt.diffusion), {})


def loss(method: PublishedDRAKES, tilt, roles: Roles):
    return method.loss(tilt, roles, None, seeded(), 0.0)


def test_the_estimate_at_hard_states_is_our_own_and_at_soft_ones_the_published_rule():
    _, tilt = masked()
    model = tilt.diffusion
    hard = torch.tensor([[3, 0, 3], [1, 3, 2]])
    soft = torch.nn.functional.one_hot(hard, 4).double()
    assert torch.allclose(estimate(model, soft, 0.5, None).exp(), model.clean(hard, 0.5).exp(), atol=1e-12)
    mixed = torch.tensor([[[0.1, 0.2, 0.1, 0.6], [0.5, 0.1, 0.1, 0.3], [0.0, 0.0, 0.0, 1.0]]], dtype=torch.float64)
    found = estimate(model, mixed, 0.5, None).exp()
    network = model.denoiser.network(mixed, torch.tensor([0.5])).softmax(-1)
    assert torch.allclose(found[0, [0, 2]], network[0, [0, 2]], atol=1e-12)  # mostly mask: predicted whole
    assert found[0, 1].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)  # mostly token 0: token 0


def test_the_penalty_is_zero_on_hard_states_whatever_the_divergence():
    """At a temperature of 1e-4 all states are hard; the divergence of the steps themselves is far from zero."""
    _, tilt = masked(8)
    roles = roles_of(tilt)
    cold = loss(PublishedDRAKES(batch=64, temperature=1e-4, last=None), tilt, roles).facts
    warm = loss(PublishedDRAKES(batch=64, last=None), tilt, roles).facts
    ours = DRAKES(batch=64).loss(tilt, roles, None, seeded(), 0.0).facts
    assert abs(cold["penalty"]) < 1e-6
    assert warm["penalty"] > 1e-3
    assert ours["kl"] > 0.1


def test_the_penalty_grows_with_the_number_of_steps_and_ours_does_not():
    found = {}
    for steps in (8, 32):
        _, tilt = masked(steps)
        roles = roles_of(tilt)
        published = loss(PublishedDRAKES(batch=512, last=None), tilt, roles).facts["penalty"]
        ours = DRAKES(batch=512).loss(tilt, roles, None, seeded(), 0.0).facts["kl"]
        found[steps] = (published, ours)
    assert found[32][0] > 2 * found[8][0]
    assert found[32][1] == pytest.approx(found[8][1], rel=0.15)


def test_steps_that_are_recomputed_give_the_same_gradient():
    _, tilt = masked()
    roles = roles_of(tilt)
    found = [
        gradient(loss(PublishedDRAKES(batch=8, last=3, save_memory=memory), tilt, roles).value, roles.theta)
        for memory in (True, False)
    ]
    assert torch.allclose(*found, atol=1e-12)
    assert float(found[0].norm()) > 1e-3


def test_training_runs_and_raises_the_reward():
    _, tilt = masked()
    rows = []
    method = PublishedDRAKES(steps=40, batch=64, learning_rate=0.05, clip=10.0)
    method.fit(tilt, generator=seeded(), observe=[lambda progress: rows.append(progress.facts["reward"])])
    assert sum(rows[-5:]) / 5 > sum(rows[:5]) / 5 + 0.3


def test_refusals():
    with pytest.raises(ValueError, match="takes masked processes, not Uniform"):
        PublishedDRAKES().fit(uniform()[1])
    with pytest.raises(ValueError, match="takes masked processes, not Gaussian"):
        PublishedDRAKES().fit(mixture()[1])
    with pytest.raises(ValueError, match="no Reinforce"):
        PublishedDRAKES(estimator=Reinforce())
    with pytest.raises(ValueError, match="one positive temperature"):
        replace(PublishedDRAKES(), temperature=0.0)
