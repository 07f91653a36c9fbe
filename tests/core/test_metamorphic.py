"""What must not change the answer, for every method on every kind of world, in both precisions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import SMC, SVDD, BestOfN, Denoiser, Doob, ImportanceResampling, PosteriorMean
from tiltflow.core.paths import VPCosine
from tiltflow.core.samplers import DDIM, Ancestral
from tiltflow.core.worlds import MaskedWorld, MixtureWorld, UniformWorld

MASKED = MaskedWorld(4, 3, seed=3, alpha=0.5)
UNIFORM = UniformWorld(3, 3, seed=3, alpha=0.5, steps=5)
LINE = MixtureWorld(seed=1, alpha=0.5, steps=5)
PLANE = MixtureWorld(size=2, seed=1, alpha=0.5, path=VPCosine(), steps=5)

TILTS = {
    "masked": MASKED.tilt,
    "masked, parallel": lambda value: MASKED.tilt(value=value, steps=3, sampler=Ancestral()),
    "uniform": UNIFORM.tilt,
    "flow": LINE.tilt,
    "plane": PLANE.tilt,
    "plane, DDIM": lambda value: PLANE.tilt(value=value, steps=4, sampler=DDIM(0.7)),
}
METHODS = [
    SVDD(4),
    SVDD(3, selection="argmax"),
    SMC(4),
    SMC(4, "max", threshold=1.0, resampling="residual"),
    SMC(4, "sum", interval=2, tempering=1.0, resampling="stratified"),
    SMC(5, threshold=1.0, resampling="multinomial"),
    SMC(4, proposal=Doob()),
    Doob(),
    Doob(strength=0.5),
    ImportanceResampling(4),
    BestOfN(4),
]
N = 100


class Reworded:
    """scale * r + shift, with r rounded to multiples of 1 / 64 for tokens: no rounding enters."""

    takes, differentiable = "tokens", True

    def __init__(self, reward, scale=1.0, shift=0.0):
        self.reward, self.scale, self.shift = reward, scale, shift

    def __call__(self, x):
        r = self.reward(x)
        r = r if x.dtype.is_floating_point else (r * 64).round() / 64
        return self.scale * r + self.shift


@pytest.fixture(params=TILTS)
def tilt(request, dtype):
    """A tilt of each world with a plug-in value; in float32 the network's output, or the whole state, is rounded."""
    found = TILTS[request.param](value=PosteriorMean())
    diffusion = found.diffusion
    if dtype == torch.float32:
        inner = diffusion.denoiser
        network = Denoiser(
            lambda x, t: inner.network(x, t).float(), inner.parameterisation, time_invariant=inner.time_invariant
        )
        process = diffusion.process if diffusion.is_tokens else replace(diffusion.process, dtype=dtype)
        diffusion = replace(diffusion, denoiser=network, process=process, grid=None)
    return replace(found, diffusion=diffusion, reward_function=Reworded(found.reward_function))


def sample(method, tilt, seed=0):
    return method.sample(tilt, N, generator=torch.Generator().manual_seed(seed))


def same(one, two):
    """The same samples: token for token, and numbers but for what rounding does on the way."""
    if not one.dtype.is_floating_point:
        assert torch.equal(one, two)
        return
    torch.testing.assert_close(one, two, rtol=0, atol=1e-9 if one.dtype == torch.float64 else 1e-3)


def weighted(method):
    return not isinstance(method, BestOfN) and getattr(method, "selection", "softmax") == "softmax"


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_constant_added_to_the_reward_changes_no_sample(method, tilt, dtype):
    one = sample(method, tilt)
    two = sample(method, replace(tilt, reward_function=Reworded(tilt.reward_function.reward, shift=16.0)))
    same(one.x, two.x)
    tolerance = 1e-2 if one.x.dtype == torch.float32 else 1e-5 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(one.reward + 16, two.reward, rtol=0, atol=tolerance)
    expected = one.log_weight + (32.0 if weighted(method) else 0.0)
    torch.testing.assert_close(two.log_weight, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_reward_and_alpha_scaled_together_change_nothing(method, tilt):
    one = sample(method, tilt, 1)
    scaled = replace(tilt, reward_function=Reworded(tilt.reward_function.reward, scale=8.0), alpha=8 * tilt.alpha)
    two = sample(method, scaled, 1)
    assert torch.equal(one.x, two.x)
    assert torch.equal(8 * one.reward, two.reward)
    assert torch.equal(one.log_weight, two.log_weight)


@pytest.mark.parametrize(
    "method",
    [
        SVDD(1, selection="argmax"),
        SMC(1),
        SMC(1, "sum", threshold=1.0),
        ImportanceResampling(1),
        BestOfN(1),
        Doob(strength=0.0),
    ],
    ids=str,
)
def test_without_a_choice_the_samples_are_the_model_s(method, tilt):
    """Nothing draws from the generator but the sampler's own steps."""
    samples = sample(method, tilt, 2)
    same(samples.x, tilt.diffusion.sample(N, generator=torch.Generator().manual_seed(2)))
    if not isinstance(method, (BestOfN, SVDD)):
        tolerance = 1e-9 if samples.x.dtype == torch.float64 or tilt.diffusion.is_tokens else 1e-2
        torch.testing.assert_close(samples.log_weight, samples.reward / tilt.alpha, rtol=0, atol=max(tolerance, 1e-5))


@pytest.mark.parametrize("method", [Doob(), SMC(4, threshold=1.0), SMC(3, "max"), SMC(4, proposal=Doob())], ids=str)
def test_a_constant_reward_gives_the_base_law(method, tilt):
    """All particles are the unguided ones, and every weight is exp(r / alpha)."""
    flat = replace(tilt, reward_function=Flat())
    samples = sample(method, flat, 3)
    torch.testing.assert_close(samples.log_weight, torch.full((N,), 0.5 / tilt.alpha).double(), rtol=0, atol=1e-4)
    if isinstance(method, Doob):
        same(samples.x, tilt.diffusion.sample(N, generator=torch.Generator().manual_seed(3)))


class Flat:
    """r = 1/2 everywhere."""

    takes, differentiable = "tokens", True

    def __call__(self, x):
        return 0.5 + (0 * x).flatten(1).sum(1)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_same_seed_gives_the_same_samples(method, tilt):
    one, two, other = sample(method, tilt, 4), sample(method, tilt, 4), sample(method, tilt, 5)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.log_weight, two.log_weight)
    assert not torch.equal(one.x, other.x)


@pytest.mark.parametrize("method", [SVDD(2), SMC(2, proposal=Doob()), Doob(), ImportanceResampling(2)], ids=str)
def test_nothing_draws_from_the_global_generator(method, tilt):
    before = torch.get_rng_state()
    sample(method, replace(tilt, value=None) if isinstance(method, ImportanceResampling) else tilt)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_twisted_particle_is_doob(tilt):
    same(sample(SMC(1, proposal=Doob()), tilt, 6).x, sample(Doob(), tilt, 6).x)
