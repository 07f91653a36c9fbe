"""Step policy gradients: ratios, exact mean gradients and fixed points on worlds, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import Tilt
from tiltflow.core.samplers import DDIM, Ancestral, Confidence, DPMSolver, FirstHitting, InterpolantSDE
from tiltflow.core.tuning.credit import LeaveOneOut, Normalised, Ranks
from tiltflow.core.tuning.policy_gradient import DDPO, GRPO, PolicyGradient, clipped
from tiltflow.core.tuning.roles import cast_roles
from tiltflow.core.worlds import MaskedWorld
from torch import Tensor

from ..acceptance import accept_means
from .policies import seeded, small, tabular, tilted_logits
from .tables import gradient

MODELS = [
    ("masked", Ancestral()),
    ("uniform", Ancestral()),
    ("flow", Ancestral()),
    ("flow", InterpolantSDE()),
    ("vp", DDIM(eta=0.7)),
]
WORLD = MaskedWorld(2, 2, seed=1, alpha=0.5)


def one_round(method: GRPO, tilt: Tilt, seed: int = 0):
    """Roles of an untrained run, and a round of trajectories."""
    roles = cast_roles(tilt.diffusion, method.averages)
    with torch.no_grad():
        return roles, method.collect(tilt, roles, seeded(seed))


@pytest.mark.parametrize(("kind", "sampler"), MODELS)
@pytest.mark.parametrize("updates", [1, 3])
def test_ratios_are_one_before_the_first_update(kind, sampler, updates):
    """Then the loss is minus the advantages' mean, 0, plus the divergence from the reference, 0: exactly."""
    tilt = small(kind, sampler=sampler)
    method = GRPO(batch=8, updates=updates, clip_ratio=1e-12, save_memory=False)
    roles, batch = one_round(method, tilt)
    assert len(batch.moves) == (3 if kind in ("flow", "vp") else 4)  # the last Gaussian step has no noise
    for k in batch.moves:
        loss, kl, outside = method._term(tilt, roles, batch, k)
        assert torch.equal(loss, -batch.advantage[k])
        assert torch.equal(kl, torch.zeros_like(kl))
        assert not bool(outside.any())


@pytest.mark.parametrize(("kind", "sampler"), MODELS)
def test_first_gradient_is_that_of_advantage_times_log_probability(kind, sampler):
    tilt = small(kind, sampler=sampler)
    method = PolicyGradient(batch=8, updates=2)
    roles, batch = one_round(method, tilt)
    found = gradient(method.loss(tilt, roles, batch, seeded(1), 0.0).value, roles.theta)
    times = tilt.diffusion.times.tolist()
    score = torch.zeros(8, dtype=torch.float64)
    for k in batch.moves:
        step = roles.theta.transition(batch.x[k], times[k], times[k + 1])
        score = score + batch.advantage[k] * step.log_prob(batch.x[k + 1])
    assert torch.allclose(found, -gradient(score.mean(), roles.theta), atol=1e-10)
    assert float(found.norm()) > 1e-3


def perturbed(world: MaskedWorld, sampler) -> tuple[Tilt, Tensor]:
    """A world's tilt, and logits away from its denoiser's."""
    logits = world.posterior.clamp(min=-30)
    noise = torch.randn(logits.shape, dtype=torch.float64, generator=seeded(7))
    return Tilt(tabular(world, sampler), world.reward, world.alpha), logits + 0.7 * noise


def gradients_of(method: GRPO, tilt: Tilt, logits: Tensor, rounds: int) -> tuple[Tensor, object]:
    """Gradients of minus the loss `[rounds, parameters]` at given logits, and the roles."""
    roles = cast_roles(tilt.diffusion, method.averages)
    with torch.no_grad():
        next(roles.theta.denoiser.parameters()).copy_(logits.clamp(min=-30))
    found = []
    for seed in range(rounds):
        with torch.no_grad():
            batch = method.collect(tilt, roles, seeded(seed))
        found.append(-gradient(method.loss(tilt, roles, batch, seeded(seed), 0.0).value, roles.theta))
    return torch.stack(found), roles


@pytest.mark.parametrize("sampler", [FirstHitting(), Ancestral()])
def test_mean_gradient_is_that_of_the_objective(sampler):
    """E[gradient] = grad (E[r] - alpha KL(path)), computed by enumeration; an alpha off by 15 % would be seen."""
    tilt, logits = perturbed(WORLD, sampler)
    rows, roles = gradients_of(PolicyGradient(batch=4096, group=8, save_memory=False), tilt, logits, 60)
    exact = gradient(WORLD.objective(roles.theta, tilt), roles.theta)
    fault = gradient(WORLD.objective(roles.theta, replace(tilt, alpha=1.15 * tilt.alpha)), roles.theta) - exact
    used = exact != 0
    assert accept_means(rows[:, used], exact[used], fault[used].unsqueeze(0))


def test_the_tilted_law_is_the_fixed_point():
    """At p*, whatever the scale of the advantages; with alpha in place of the whole divergence (published) it is not."""
    tilt, _ = perturbed(WORLD, FirstHitting())
    logits = tilted_logits(WORLD)
    assert WORLD.gap(tabular(WORLD, FirstHitting(), logits=logits), tilt) < 1e-9
    # Given the first step, the return of p* less later divergences is the same for all: no advantage, no gradient.
    rows, _ = gradients_of(GRPO(batch=1024, save_memory=False), tilt, logits, 60)
    published, _ = gradients_of(GRPO(batch=1024, beta=0.5, save_memory=False), tilt, logits, 60)
    used = rows.std(0) > 0
    shift = published.mean(0)[used]
    assert accept_means(rows[:, used], torch.zeros(int(used.sum()), dtype=torch.float64), shift.unsqueeze(0))
    assert not accept_means(published[:, used], torch.zeros_like(shift), shift.unsqueeze(0))


@pytest.mark.parametrize("change", [{"per_site": True}, {"save_memory": False}, {"updates": 2}])
def test_first_gradient_does_not_depend_on(change):
    tilt = small("masked")
    found = []
    for method in (GRPO(batch=8), replace(GRPO(batch=8), **change)):
        roles, batch = one_round(method, tilt)
        torch.nn.init.zeros_(list(roles.theta.denoiser.parameters())[-1])  # away from the reference
        batch = replace(batch, log_prob=torch.stack([taken(roles.theta, batch, k) for k in range(4)]))
        found.append(gradient(method.loss(tilt, roles, batch, seeded(1), 0.0).value, roles.theta))
    assert torch.allclose(*found, atol=1e-10)
    assert float(found[0].norm()) > 1e-3


def taken(model, batch, k) -> Tensor:
    t, s = model.times[k : k + 2].tolist()
    return model.transition(batch.x[k], t, s).log_prob(batch.x[k + 1]).detach()


def test_strided_steps_have_the_mean_gradient_of_all():
    tilt = small("masked")
    method = PolicyGradient(batch=8)
    roles, batch = one_round(method, tilt)
    whole = gradient(method.loss(tilt, roles, batch, seeded(0), 0.0).value, roles.theta)
    half = replace(method, stride=2)
    found = [gradient(half.loss(tilt, roles, batch, seeded(seed), 0.0).value, roles.theta) for seed in range(20)]
    other = next(g for g in found if not torch.equal(g, found[0]))
    assert torch.allclose((found[0] + other) / 2, whole, atol=1e-10)


def test_the_clip_is_the_formula():
    gain = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.0], dtype=torch.float64)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0], dtype=torch.float64)
    found, outside = clipped(gain, advantage, 0.2)
    up, down = torch.tensor([0.5, -0.5]).double().exp().tolist()
    assert found.tolist() == pytest.approx([1.2, down, -up, -0.8, 2.0])
    assert outside.tolist() == [True, False, False, True, False]
    per_site, _ = clipped(gain, advantage, 10.0, 4)
    assert per_site[0] == pytest.approx(4 * torch.tensor(0.125).double().exp().item())


def test_later_divergences_lower_the_return_of_a_step():
    tilt, logits = perturbed(WORLD, Ancestral())
    method = PolicyGradient(batch=16)
    roles = cast_roles(tilt.diffusion, {})
    with torch.no_grad():
        next(roles.theta.denoiser.parameters()).copy_(logits)
        batch = method.collect(tilt, roles, seeded(0))
    last = LeaveOneOut()(batch.reward, 16)
    assert torch.allclose(batch.advantage[-1], last, atol=1e-12)
    assert not torch.allclose(batch.advantage[0], last, atol=1e-3)


def test_conditions_are_groups():
    tilt = small("masked")
    tilt = replace(tilt, cond=torch.tensor([[0.0], [3.0]], dtype=torch.float64))
    _, batch = one_round(GRPO(batch=12), tilt)
    means = batch.advantage.reshape(-1, 2, 6).mean(-1)
    assert torch.allclose(means, torch.zeros_like(means), atol=1e-10)
    assert not torch.allclose(batch.advantage[-1], Normalised()(batch.reward, 12))


@pytest.mark.parametrize("method", [PolicyGradient, GRPO, DDPO])
@pytest.mark.parametrize("sampler", [FirstHitting(), Ancestral()])
def test_training_raises_the_reward(method, sampler):
    tilt = Tilt(tabular(WORLD, sampler), WORLD.reward, WORLD.alpha)
    tuned = method(steps=40, batch=64, learning_rate=0.05, clip_ratio=0.2, updates=2, clip=10.0).fit(
        tilt, generator=seeded(0)
    )
    rewards = [float(WORLD.base_law(model).detach() @ WORLD.rewards) for model in (tilt.diffusion, tuned)]
    assert rewards[1] > rewards[0] + 0.2
    if method is not DDPO:
        assert WORLD.gap(tuned, tilt) < 0.3 * WORLD.gap(tilt.diffusion, tilt)


def test_what_has_no_density_is_refused():
    for sampler, word in ((DDIM(), "without noise"), (DPMSolver(), "several estimates")):
        with pytest.raises(ValueError, match=word):
            GRPO().check(small("flow", sampler=sampler))
    with pytest.raises(ValueError, match="fixes sites"):
        GRPO().check(small("masked", sampler=Confidence()))
    with pytest.raises(ValueError, match="top_p"):
        GRPO().check(small("masked", sampler=Ancestral(top_p=0.9)))
    with pytest.raises(ValueError, match="one condition"):
        GRPO(batch=10, group=4).check(small("masked"))
    with pytest.raises(ValueError, match="stride"):
        GRPO(stride=4).check(small("masked"))
    with pytest.raises(ValueError, match="no unit"):
        GRPO(credit=Ranks())
    assert GRPO(credit=Ranks(), beta=0.1).credit == Ranks()
