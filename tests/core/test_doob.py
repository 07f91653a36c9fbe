"""Doob's h-transform: the exact h gives p* itself; any other is corrected by its weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiltflow.core import SMC, SVDD, Completions, Denoiser, Diffusion, Doob, Given, PosteriorMean, Subs, Tilt
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral, FirstHitting
from tiltflow.core.steering.doob import gradient
from tiltflow.core.worlds import MaskedWorld, total_variation

from .acceptance import accept_law, contaminated, sample_size
from .worldlaws import draws

WORLDS = [
    MaskedWorld(3, 3, seed=3, alpha=0.3),
    MaskedWorld(4, 3, seed=1, alpha=1.0),
    MaskedWorld(5, 2, seed=5, alpha=0.2),
]
WORLD = WORLDS[0]


# --- identities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_the_exact_h_reproduces_the_tilted_law(world):
    tilt = world.tilt()
    assert total_variation(world.law(Doob(), tilt), world.tilted) < 1e-10
    assert world.gap(Doob().guided(tilt), tilt) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_the_guided_estimate_is_the_exact_denoiser_of_the_tilted_law(world):
    tilted = replace(world)
    tilted.__dict__["p"] = world.tilted
    guided = Doob().guided(world.tilt()).clean(world.states, 0.5)
    torch.testing.assert_close(guided, tilted.posterior, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", [Doob(), SMC(4, proposal=Doob()), SMC(4, threshold=1.0, proposal=Doob())], ids=str)
def test_with_the_exact_h_every_weight_is_z(method, generator):
    samples = method.sample(WORLD.tilt(), 500, generator=generator(0))
    torch.testing.assert_close(samples.log_weight, torch.full_like(samples.log_weight, WORLD.log_z), rtol=0, atol=1e-9)
    assert len(samples.x.unique(dim=0)) > 3


def test_parallel_steps_keep_the_bias_of_the_sampler():
    """Doob in T ancestral steps is the T-step sampler of the tilted model, about 1 / T from p*."""
    distance = []
    for steps in (8, 16, 32):
        tilt = WORLD.tilt(steps=steps, sampler=Ancestral())
        distance.append(total_variation(WORLD.law(Doob(), tilt), WORLD.tilted))
    assert distance[0] / distance[1] == pytest.approx(2, abs=0.15)
    assert distance[1] / distance[2] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_strength_multiplies_log_h(strength):
    """At the last step the law of the token is p(k) h(k)^strength."""
    tilt = WORLD.tilt()
    x = torch.tensor([[0, 2, 3]])
    clean = tilt.diffusion.clean(x, 0.3)
    _, guided, _ = Doob(strength=strength).estimate(tilt, x, 0.3, clean)
    whole = torch.tensor([[0, 2, k] for k in range(3)])
    expected = (clean[0, 2] + strength * WORLD.reward(whole) / WORLD.alpha).log_softmax(-1)
    torch.testing.assert_close(guided[0, 2], expected, rtol=0, atol=1e-12)
    assert torch.equal(guided[0, :2], clean[0, :2])


def test_the_value_of_a_state_comes_with_the_guidance():
    tilt, x = WORLD.tilt(), WORLD.states[(WORLD.states == 3).any(1)]
    _, _, value = Doob().estimate(tilt, x, 0.5, None)
    torch.testing.assert_close(value, WORLD.value(x), rtol=0, atol=1e-10)


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, PosteriorMean()], ids=["exact", "plug-in"])
def test_draws_follow_the_law(value):
    tilt = WORLD.tilt(value=value)
    law = WORLD.law(Doob(), tilt)
    faults = [
        contaminated(law, 0.02),
        WORLD.law(Doob(strength=0.9), tilt),
        WORLD.law(SVDD(8), tilt),
        WORLD.law(Doob(), WORLD.tilt(value=value, steps=3, sampler=Ancestral())),
    ]
    assert accept_law(draws(Doob(), WORLD, tilt, sample_size(law, faults), seed=2), law, faults)


def test_every_point_is_denoised_once(generator):
    """T forward rows a sample for a value that needs none, and nothing for rows that are the same."""
    tilt = WORLD.tilt(value=Completions(1))
    samples = Doob().sample(tilt, 50, generator=generator(0))
    assert samples.cost.forward_rows <= 1 + 2 * 27  # distinct states only
    assert samples.cost.backward_rows == 0


# --- first order ----------------------------------------------------------------------------------------------------


class Additive:
    """A reward that is a sum over sites: its relaxed form is linear, so the first order is exact."""

    takes, differentiable = "relaxed", True
    table = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4], [-0.6, 0.9, 0.2]], dtype=torch.float64)

    def __call__(self, x):
        soft = torch.nn.functional.one_hot(x, 3).double() if not x.dtype.is_floating_point else x.double()
        return (soft * self.table).sum((1, 2))


def independent(sampler, reward, value):
    """A model of independent sites, for which the posterior mean of a linear reward is linear in the relaxed state."""
    logits = torch.tensor([[0.2, 0.0, -0.3], [0.0, 0.5, 0.1], [1.0, 0.0, 0.0]], dtype=torch.float64)

    def network(x, t):
        return logits.expand(len(x), -1, -1) + (0 * x[..., :3] if x.dtype.is_floating_point else 0)

    denoiser = Denoiser(network, Subs(3), time_invariant=True)
    return Tilt(Diffusion(Masked(3), denoiser, (3,), steps=4, sampler=sampler), reward, 0.5, value=value)


def test_first_order_is_exact_for_a_linear_value():
    tilt = independent(FirstHitting(), Additive(), PosteriorMean("soft"))
    x = torch.tensor([[3, 3, 3], [0, 3, 3], [3, 1, 3]])
    _, exact, _ = Doob().estimate(tilt, x, 0.5, None)
    clean, first, value = Doob("first-order").estimate(tilt, x, 0.5, None)
    torch.testing.assert_close(first, exact.to(first), rtol=0, atol=1e-6)
    torch.testing.assert_close(value, Additive()(clean.exp()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", [FirstHitting(), Ancestral()], ids=str)
def test_first_order_takes_one_forward_and_one_backward_row(sampler, generator):
    tilt = independent(sampler, Additive(), PosteriorMean("soft"))
    samples = Doob("first-order").sample(tilt, 10, generator=generator(0))
    steps = 3 if isinstance(sampler, FirstHitting) else 4
    assert samples.cost.forward_rows <= 10 * steps
    assert samples.cost.backward_rows == samples.cost.forward_rows


def test_the_gradient_is_that_of_finite_differences():
    tilt = independent(FirstHitting(), Additive(), PosteriorMean("soft"))
    x = torch.nn.functional.one_hot(torch.tensor([[3, 1, 3]]), 4).double()
    slope, value, _ = gradient(tilt, x, 0.5)
    for site, token in [(0, 0), (0, 2), (1, 1), (2, 3)]:
        moved = x.clone()
        moved[0, site, token] += 1e-5
        numeric = (tilt.evaluate(moved, 0.5).value - value) / 1e-5 / tilt.alpha
        assert float(slope[0, site, token]) == pytest.approx(float(numeric), abs=1e-3)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_guided_is_refused():
    with pytest.raises(ValueError, match="neighbours"):
        Doob("second-order")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength"):
        Doob(strength=math.nan)
    with pytest.raises(ValueError, match="differentiable"):
        Doob("first-order").sample(WORLD.tilt(value=PosteriorMean()), 2)
    with pytest.raises(ValueError, match="draws at random"):
        Doob("first-order").sample(WORLD.tilt(value=Completions(1)), 2)
    with pytest.raises(ValueError, match="argmax has no gradient"):
        Doob("first-order").sample(independent(FirstHitting(), Additive(), PosteriorMean()), 2)
    with pytest.raises(ValueError, match="draws at random"):
        Doob().guided(WORLD.tilt(value=Completions(1)))
    with pytest.raises(ValueError, match="differentiable"):
        SMC(4, proposal=Doob("first-order")).sample(WORLD.tilt(value=PosteriorMean()), 2)


def test_a_value_of_minus_infinity_is_no_dead_end(generator):
    """A value that forbids everything guides nowhere, and the weights stay those of the base law."""
    never = WORLD.tilt(value=Given(lambda x, t: torch.full((len(x),), -math.inf)))
    samples = Doob().sample(never, 100, generator=generator(0))
    torch.testing.assert_close(samples.log_weight, WORLD.reward(samples.x) / WORLD.alpha, rtol=0, atol=1e-10)
