"""Any method with any value, sampler, schedule, grid, constraint and precision: two hundred draws of the lot."""

from __future__ import annotations

import math
import random

import pytest
import torch
from tiltflow.core import (
    SMC,
    SVDD,
    BestOfN,
    Completions,
    Denoiser,
    Diffusion,
    Given,
    ImportanceResampling,
    PosteriorMean,
    Rollout,
    StopWhen,
    Subs,
    Tilt,
    Trace,
)
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral, Confidence, FirstHitting
from tiltflow.core.schedules import Cosine, Geometric, Linear, LogLinear, Polynomial


def share(x):
    return 3 * (x == 0).double().mean(1)


def a_diffusion(pick, seed):
    vocab, length, reusable = pick.choice([2, 3, 5, 30]), pick.choice([1, 2, 5, 9]), pick.random() < 0.7
    table = torch.randn(vocab + 1, vocab, generator=torch.Generator().manual_seed(seed))
    table = table.to(pick.choice([torch.float32, torch.float64, torch.bfloat16]))

    def network(x, t, cond=None):
        logits = table[x].cumsum(1)
        return logits if reusable else logits * (1 + t.reshape(-1, 1, 1)).to(logits.dtype)

    denoiser = Denoiser(network, Subs(vocab), time_invariant=reusable, max_rows=pick.choice([None, None, 1, 3]))
    samplers = [
        Ancestral(),
        Ancestral(0.1, 0.3),
        Ancestral(2.0),
        Confidence("margin"),
        Confidence("entropy", top_p=0.5),
    ]
    sampler = pick.choice([*samplers, FirstHitting(), FirstHitting(0.7)] if reusable else samplers)
    inner = sorted({pick.random() for _ in range(pick.choice([0, 3, 8]))}, reverse=True)
    grid = torch.tensor([1.0, *inner, 0.0], dtype=torch.float64) if pick.random() < 0.5 else None
    schedule = pick.choice([Linear(), LogLinear(), Cosine(), Polynomial(0.3), Polynomial(3), Geometric()])
    diffusion = Diffusion(Masked(vocab, schedule), denoiser, (length,), pick.choice([1, 2, 7]), sampler, grid)
    if pick.random() < 0.3:
        diffusion = diffusion.infill(torch.tensor([pick.randint(0, vocab) for _ in range(length)]))
    return diffusion


def a_method(pick):
    smc = SMC(
        pick.choice([1, 4]),
        pick.choice(["difference", "max", "sum"]),
        pick.choice([1, 2, 5]),
        pick.choice([0.0, 0.5, 1.0]),
        pick.choice(["systematic", "stratified", "multinomial", "residual"]),
        pick.choice([0.0, 1.0]),
    )
    return pick.choice([smc, smc, SVDD(1), SVDD(3), SVDD(3, "argmax"), BestOfN(3), ImportanceResampling(2)])


def a_value(pick):
    given = Given(lambda x, t: (x == 0).double().mean(1))
    own = Completions(1, shared=False, estimate="own")
    return pick.choice([None, PosteriorMean(), Completions(2), own, Completions(3, shared=False), Rollout(2), given])


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_a_combination(seed):
    for trial in range(seed, seed + 20):
        pick = random.Random(trial)
        diffusion, cut, stop = a_diffusion(pick, trial), pick.choice([-1.0, 0.5, 2.9]), pick.choice([None, None, 1, 2])

        def reward(x, cut=cut):
            return torch.where(share(x) > cut, share(x), -math.inf)

        cond = pick.choice([None, {"any": torch.zeros(1, 1)}])
        tilt = Tilt(diffusion, reward, pick.choice([0.01, 0.5, 10.0]), value=a_value(pick), cond=cond)
        method, n = a_method(pick), pick.choice([1, 4])
        runs = [
            method.sample(
                tilt,
                n,
                generator=torch.Generator().manual_seed(trial),
                observe=[Trace(), StopWhen(lambda state, stop=stop: state.index == stop)],
            )
            for _ in range(2)
        ]
        samples = runs[0]
        context = (trial, method, tilt)
        assert torch.equal(samples.x, runs[1].x), context
        diffusion.process.check(samples.x, clean=True)
        assert samples.x.shape == (n, *diffusion.shape), context
        assert torch.equal(samples.reward, reward(samples.x)), context
        assert not bool((samples.log_weight.isnan() | (samples.log_weight == math.inf)).any()), context
        if diffusion.start is not None:
            fixed = diffusion.start != diffusion.process.mask
            assert torch.equal(samples.x[:, fixed], diffusion.start[fixed].expand(n, -1)), context
