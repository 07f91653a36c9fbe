"""Trajectories in training: their divergence is the path's, their gradients those of the objective, their memory small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core.samplers import DDIM, Ancestral, FirstHitting
from tiltflow.core.tuning import DRAKES, AlignProp, GumbelSoftmax, Reinforce, Roles
from tiltflow.core.tuning.roles import frozen, trainable
from tiltflow.core.tuning.rollouts import backprop, scored

from ..acceptance import accept_means
from .tables import disturb, gradient, masked, mixture, uniform

HARD = GumbelSoftmax(0.5, None)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cast(tilt, scale: float = 0.5):
    """theta, away from the pretrained model, and the pretrained model."""
    return disturb(trainable(tilt.diffusion), scale), frozen(tilt.diffusion)


def roll(kind: str, theta, ref, n: int, **options):
    return backprop(theta, ref, n, HARD, **options) if kind == "backprop" else scored(theta, ref, n, **options)


WORLDS = {
    "masked": (masked, 3),
    "masked, many steps": (masked, 9),
    "uniform": (uniform, 3),
    "uniform, many steps": (uniform, 9),
}


@pytest.mark.parametrize("kind", ["backprop", "scored"])
@pytest.mark.parametrize("name", WORLDS)
def test_the_mean_divergence_is_that_of_the_enumerated_path(name, kind):
    """By enumeration: (E[r] - J) / alpha. A step's size that is left out, or counted twice, would be far off."""
    make, steps = WORLDS[name]
    world, tilt = make(steps)
    theta, ref = cast(tilt)
    with torch.no_grad():
        path = roll(kind, theta, ref, 6000, generator=seeded())
        expected = (world.base_law(theta) @ world.rewards - world.objective(theta, tilt)) / tilt.alpha
    tenth = (0.1 * expected).reshape(1, 1)
    assert accept_means(path.kl.unsqueeze(1), expected.unsqueeze(0), tenth)


@pytest.mark.parametrize("kind", ["backprop", "scored"])
def test_the_first_hitting_divergence_does_not_depend_on_a_number_of_steps(kind):
    """Masked: the sum over steps tends to the divergence of the one-at-a-time chain, which has no steps."""
    world, tilt = masked(sampler=FirstHitting())
    theta, _ = cast(tilt)
    limit = (world.base_law(theta) @ world.rewards - world.objective(theta, tilt)).detach() / tilt.alpha
    many = replace(theta, sampler=Ancestral(), steps=400)
    with torch.no_grad():
        path = roll(
            kind, many, replace(frozen(tilt.diffusion), sampler=Ancestral(), steps=400), 500, generator=seeded()
        )
    assert float(path.kl.mean()) == pytest.approx(float(limit), rel=0.1)


@pytest.mark.parametrize("make", [masked, uniform, mixture])
@pytest.mark.parametrize("kind", ["backprop", "scored"])
def test_the_pretrained_model_has_no_divergence_from_itself(make, kind):
    _, tilt = make()
    theta, ref = trainable(tilt.diffusion), frozen(tilt.diffusion)
    path = roll(kind, theta, ref, 32, generator=seeded())
    assert float(path.kl.detach().abs().max()) < 1e-12
    assert float(gradient(path.kl.mean(), theta).norm()) < 1e-10


@pytest.mark.parametrize("make", [masked, uniform, mixture])
@pytest.mark.parametrize("straight_through", [True, False])
def test_recomputed_steps_give_the_same_gradient_to_the_last_bit(make, straight_through):
    _, tilt = make()
    theta, ref = cast(tilt)
    tokens = GumbelSoftmax(0.7, None, straight_through)
    results = []
    for save_memory in (True, False):
        path = backprop(theta, ref, 16, tokens, generator=seeded(), save_memory=save_memory, last=3)
        results.append((path, gradient((tilt.reward(path.x0) - path.kl).sum(), theta)))
    (one, first), (two, second) = results
    assert torch.equal(one.x0, two.x0)
    assert torch.equal(one.kl, two.kl)
    assert torch.equal(first, second)
    assert float(first.norm()) > 0


@pytest.mark.parametrize("make", [masked, uniform])
def test_recomputed_scores_give_the_same_gradient_to_the_last_bit(make):
    _, tilt = make()
    theta, ref = cast(tilt)
    gradients = []
    for save_memory in (True, False):
        path = scored(theta, ref, 16, generator=seeded(), save_memory=save_memory)
        gradients.append(gradient((path.log_prob - path.kl).sum(), theta))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("make", [masked, uniform])
def test_hard_relaxed_paths_have_the_law_of_the_sampler(make):
    """Straight-through states are tokens, drawn by the model's own law: each sequence as often as it should be."""
    world, tilt = make()
    theta, _ = cast(tilt)
    with torch.no_grad():
        x0 = backprop(theta, None, 24_000, HARD, generator=seeded()).x0
        law = world.base_law(theta)
    assert torch.equal(x0, x0.round())
    hits = torch.nn.functional.one_hot(world.outcome(x0.argmax(-1)), len(law)).double()
    top = law.argsort()[-5:]
    assert accept_means(hits[:, top], law[top], torch.diag(0.2 * law[top]))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("make", [masked, uniform])
def test_gradients_do_not_grow_without_bound_with_the_steps(make, straight_through, temperature):
    """Through a copy that carries the relaxed gradient they grow 1e8-fold and more over 50 steps."""
    _, tilt = make(50)
    theta, _ = cast(tilt)
    tokens = GumbelSoftmax(temperature, None, straight_through)
    norms = []
    for last in (5, 25, 50):
        path = backprop(theta, None, 128, tokens, generator=seeded(), last=last, save_memory=False)
        norms.append(float(gradient(tilt.reward(path.x0).mean(), theta).norm()))
    assert norms[0] > 0
    assert max(norms) < 15 * norms[0]  # about the sum of ten times as many bounded terms


def test_cut_off_steps_carry_no_gradient_and_change_nothing_else():
    _, tilt = masked(6)
    theta, ref = cast(tilt)
    whole = backprop(theta, ref, 16, HARD, generator=seeded())
    short = backprop(theta, ref, 16, HARD, generator=seeded(), last=2)
    assert torch.equal(whole.x0, short.x0)
    assert torch.equal(whole.kl, short.kl)
    assert not torch.equal(gradient(whole.x0.square().sum(), theta), gradient(short.x0.square().sum(), theta))


def estimates(method, tilt, theta, ref, batches: int):
    """Gradients of the loss `[batches, weights]`, negated: of J."""
    roles = Roles(theta, ref, {})
    return torch.stack([-gradient(method.loss(tilt, roles, None, seeded(k), 1.0).value, theta) for k in range(batches)])


@pytest.mark.parametrize(("make", "sampler"), [(masked, FirstHitting()), (masked, Ancestral()), (uniform, Ancestral())])
def test_reinforce_is_unbiased(make, sampler):
    """Against the exact gradient, along it and along fixed random directions; a gradient that is half as long
    would be seen."""
    world, tilt = make(3)
    tilt = replace(tilt, diffusion=replace(tilt.diffusion, sampler=sampler))
    theta, ref = cast(tilt)
    exact = gradient(world.objective(theta, tilt), theta)
    reward = gradient(world.base_law(theta) @ world.rewards, theta)
    directions = torch.randn(len(exact), 4, generator=seeded(9), dtype=torch.float64)
    directions = torch.nn.functional.normalize(
        torch.cat([exact.unsqueeze(1), reward.unsqueeze(1), directions], 1), dim=0
    )
    found = estimates(DRAKES(batch=64, estimator=Reinforce(), save_memory=False), tilt, theta, ref, 150)
    half = (-exact / 2 @ directions).unsqueeze(0)
    assert accept_means(found @ directions, exact @ directions, half)


def bias(make, tokens: GumbelSoftmax, last: int | None = None, n: int = 6000) -> float:
    """|E[estimate] - exact| / |exact|, from two independent batches, so that noise does not add to it."""
    world, tilt = make(4)
    theta, ref = cast(tilt)
    exact = gradient(world.objective(theta, tilt), theta)
    errors = []
    for seed in (0, 1):
        path = backprop(theta, ref, n, tokens, generator=seeded(seed), last=last, save_memory=False)
        errors.append(gradient((tilt.reward(path.x0) - tilt.alpha * path.kl).mean(), theta) - exact)
    return float((errors[0] @ errors[1]).clamp(min=0).sqrt() / exact.norm())


def test_the_gumbel_bias_falls_with_the_temperature():
    """Measured, straight-through: .43, .26, .12, .06 of the exact gradient."""
    found = [bias(masked, GumbelSoftmax(temperature, None)) for temperature in (2.0, 1.0, 0.5, 0.3)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.35
    assert found[-1] < 0.1
    assert bias(uniform, GumbelSoftmax(0.3, None)) < 0.3 < bias(uniform, GumbelSoftmax(2.0, None))


def test_the_gumbel_bias_falls_with_longer_backpropagation():
    """Measured at temperature .3: .51, .32, .06 for the last 1, 2, 4 of 4 steps."""
    found = [bias(masked, GumbelSoftmax(0.3, None), last) for last in (1, 2, 4)]
    assert found[0] > 0.45
    assert 0.25 < found[1] < 0.4
    assert found[2] < 0.1


def test_the_last_step_of_continuous_states_is_not_free():
    """An atom has no finite divergence from another. Free of charge, a model could gain all the reward in that step."""
    _, tilt = mixture(8)
    theta, ref = trainable(tilt.diffusion), frozen(tilt.diffusion)
    with torch.no_grad():
        x1 = theta.prior(4, generator=seeded())
        for parameter in theta.denoiser.parameters():
            parameter.zero_()
        list(theta.denoiser.parameters())[-1].fill_(0.1)  # the clean estimate moves by .1, at every time
        path = backprop(theta, ref, 4, HARD, generator=seeded())
    times = theta.times
    snr = ((1 - times) / times) ** 2
    steps = (snr[1:-1] - snr[:-2]) / 2 * 0.01  # DDPM's steps
    expected = float(steps.sum() + snr[-2] / 2 * 0.01)
    assert path.kl.tolist() == pytest.approx([expected] * len(x1), rel=1e-9)


def test_reparameterised_gradients_are_those_of_finite_differences():
    _, tilt = mixture(6)
    theta, ref = cast(tilt, 0.1)

    def value():
        path = backprop(theta, ref, 8, HARD, generator=seeded())
        return (tilt.reward(path.x0) - tilt.alpha * path.kl).mean()

    slope = gradient(value(), theta)
    weights = torch.nn.utils.parameters_to_vector(theta.denoiser.parameters()).detach()
    direction = torch.randn(weights.shape, generator=seeded(2), dtype=torch.float64)
    ends = []
    for side in (1e-5, -1e-5):
        torch.nn.utils.vector_to_parameters(weights + side * direction, theta.denoiser.parameters())
        ends.append(float(value().detach()))
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(slope @ direction), rel=1e-6)


def test_an_ode_has_paths_without_divergence():
    _, tilt = mixture(8, sampler=DDIM(eta=0.0))
    theta, _ = cast(tilt, 0.1)
    roles = Roles(theta, frozen(tilt.diffusion), {})
    loss = AlignProp(batch=8, kl=False).loss(tilt, roles, None, seeded(), 0.0)
    assert loss.facts["kl"] == 0
    assert float(gradient(loss.value, theta).norm()) > 0


def test_the_time_grid_may_be_uneven():
    _, tilt = masked()
    model = replace(tilt.diffusion, grid=torch.tensor([1.0, 0.7, 0.1, 0.0], dtype=torch.float64))
    path = backprop(trainable(model), frozen(model), 5, HARD, generator=seeded())
    assert torch.equal(path.x0.sum(-1), torch.ones_like(path.x0[..., 0]))
