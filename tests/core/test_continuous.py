"""The same verbs on continuous states: a Gaussian chain for which Z and the tilted law are known."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from tiltflow.core import (
    SMC,
    SVDD,
    BestOfN,
    Completions,
    Denoiser,
    Diffusion,
    ImportanceResampling,
    PosteriorMean,
    StopWhen,
    Tilt,
)
from tiltflow.core.transitions import GaussianTransition

from .acceptance import accept_means, enough_draws

SIZE, ALPHA, SLOPE = 2, 0.5, 0.4
STEPS = 4


class Mean:
    """The network's output is the posterior mean itself."""

    def clean(self, output, x, t):
        return output

    def settled(self, x):
        return None

    def settled_clean(self, x):
        raise AssertionError("no row is ever settled")


@dataclass(frozen=True)
class Chain:
    """x_s = (x_t + clean) / 2 + noise: no diffusion of anything, but a process by the contract."""

    def prior(self, n, shape, *, generator=None):
        return torch.randn(n, *shape, generator=generator, dtype=torch.float64)

    def transition(self, clean, x, t, s):
        return GaussianTransition((x + clean) / 2, torch.full((len(x),), 0.6, dtype=torch.float64))

    def parameterise(self, network):
        return Denoiser(network, Mean())


def tilt(value=None):
    """Clean estimate x / 2, so x_s ~ N(3/4 x_t, .36), and a linear reward."""
    diffusion = Diffusion(Chain(), lambda x, t: x / 2, (SIZE,), steps=STEPS)
    return Tilt(diffusion, lambda x: SLOPE * x.sum(1), ALPHA, value=value)


def variance():
    v = 1.0
    for _ in range(STEPS):
        v = 0.75**2 * v + 0.36
    return v


def exact(x, t):
    """V(x_t) = slope * (3/4)^k sum x + alpha/2 (slope / alpha)^2 * variance of what is still to come, each coordinate."""
    left = round(t * STEPS)
    v = 0.0
    for _ in range(left):
        v = 0.75**2 * v + 0.36
    return SLOPE * 0.75**left * x.sum(1) + SIZE * SLOPE**2 * v / (2 * ALPHA)


@pytest.mark.parametrize("value", [PosteriorMean(), exact], ids=["plug-in", "exact"])
@pytest.mark.parametrize(
    "method",
    [SVDD(2), SVDD(8), SMC(4), SMC(16, "max", threshold=1.0, resampling="residual"), ImportanceResampling(4)],
    ids=str,
)
@pytest.mark.parametrize("stop", [None, 2])
def test_weights_are_unbiased(method, value, stop):
    """log Z = slope^2 V / (2 alpha^2) a coordinate; under p* the mean of x is V slope / alpha and its variance V."""
    v, tilted = variance(), tilt(value)
    log_z, mean = SIZE * v * (SLOPE / ALPHA) ** 2 / 2, v * SLOPE / ALPHA
    generator = torch.Generator().manual_seed(0)
    observe = [] if stop is None else [StopWhen(lambda state: state.index == stop)]

    def draw(n):
        samples = method.sample(tilted, n, generator=generator, observe=observe)
        observed = torch.cat([torch.ones(n, 1).double(), samples.x, samples.x**2], 1)
        return (samples.log_weight - log_z).exp().unsqueeze(1) * observed

    truth = torch.tensor([1.0, mean, mean, v + mean**2, v + mean**2], dtype=torch.float64)
    hotter = math.exp(SIZE * v * (SLOPE / ALPHA) ** 2 / 2 * (1.1**-2 - 1))
    faults = torch.stack([torch.tensor([hotter - 1, 0, 0, 0, 0]), 0.1 * truth, torch.tensor([0, mean, mean, 0, 0])])
    assert accept_means(enough_draws(draw, faults), truth, faults)


def test_the_exact_value_is_the_value():
    """The tower property, in closed form: V_t(x) = alpha log E exp(V_s / alpha)."""
    x = torch.randn(50, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t, s in itertools.pairwise([1.0, 0.75, 0.5, 0.25, 0.0]):
        slope = SLOPE * 0.75 ** round(s * STEPS) / ALPHA
        ahead = exact(0.75 * x, s) + ALPHA * SIZE * slope**2 * 0.36 / 2
        torch.testing.assert_close(exact(x, t), ahead, rtol=0, atol=1e-10)


def test_samples_move_toward_the_reward(generator):
    v = variance()
    base = tilt().diffusion.sample(4000, generator=generator(0))
    assert float(base.mean()) == pytest.approx(0, abs=0.05)
    assert float(base.var()) == pytest.approx(v, rel=0.1)
    for method in (SVDD(64), SMC(64), ImportanceResampling(64)):
        x = method.sample(tilt(exact), 1000, generator=generator(1)).x
        assert float(x.mean()) == pytest.approx(v * SLOPE / ALPHA, abs=0.12), method
    assert float(BestOfN(16).sample(tilt(), 500, generator=generator(2)).x.mean()) > 0.8


def test_what_needs_tokens_says_so(generator):
    with pytest.raises(ValueError, match="PosteriorMean"):
        SVDD(2).sample(tilt(Completions(2)), 3, generator=generator(0))
    with pytest.raises(ValueError, match="expected bool"):
        tilt().diffusion.restrict(torch.ones(2, 3, dtype=torch.bool))
    assert tilt().value == PosteriorMean()
