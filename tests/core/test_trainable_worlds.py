"""Worlds to train on: they begin at the exact denoiser, and on the line J and its largest value are right."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiltflow.core import Denoiser
from tiltflow.core.parameterisations.gaussian import Prediction
from tiltflow.core.samplers import DDIM, Ancestral, DPMSolver, EulerODE, FirstHitting
from tiltflow.core.states import one_hot
from tiltflow.core.tuning.rollouts import scored
from tiltflow.core.worlds import MaskedWorld, MixtureWorld, UniformWorld, trainable_tilt

WORLDS = {
    "masked": (MaskedWorld(3, 2, seed=1), {"sampler": FirstHitting()}),
    "parallel": (MaskedWorld(3, 2, seed=1), {"sampler": Ancestral(), "steps": 3}),
    "uniform": (UniformWorld(2, 3, seed=1), {"steps": 3}),
    "mixture": (MixtureWorld(1, seed=1), {"steps": 4}),
}


@pytest.mark.parametrize("name", WORLDS)
def test_training_begins_at_the_exact_denoiser(name):
    world, options = WORLDS[name]
    tilt, exact = trainable_tilt(world, **options), world.tilt(**options)
    assert sum(p.numel() for p in tilt.diffusion.denoiser.parameters()) > 10
    with torch.no_grad():
        law, own = world.base_law(exact.diffusion), world.base_law(tilt.diffusion)
        half, whole = (float(world.objective(tilt.diffusion, replace(tilt, alpha=alpha))) for alpha in (0.5, 1.0))
    assert torch.allclose(own, law, rtol=0, atol=1e-8)  # networks are asked at float32 times
    assert half == pytest.approx(whole, abs=1e-10)  # no divergence yet
    if name != "mixture":
        assert whole == pytest.approx(float(law @ world.rewards), abs=1e-8)


@pytest.mark.parametrize("name", ["parallel", "uniform"])
def test_tables_and_rewards_are_multilinear_between_tokens(name):
    world, options = WORLDS[name]
    tilt = trainable_tilt(world, **options)
    network, reward = tilt.diffusion.denoiser.network, tilt.reward_function
    t = torch.full((2,), float(tilt.diffusion.times[1]), dtype=torch.float64)
    x = world.sequences[[1, 6]]
    hot = one_hot(x, world.symbols, torch.float64)
    assert torch.allclose(network(hot, t), network(x, t), atol=1e-12)
    assert torch.allclose(reward(hot[..., : world.vocab]), reward(x), atol=1e-12)
    mixed = hot[:1].clone()
    mixed[0, 0] = 0.3 * mixed[0, 0] + 0.7 * one_hot(torch.tensor(1), world.symbols, torch.float64)
    other = x[:1].clone()
    other[0, 0] = 1
    expected = 0.3 * network(x[:1], t[:1]) + 0.7 * network(other, t[:1])
    assert torch.allclose(network(mixed, t[:1]), expected, atol=1e-12)
    assert torch.allclose(reward(mixed[..., : world.vocab]), 0.3 * reward(x[:1]) + 0.7 * reward(other), atol=1e-12)


def test_every_row_has_the_table_of_its_own_time():
    world, options = WORLDS["uniform"]
    diffusion = trainable_tilt(world, **options).diffusion
    x, times = world.sequences[:3], diffusion.times[:-1]
    found = diffusion.denoiser.network(x, times.flip(0) + 0.01)
    for row, t in enumerate(times.flip(0).tolist()):
        assert torch.allclose(found[row], world.posterior(t)[world.index(x[row])], atol=1e-12)


def test_other_worlds_are_refused():
    with pytest.raises(TypeError, match="No trainable model is known for a object"):
        trainable_tilt(object())


# --- J on the line ----------------------------------------------------------------------------------------------------


class Shifted(torch.nn.Module):
    """The exact posterior mean plus a number for each time of the grid."""

    def __init__(self, world, times, shifts):
        super().__init__()
        self.world, self.times, self.shifts = world, times, torch.nn.Parameter(shifts)

    def forward(self, x, t):
        slot = (self.times - t.double().unsqueeze(1)).abs().argmin(1)
        return self.world.posterior_mean(x, t) + self.shifts[slot].unsqueeze(1)


def shifted(world, tilt, shifts):
    network = Shifted(world, tilt.diffusion.times[:-1], shifts)
    return replace(tilt.diffusion, denoiser=Denoiser(network, Prediction(world.path, "x0")))


def doob_shifts(world, diffusion):
    """What Doob's transform of a chain of Gaussian steps adds to the clean estimate, where log h is linear.

    A step to s adds its variance times the slope of log h at s to the mean; the last one, b / (alpha SNR), see `path_kl`.
    """
    times = diffusion.times.tolist()
    slope, shifts = float(world._reward[0]) / world.alpha, []
    for t, s in reversed(list(pairwise(times))):
        x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        clean = diffusion.clean(x, t)
        step, moved = (diffusion.transition(x, t, s, clean=clean + d) for d in (0.0, 1.0))
        snr = float(world.path.log_snr(torch.tensor(t, dtype=torch.float64)).exp())
        variance = 1 / snr if step.deterministic else float(step.std.flatten()[0]) ** 2
        shifts.append(variance * slope / float(moved.mean[0] - step.mean[0]))
        slope *= float(step.mean[1] - step.mean[0])
    return torch.tensor(shifts[::-1], dtype=torch.float64)


def test_doobs_chain_has_no_gap_and_every_other_has_one():
    """One Gaussian and a linear reward: the transform changes the means of steps alone, so that a model can be it."""
    world = MixtureWorld(1, components=1, seed=2, alpha=0.4, quadratic=0.0, steps=5)
    tilt = world.tilt()
    best = doob_shifts(world, tilt.diffusion)
    gap = world.gap(tilt.diffusion, tilt)
    assert gap > 0.03
    found = [world.gap(shifted(world, tilt, best), tilt, points=points) for points in (150, 300, 600)]
    assert abs(found[2]) < 2e-5
    assert found[0] / found[1] == pytest.approx(4, rel=0.2)  # the error of the intervals is of second order
    for k in range(5):
        for side in (-0.1, 0.1):
            off = best.clone()
            off[k] += side
            assert world.gap(shifted(world, tilt, off), tilt, points=300) > found[1] + 1e-4


def test_j_on_the_line_is_that_of_draws_and_its_gradient_that_of_differences():
    world, options = WORLDS["mixture"]
    tilt = trainable_tilt(world, **options)
    shifts = torch.tensor([0.2, -0.1, 0.3, 0.15], dtype=torch.float64)
    model = shifted(world, tilt, shifts)
    with torch.no_grad():
        path = scored(model, tilt.diffusion, 200_000, generator=torch.Generator().manual_seed(0))
        draws = world.reward(path.x0) - tilt.alpha * path.kl
        exact = float(world.objective(model, tilt, points=600))
    assert abs(float(draws.mean()) - exact) < 4 * float(draws.std()) / 200_000**0.5
    (slope,) = torch.autograd.grad(world.objective(model, tilt), list(model.denoiser.parameters()))
    for k in range(4):
        bump = 1e-5 * torch.eye(4, dtype=torch.float64)[k]
        with torch.no_grad():
            up, down = (float(world.objective(shifted(world, tilt, shifts + d), tilt)) for d in (bump, -bump))
        assert float(slope[k]) == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_what_has_no_computed_j_is_refused():
    flat = MixtureWorld(2, steps=4)
    with pytest.raises(NotImplementedError, match="on the line"):
        flat.gap(flat.diffusion, flat.tilt())
    world = MixtureWorld(1, steps=4)
    with pytest.raises(NotImplementedError, match="single-step"):
        world.objective(world.tilt(sampler=DPMSolver()).diffusion, world.tilt())
    for sampler in (EulerODE(), DDIM(eta=0.0)):
        with pytest.raises(NotImplementedError, match="noisy samplers"):
            world.gap(world.tilt(sampler=sampler).diffusion, world.tilt(sampler=sampler))
