"""Remasking steps: by hand, on the marginals, and their laws."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tiltflow.core import Diffusion
from tiltflow.core.processes import Masked, Uniform
from tiltflow.core.samplers import Ancestral, Remasking
from tiltflow.core.schedules import SCHEDULES
from tiltflow.core.states import one_hot
from tiltflow.core.worlds import MaskedWorld, total_variation

from .acceptance import accept_law, contaminated, sample_size

WORLD = MaskedWorld(3, 3, seed=3)
SETTINGS = [
    Remasking(),
    Remasking(rescale=1.0),
    Remasking(cap=0.1, rescale=1.0),
    Remasking(until=0.5),
    Remasking(rescale=0.0),
]


def law(sampler, steps, world=WORLD):
    return world.base_law(replace(world.diffusion, sampler=sampler, steps=steps))


def test_steps_by_hand():
    """Linear schedule, t = .5 to s = .4, sigma_max = .8."""
    x = torch.tensor([[3, 1]])
    clean = torch.tensor([[[0.2, 0.5, 0.3], [0, 1, 0]]], dtype=torch.float64).log()
    for sampler, sigma in [(Remasking(rescale=0.25), 0.2), (Remasking(cap=0.1), 0.1), (Remasking(until=0.4), 0.0)]:
        step = sampler.transition(Masked(3), clean, x, 0.5, 0.4).log_probs.exp()[0]
        unmask = (0.6 - (1 - sigma) * 0.5) / 0.5
        expected = torch.tensor([[*(unmask * clean[0, 0].exp()).tolist(), 1 - unmask], [0, 1 - sigma, 0, sigma]])
        torch.testing.assert_close(step, expected.double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("sampler", SETTINGS, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_steps_keep_the_marginals(sampler, schedule):
    """q(x_t | x0) pushed through a step with x0 known is q(x_s | x0): whatever is remasked is made up for."""
    process, x0 = Masked(3, schedule()), torch.tensor([0, 1])
    states = torch.tensor(list(itertools.product([0, 3], [1, 3])))
    clean = one_hot(x0, 3, torch.float64).log().expand(4, 2, 3)

    def marginal(t):
        kept = process.schedule.alpha(torch.tensor(t, dtype=torch.float64))
        return torch.where(states == 3, 1 - kept, kept).prod(1)

    for t, s in itertools.pairwise([1.0, 0.7, 0.3, 0.05, 0.0]):
        step = sampler.transition(process, clean, states, t, s)
        kernel = torch.stack([step.log_prob(target.expand_as(states)) for target in states], 1).exp()
        torch.testing.assert_close(kernel.sum(1), torch.ones(4).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(marginal(t) @ kernel, marginal(s), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SETTINGS, ids=str)
def test_one_site_reaches_the_data_law_exactly(sampler):
    """With the exact denoiser one site has no other to be independent of: p at every number of steps, and p_t on the way."""
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    process, states = Masked(3), torch.arange(4).unsqueeze(1)
    clean = torch.where(states.unsqueeze(-1) == 3, p.log(), one_hot(states, 4, torch.float64).log()[..., :3])
    found = torch.tensor([0, 0, 0, 1.0], dtype=torch.float64)
    for t, s in itertools.pairwise([1.0, 0.8, 0.5, 0.3, 0.1, 0.0]):
        found = found @ sampler.transition(process, clean, states, t, s).log_probs.exp()[:, 0]
        torch.testing.assert_close(found, torch.cat([(1 - s) * p, torch.tensor([s])]), rtol=0, atol=1e-7)


def test_none_is_ancestral():
    for steps in (1, 5):
        torch.testing.assert_close(law(Remasking(rescale=0.0), steps), law(Ancestral(), steps), rtol=0, atol=1e-12)


def test_the_order_is_one_when_few_are_remasked():
    """A sigma in proportion to the step keeps the number of remaskings: TV halves. A fixed sigma does not, and falls still."""
    steps = (32, 64, 128)
    distance = [total_variation(law(Remasking(rescale=4 / count), count), WORLD.p) for count in steps]
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(distance)), distance
    fixed = [total_variation(law(Remasking(rescale=0.5), count), WORLD.p) for count in steps]
    assert all(1.3 < a / b < 1.8 for a, b in itertools.pairwise(fixed)), fixed


def test_remasking_mends_a_model_with_errors():
    """Disturbed at high noise only: steps that take decisions back forget it."""
    wrong = 1.5 * torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def network(x, t):
        early = (t > 0.5).double().reshape(-1, 1, 1)
        return (WORLD.posterior[WORLD.index(x)] + early * wrong).nan_to_num(0)

    distance = []
    for sampler in (Ancestral(), Remasking(rescale=0.05)):
        diffusion = Diffusion(Masked(3), network, (3,), steps=100, sampler=sampler)
        distance.append(total_variation(WORLD.base_law(diffusion), WORLD.p))
    assert distance[1] < 0.8 * distance[0], distance


def test_draws_follow_the_computed_law(generator):
    found = law(Remasking(), 6)
    faults = [contaminated(found, 0.05), law(Ancestral(), 6), law(Remasking(rescale=1.0), 6)]
    diffusion = replace(WORLD.diffusion, sampler=Remasking(), steps=6)
    x = diffusion.sample(sample_size(found, faults), generator=generator(0))
    assert accept_law(WORLD.outcome(x), found, faults)


def test_what_it_refuses():
    for bad in ({"cap": 1.5}, {"rescale": -0.1}, {"until": float("nan")}):
        with pytest.raises(ValueError, match="from 0 to 1"):
            Remasking(**bad)
    with pytest.raises(ValueError, match="temperature"):
        Remasking(temperature=0.0)
    with pytest.raises(ValueError, match="needs a masked process"):
        Diffusion(Uniform(3), lambda x, t: torch.zeros(*x.shape, 3), (2,), sampler=Remasking())
    with pytest.raises(ValueError, match="fixed sites"):
        replace(WORLD.diffusion, sampler=Remasking(), start=torch.tensor([0, 3, 3]))
    with pytest.raises(ValueError, match="defined on tokens"):
        Remasking().transition(Masked(3), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), 0.5, 0.4)
