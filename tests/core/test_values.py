"""Soft values V = alpha log E[exp(r / alpha) | x_t]: exact, estimated and learned."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiltflow.core import (
    Completions,
    Denoiser,
    Diffusion,
    Given,
    Meter,
    PosteriorMean,
    RewardError,
    Rollout,
    Subs,
    Tilt,
    Value,
    fit_value,
    values,
)
from tiltflow.core.denoiser import Known
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral, FirstHitting
from tiltflow.core.worlds import MaskedWorld

from .acceptance import accept_means

WORLD = MaskedWorld(3, 3, seed=3)


def ancestral(count, world=WORLD, value=None):
    return world.tilt(steps=count, sampler=Ancestral(), value=value)


# --- exact values ---------------------------------------------------------------------------------------------------


def test_the_exact_value_by_enumeration():
    for state, value in zip(WORLD.states, WORLD.value(WORLD.states), strict=True):
        agrees = ((WORLD.sequences == state) | (state == 3)).all(1)
        p, r = WORLD.p[agrees], WORLD.rewards[agrees]
        expected = WORLD.alpha * math.log(float((p * (r / WORLD.alpha).exp()).sum() / p.sum()))
        assert float(value) == pytest.approx(expected, abs=1e-10)
    assert float(WORLD.value(WORLD.states[-1:])) == pytest.approx(WORLD.alpha * WORLD.log_z, abs=1e-10)


@pytest.mark.parametrize("world", [WORLD, MaskedWorld(4, 3, alpha=0.1)], ids=str)
def test_the_tower_property(world):
    """V at t is alpha log E[exp(V / alpha)] at s, under the world's own kernel, at every state."""
    diffusion = world.diffusion
    for t, s in itertools.pairwise(diffusion.times.tolist()):
        ahead = world.kernel(diffusion, t, s) @ world.h(world.states)
        torch.testing.assert_close(world.alpha * ahead.log(), world.value(world.states), rtol=0, atol=1e-10)


def test_doobs_transform_with_the_exact_value_is_the_tilted_law():
    law = torch.zeros(len(WORLD.states), dtype=torch.float64)
    law[-1] = 1
    h = WORLD.h(WORLD.states)
    for t, s in itertools.pairwise(WORLD.diffusion.times.tolist()):
        law = law @ (WORLD.kernel(WORLD.diffusion, t, s) * h / h.unsqueeze(1))
    torch.testing.assert_close(law[WORLD.full], WORLD.tilted, rtol=0, atol=1e-10)


def test_at_the_data_the_value_is_the_reward():
    tilt = WORLD.tilt(value=Completions(3))
    assert torch.equal(tilt.evaluate(WORLD.sequences, 0.0).value, WORLD.rewards)


# --- completions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tenths():
    """A law of three sites whose site masses are tenths: a comb of ten uniforms a site integrates it exactly."""
    mass = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.5, 0.0], [0.2, 0.7, 0.1]], dtype=torch.float64)
    denoiser = Denoiser(lambda x, t: mass.log().expand(len(x), -1, -1), Subs(3), time_invariant=True)
    diffusion = Diffusion(Masked(3), denoiser, (3,), steps=4)
    joint = torch.stack([mass[torch.arange(3), x].prod() for x in WORLD.sequences])
    return diffusion, joint


@pytest.mark.parametrize("n", [1, 4, 1000])
def test_completions_are_unbiased_in_exp(n, tenths, midpoints, monkeypatch):
    """The mean of exp(V / alpha) over all uniforms is E[exp(r / alpha)] under the factorised estimate, whatever n."""
    diffusion, joint = tenths
    tilt = Tilt(diffusion, WORLD.reward, WORLD.alpha, value=Completions(n))
    u = torch.cartesian_prod(*[midpoints(10)] * 3)  # [1000, 3]
    monkeypatch.setattr(values, "uniform", lambda shape, *_: u.reshape(shape))
    x = torch.full((1000 // n, 3), 3)
    found = tilt.evaluate(x, 0.5)
    expected = float((joint * (WORLD.rewards / WORLD.alpha).exp()).sum())
    assert float((found.value / WORLD.alpha).exp().mean()) == pytest.approx(expected, rel=1e-10)
    assert torch.equal(found.clean, diffusion.clean(x, 0.5))


def test_completions_keep_the_tokens_that_are_there(tenths, generator):
    asked = []

    def reward(x):
        asked.append(x)
        return torch.zeros(len(x))

    x = torch.tensor([[2, 3, 0], [3, 1, 3]])
    Tilt(tenths[0], reward, 0.5, value=Completions(50)).evaluate(x, 0.5, generator=generator(0))
    completed = torch.cat(asked)
    assert bool((completed < 3).all())
    fits = [((completed == row) | (row == 3)).all(1) for row in x]
    assert bool((fits[0] | fits[1]).all())
    assert all(bool(fit.any()) for fit in fits)


def test_the_default_value():
    assert Tilt(WORLD.diffusion, WORLD.reward, 0.5).value == Completions(1)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None])
def test_numbers_of_completions_and_rollouts(n):
    with pytest.raises(ValueError, match="expected an integer of at least 1"):
        Completions(n)
    with pytest.raises(ValueError, match="expected an integer of at least 1"):
        Rollout(n)
    if n is not None:
        with pytest.raises(ValueError, match="steps="):
            Rollout(2, n)


# --- posterior mean -------------------------------------------------------------------------------------------------


class Relaxed:
    """A reward on relaxed sequences that is linear in each site: 0, 1, 2 for the three tokens."""

    takes, differentiable = "relaxed", True

    def __call__(self, x):
        if not x.is_floating_point():
            return x.double().sum(1)
        return (x * torch.arange(3.0)).sum((1, 2))


def test_the_posterior_mean(tenths):
    diffusion, _ = tenths
    x = torch.tensor([[3, 0, 3], [2, 3, 1]])
    decoded = Tilt(diffusion, WORLD.reward, 0.5, value=PosteriorMean()).evaluate(x, 0.5)
    assert torch.equal(decoded.value, WORLD.reward(torch.tensor([[2, 0, 1], [2, 0, 1]])))
    soft = Tilt(diffusion, Relaxed(), 0.5, value=PosteriorMean("soft")).evaluate(x, 0.5)
    torch.testing.assert_close(soft.value, torch.tensor([1.5 + 0 + 0.9, 2 + 0.5 + 1]).double())


def test_soft_decoding_needs_a_relaxed_reward():
    with pytest.raises(ValueError, match="relaxed"):
        Tilt(WORLD.diffusion, WORLD.reward, 0.5, value=PosteriorMean("soft"))
    with pytest.raises(ValueError, match="'argmax' or 'soft'"):
        PosteriorMean("mean")


# --- rollouts -------------------------------------------------------------------------------------------------------


def own_h(tilt, start):
    """E[exp(r / alpha)] from every state at grid index `start` under the sampler's own kernels, float64 `[S]`."""
    h = torch.zeros(len(WORLD.states), dtype=torch.float64)
    h[WORLD.full] = (WORLD.rewards / tilt.alpha).exp()
    times = tilt.diffusion.times.tolist()
    for t, s in reversed(list(itertools.pairwise(times[start:]))):
        h = WORLD.kernel(tilt.diffusion, t, s) @ h
    return h


@pytest.mark.parametrize("n", [1, 3])
def test_rollouts_are_unbiased_for_the_samplers_own_law(n, generator):
    """Two steps from the start, an ancestral sampler is far from one site at a time; rollouts follow the former."""
    tilt = ancestral(3, value=Rollout(n))
    t = float(tilt.diffusion.times[1])
    h = own_h(tilt, 1)
    rows = torch.tensor([63, 31, 15])  # all masks, and one known token at the first site
    count = 60_000
    x = WORLD.states[rows].repeat(count, 1)
    found = (tilt.evaluate(x, t, generator=generator(n)).value / tilt.alpha).exp().reshape(count, 3)
    one_site_at_a_time, all_at_once = WORLD.h(WORLD.states)[rows], own_h(ancestral(1), 0)[rows]
    faults = torch.stack([one_site_at_a_time, all_at_once]) - h[rows]
    assert accept_means(found, h[rows], faults)


def test_many_rollouts_are_the_value(generator):
    tilt = replace(WORLD.tilt(), value=Rollout(20_000))
    t = float(tilt.diffusion.times[1])
    x = torch.tensor([[3, 1, 3], [0, 3, 3]])
    exact = WORLD.value(x)
    found = tilt.evaluate(x, t, generator=generator(0)).value
    assert float((found - exact).abs().max()) < 0.03
    assert float((exact[0] - exact[1]).abs()) > 0.1


def test_rollouts_can_skip_steps_and_start_between_them(generator):
    tilt = ancestral(40, value=Rollout(2))
    seen = []
    watched = replace(tilt, reward_function=lambda x: (seen.append(x), WORLD.reward(x))[1])
    x = torch.full((5, 3), 3)
    for value, rows in [(Rollout(2, steps=3), 2 * 5 * 2 + 1), (Rollout(2), 2 * 5 * 38 + 1)]:
        with Meter() as meter:
            replace(watched, value=value).evaluate(x, 0.987, generator=generator(0))
        assert 5 < meter.cost.forward_rows <= rows
    replace(watched, value=Rollout(1)).evaluate(x, 0.001, generator=generator(0))  # after the last time but one
    assert bool((torch.cat(seen) < 3).all())


def test_rollouts_must_not_skip_sites():
    with pytest.raises(ValueError, match="one for every mask"):
        replace(WORLD.tilt(), value=Rollout(2, steps=1)).evaluate(WORLD.states[-1:], 1.0)


# --- cost -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "calls"), [(Completions(1), 8), (Completions(5), 40), (PosteriorMean(), 8)], ids=str)
def test_a_point_is_denoised_once_and_the_estimate_is_handed_on(value, calls, generator):
    tilt = ancestral(10, value=value)
    x = WORLD.states[[63, 60, 60, 51, 15, 63, 12, 3]]
    with Meter() as meter:
        found = tilt.evaluate(x, 0.5, generator=generator(0))
        assert meter.cost.forward_rows == 6
        tilt.diffusion.transition(x, 0.5, 0.4, clean=found.clean)
        again = tilt.evaluate(x, 0.4, generator=generator(0), known=Known(x, found.clean))
    assert meter.cost.forward_rows == 6  # nothing changed, nothing denoised
    assert 1 <= meter.cost.reward_calls <= 2 * calls
    assert torch.equal(again.clean, found.clean)


# --- given and learned ----------------------------------------------------------------------------------------------


def test_a_callable_is_a_value():
    tilt = Tilt(WORLD.diffusion, WORLD.reward, 0.5, value=lambda x, t: [t] * len(x))
    assert tilt.evaluate(WORLD.states[:4], 0.25).value.tolist() == [0.25] * 4
    assert isinstance(tilt.value, Given)
    assert isinstance(tilt.value, Value)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda x, t: torch.zeros(len(x), 1), r"\(4, 1\)"),
        (lambda x, t: torch.zeros(len(x) + 1), r"\(5,\)"),
        (lambda x, t: torch.tensor(1.0), r"\(\)"),
        (lambda x, t: torch.full((len(x),), torch.nan), "NaN"),
        (lambda x, t: torch.full((len(x),), torch.inf), r"\+inf"),
    ],
)
def test_a_given_value_is_checked(function, word):
    tilt = Tilt(WORLD.diffusion, WORLD.reward, 0.5, value=function)
    with pytest.raises(ValueError, match=word):
        tilt.evaluate(WORLD.states[:4], 0.5)


@pytest.mark.parametrize("value", [PosteriorMean, Completions, 3.0, "soft"])
def test_what_is_no_value_is_refused(value):
    with pytest.raises(TypeError, match="value is"):
        Tilt(WORLD.diffusion, WORLD.reward, 0.5, value=value)


class Table(torch.nn.Module):
    """One number for each lattice state."""

    def __init__(self, world):
        super().__init__()
        self.world = world
        self.numbers = torch.nn.Parameter(torch.zeros(len(world.states), dtype=torch.float64))

    def forward(self, x, t):
        assert t.shape == (len(x),)
        return self.numbers[self.world.index(x)]


@pytest.fixture(scope="module")
def small():
    return MaskedWorld(2, 2, seed=1, alpha=0.7)


@pytest.mark.parametrize("target", ["soft", "mean"])
def test_a_learned_value_is_the_conditional_expectation(target, small, generator):
    """A table can hold any function, so the fit must find E[. | x_t] itself: soft and mean apart.

    The tolerance: Adam at rate .01 wanders by a few hundredths around the minimum, while the two targets differ by more
    than a tenth where the state leaves something open.
    """
    network = Table(small)
    losses = []
    found = fit_value(
        small.tilt(),
        network,
        steps=500,
        batch=256,
        target=target,
        learning_rate=0.01,
        generator=generator(0),
        on_step=lambda step, loss: losses.append(loss),
    )
    learned = found.function(small.states, 0.5)
    mean = small.marginal(small.p * small.rewards) / small.marginal(small.p)
    soft = small.value(small.states)
    gaps = {"soft": (learned - soft).abs(), "mean": (learned - mean).abs()}
    other = "mean" if target == "soft" else "soft"
    unclear = (soft - mean) > 0.1
    assert int(unclear.sum()) >= 3
    assert float(gaps[target].max()) < 0.05
    assert bool((gaps[target][unclear] < gaps[other][unclear] / 2).all())
    assert sum(losses[-50:]) < sum(losses[:50])
    assert not learned.requires_grad


def test_learning_survives_rewards_of_minus_infinity(small, generator):
    """A batch without one possible sample came first: the largest reward so far is then -inf."""

    batches = []

    def reward(x):
        batches.append(len(x))
        return torch.where((x == 1).all(1) & (len(batches) > 3), 0.0, -math.inf)

    network = Table(small)
    tilt = Tilt(small.diffusion, reward, 0.7)
    found = fit_value(tilt, network, steps=200, batch=20, learning_rate=0.05, generator=generator(3))
    learned = found.function(small.states, 0.5)
    assert bool(learned.isfinite().all())
    possible = ((small.states == 1) | (small.states == 2)).all(1)
    assert float(learned[~possible].max()) < float(learned[possible].min())
    with pytest.raises(ValueError, match="mean reward is -inf"):
        fit_value(tilt, network, steps=5, target="mean", generator=generator(0))
    with pytest.raises(ValueError, match="'soft' or 'mean'"):
        fit_value(tilt, network, steps=5, target="median")


def test_a_learned_value_steers(small, generator):
    from tiltflow.core import SVDD

    exact = Table(small)
    with torch.no_grad():
        exact.numbers.copy_(small.value(small.states))
    tilt = replace(small.tilt(), value=Given(values._frozen(exact)))
    one = SVDD(4).sample(tilt, 50, generator=generator(0))
    two = SVDD(4).sample(small.tilt(), 50, generator=generator(0))
    assert torch.equal(one.x, two.x)


def test_nan_rewards_inside_a_value_are_caught(generator):
    tilt = Tilt(WORLD.diffusion, lambda x: torch.full((len(x),), torch.nan), 0.5)
    with pytest.raises(RewardError, match="NaN"):
        tilt.evaluate(WORLD.states[-2:], 0.5, generator=generator(0))


def test_first_hitting_and_rollout_agree_on_the_steps_left(generator):
    """At the k-th time there are L - k masks and as many steps: every rollout ends without a mask."""
    tilt = replace(WORLD.tilt(sampler=FirstHitting()), value=Rollout(3))
    for k, t in enumerate(tilt.diffusion.times.tolist()[:-1]):
        x = torch.tensor([[0] * k + [3] * (3 - k)])
        assert bool(tilt.evaluate(x, t, generator=generator(k)).value.isfinite().all())
