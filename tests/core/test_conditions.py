"""Conditions follow their samples through candidates, particles, rollouts and early stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import (
    SMC,
    SVDD,
    BestOfN,
    Completions,
    Denoiser,
    Diffusion,
    Doob,
    PosteriorMean,
    RewardError,
    Rollout,
    StopWhen,
    Subs,
    Tilt,
)
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral, FirstHitting


def network(x, t, cond):
    """All sites take the token that the condition names."""
    return 40.0 * torch.nn.functional.one_hot(cond["token"], 3).expand(*x.shape, 3).float()


def conditioned(sampler, time_invariant, max_rows=None):
    denoiser = Denoiser(network, Subs(3), time_invariant=time_invariant, max_rows=max_rows)
    return Diffusion(Masked(3), denoiser, (4,), steps=6, sampler=sampler)


TOKENS = torch.tensor([[2], [0], [1], [1], [2]])


@pytest.mark.parametrize("sampler", [Ancestral(), FirstHitting()], ids=str)
@pytest.mark.parametrize("value", [PosteriorMean(), Completions(2), Rollout(2)], ids=str)
@pytest.mark.parametrize("method", [SVDD(3), SMC(4, threshold=1.0), BestOfN(2)], ids=str)
@pytest.mark.parametrize("stop", [False, True])
def test_every_sample_keeps_its_condition(sampler, value, method, stop, generator):
    diffusion = conditioned(sampler, time_invariant=True, max_rows=7)
    tilt = Tilt(diffusion, lambda x: x[:, 0] % 2, 0.5, value=value, cond={"token": TOKENS})
    observe = [StopWhen(lambda state: stop and state.index == 2)]
    samples = method.sample(tilt, 5, generator=generator(0), observe=observe)
    assert torch.equal(samples.x, TOKENS.expand(5, 4))


class Matching:
    """Refuses a sample that comes with the condition of another."""

    conditional = True

    def __call__(self, x, cond):
        assert torch.equal(x, cond["token"].expand_as(x))
        return x[:, 0] % 2


@pytest.mark.parametrize("sampler", [Ancestral(), FirstHitting()], ids=str)
@pytest.mark.parametrize("value", [PosteriorMean(), Completions(2), Rollout(2)], ids=str)
@pytest.mark.parametrize("method", [SVDD(3), SMC(4, threshold=1.0), BestOfN(2)], ids=str)
@pytest.mark.parametrize("stop", [False, True])
def test_a_conditional_reward_sees_the_condition_of_every_sample(sampler, value, method, stop, generator):
    tilt = Tilt(conditioned(sampler, True), Matching(), 0.5, value=value, cond={"token": TOKENS})
    observe = [StopWhen(lambda state: stop and state.index == 2)]
    samples = method.sample(tilt, 5, generator=generator(0), observe=observe)
    assert samples.reward.tolist() == [0, 0, 1, 1, 0]
    shared = method.sample(replace(tilt, cond={"token": TOKENS[2:3]}), 5, generator=generator(0))
    assert shared.reward.tolist() == [1] * 5


class Wanted:
    """Where a sample has the token that its condition names, `[B]` in [0, 1]."""

    conditional = True

    def __call__(self, x, cond):
        return (x == cond["token"]).double().mean(1)


@pytest.mark.parametrize("method", [Doob(), SVDD(32), SMC(16, proposal=Doob())], ids=str)
def test_each_sample_is_steered_toward_its_own_condition(method, generator):
    denoiser = Denoiser(lambda x, t, cond: torch.zeros(*x.shape, 3), Subs(3), time_invariant=True)
    model = Diffusion(Masked(3), denoiser, (4,), sampler=FirstHitting())
    samples = method.sample(Tilt(model, Wanted(), 0.02, cond={"token": TOKENS}), 5, generator=generator(0))
    assert torch.equal(samples.x, TOKENS.expand(5, 4))


def test_a_conditional_reward_without_condition_is_an_error(generator):
    model = Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (4,), steps=2)
    with pytest.raises(RewardError, match="Wanted is conditional"):
        BestOfN(2).sample(Tilt(model, Wanted(), 1.0), 2, generator=generator(0))


@pytest.mark.parametrize("time_invariant", [True, False])
def test_unguided_samples_keep_their_condition(time_invariant, generator):
    diffusion = conditioned(Ancestral(), time_invariant)
    x = diffusion.sample(10, generator=generator(0), cond={"token": TOKENS})
    assert torch.equal(x, TOKENS.repeat_interleave(2, 0).expand(10, 4))
    shared = diffusion.sample(3, generator=generator(0), cond={"token": TOKENS[:1]})
    assert shared.tolist() == [[2] * 4] * 3
    bound = diffusion.elbo(x, draws=3, generator=generator(1), cond={"token": TOKENS})
    assert float(bound.min()) > -1e-6
    with pytest.raises(ValueError, match="must divide 7"):
        diffusion.sample(7, generator=generator(0), cond={"token": TOKENS})
