"""Conditions follow their samples through candidates, particles, rollouts and early stops."""

from __future__ import annotations

import pytest
import torch
from tiltflow.core import (
    SMC,
    SVDD,
    BestOfN,
    Completions,
    Denoiser,
    Diffusion,
    PosteriorMean,
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
