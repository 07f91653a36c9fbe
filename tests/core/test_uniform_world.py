"""Uniform noise on an enumerable law: closed forms against plain sums, laws of methods, guided rates."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiltflow.core import SMC, SVDD, BestOfN, Doob, ImportanceResampling, PosteriorMean
from tiltflow.core.samplers import Ancestral
from tiltflow.core.worlds import MaskedWorld, UniformWorld, total_variation

from .acceptance import accept_law, accept_means, contaminated, enough_draws, sample_size
from .worldlaws import draws

WORLD = UniformWorld(3, 3, seed=3, alpha=0.5, steps=8)
TIMES = [0.0625, 0.5, 0.875]  # exact in float32, in which a network sees them


def joint(world, t):
    """q(x_t | x0) p(x0) by a plain product over sites, `[K^L (x0), K^L (x_t)]`."""
    left = 1 - t
    same = (world.states.unsqueeze(1) == world.states.unsqueeze(0)).double()
    q = (left * same + (1 - left) / world.vocab).prod(-1)
    return world.p.unsqueeze(1) * q


@pytest.mark.parametrize("t", TIMES)
def test_value_and_posterior_by_plain_sums(t):
    both = joint(WORLD, t)
    growth = (WORLD.rewards / WORLD.alpha).exp()
    expected = WORLD.alpha * ((growth @ both) / both.sum(0)).log()
    torch.testing.assert_close(WORLD.value(WORLD.states, t), expected, rtol=0, atol=1e-10)
    for site, token in itertools.product(range(3), range(3)):
        mass = both[WORLD.states[:, site] == token].sum(0) / both.sum(0)
        torch.testing.assert_close(WORLD.posterior(t)[:, site, token].exp(), mass, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", TIMES)
def test_doob_is_the_exact_denoiser_of_the_tilted_law(t):
    tilted = replace(WORLD)
    tilted.__dict__["p"] = WORLD.tilted
    _, guided, value = Doob().estimate(WORLD.tilt(), WORLD.states, t, None)
    torch.testing.assert_close(guided, tilted.diffusion.clean(WORLD.states, t), rtol=0, atol=1e-10)
    torch.testing.assert_close(value, WORLD.value(WORLD.states, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("world", [WORLD, MaskedWorld(3, 3, seed=3, alpha=0.5)], ids=str)
@pytest.mark.parametrize("t", TIMES)
def test_guided_rates(world, t):
    """R*(x -> y) = R(x -> y) h(y) / h(x) (Nisonoff et al. 2024), read off the guided estimate."""
    tilt = world.tilt()
    x = world.states if world.symbols == 3 else world.states[(world.states == 3).any(1)]
    clean, guided, _ = Doob().estimate(tilt, x, t, None)
    process = tilt.diffusion.process
    base, changed = process.rates(clean, x, t), process.rates(guided, x, t)
    for site, token in itertools.product(range(3), range(3)):
        y = x.clone()
        y[:, site] = token
        allowed = base[:, site, token] > 0
        ratio = (world.h(y, t) / world.h(x, t))[allowed]
        torch.testing.assert_close(
            changed[allowed, site, token], (base[:, site, token][allowed] * ratio), rtol=1e-9, atol=1e-10
        )


def test_the_transform_of_the_chain_reproduces_the_tilted_law():
    """Doob's transform of the sampler's own chain, kernel by kernel, has the law p_T exp(r / alpha) / Z_T."""
    tilt = WORLD.tilt()
    log_h = WORLD.chain_values(tilt)
    law = (WORLD.start(tilt.diffusion).log() + log_h[0]).softmax(0)
    for k, (t, s) in enumerate(itertools.pairwise(tilt.diffusion.times.tolist())):
        kernel = WORLD.kernel(tilt.diffusion, t, s).log() + log_h[k + 1] - log_h[k].unsqueeze(1)
        torch.testing.assert_close(kernel.exp().sum(1), torch.ones(27).double(), rtol=0, atol=1e-10)
        law = law @ kernel.exp()
    own = (WORLD.base_law(tilt.diffusion).log() + WORLD.rewards / WORLD.alpha).softmax(0)
    torch.testing.assert_close(law, own, rtol=0, atol=1e-10)


@pytest.mark.parametrize("of", ["base", "doob"])
def test_distances_halve_as_steps_double(of):
    distance = []
    for steps in (8, 16, 32):
        tilt = WORLD.tilt(steps=steps)
        law, goal = (
            (WORLD.base_law(tilt.diffusion), WORLD.p) if of == "base" else (WORLD.law(Doob(), tilt), WORLD.tilted)
        )
        distance.append(total_variation(law, goal))
    assert distance[0] / distance[1] == pytest.approx(2, abs=0.25)
    assert distance[1] / distance[2] == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("value", [None, PosteriorMean()], ids=["exact", "plug-in"])
@pytest.mark.parametrize("method", [SVDD(4), Doob(), SVDD(4, "argmax"), ImportanceResampling(4), BestOfN(4)], ids=str)
def test_draws_follow_the_computed_law(method, value):
    tilt = WORLD.tilt(value=value)
    law = WORLD.law(method, tilt)
    faults = [contaminated(law, 0.05), WORLD.p]
    assert accept_law(draws(method, WORLD, tilt, sample_size(law, faults), seed=8), law, faults)


@pytest.mark.parametrize("method", [Doob(), SMC(4), SMC(4, threshold=1.0, proposal=Doob()), SVDD(4)], ids=str)
@pytest.mark.parametrize("value", ["exact", "plug-in"])
def test_weights_are_unbiased_for_the_sampler_s_own_law(method, value):
    world = replace(WORLD, alpha=1.0)
    tilt = world.tilt(value=None if value == "exact" else PosteriorMean())
    base, log_z = world.base_law(tilt.diffusion), world.log_z_of(tilt.diffusion)
    observed = torch.cat([torch.ones(27, 1).double(), (world.sequences == 0).double()], 1)
    truth = (base * (world.rewards - log_z).exp()) @ observed
    faults = torch.stack([base @ observed - truth, 0.15 * truth])
    generator = torch.Generator().manual_seed(9)

    def draw(n):
        samples = method.sample(tilt, n, generator=generator)
        return (samples.log_weight - log_z).exp().unsqueeze(1) * observed[world.outcome(samples.x)]

    assert accept_means(enough_draws(draw, faults), truth, faults)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_gap_is_a_divergence_from_the_best_path(strength):
    """Every token may start anywhere: path* starts from a tilted law too, and that divergence is part of the gap."""
    tilt = WORLD.tilt()
    model = Doob(strength=strength).guided(tilt)
    gap = WORLD.gap(model, tilt)
    assert gap == pytest.approx(WORLD.alpha * WORLD.path_kl(model, tilt), abs=1e-10)
    assert 0 < gap < (2.0 if strength == 0 else 0.1)


def test_worlds_differ_by_their_schedule_and_seed():
    from tiltflow.core.schedules import Cosine

    assert not torch.equal(UniformWorld(3, 3, seed=4).p, WORLD.p)
    other = replace(WORLD, schedule=Cosine())
    assert not torch.allclose(other.value(WORLD.states, 0.5), WORLD.value(WORLD.states, 0.5))
    assert total_variation(other.base_law(other.tilt(steps=64).diffusion), other.p) < 0.05
    assert isinstance(other.diffusion.sampler, Ancestral)
    assert math.isfinite(other.log_z)


@pytest.mark.parametrize(("length", "vocab"), [(1, 3), (7, 3), (4, 1), (6, 5)])
def test_worlds_that_cannot_be_enumerated(length, vocab):
    with pytest.raises(ValueError, match="not enumerable"):
        UniformWorld(length, vocab)
