"""Forward-process objectives: one first gradient for the whole family, what features are, and where methods come to rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import Tilt
from tiltflow.core.processes import Gaussian
from tiltflow.core.samplers import FirstHitting
from tiltflow.core.tuning.credit import best_weights, centred, softmax_weights
from tiltflow.core.tuning.forward import EPG, RAFT, RAM, RWR, Bounds, DiffusionNFT, ForwardTuning, divergence
from tiltflow.core.tuning.roles import cast_roles
from tiltflow.core.worlds import MaskedWorld

from .policies import exact_elbo, seeded, small, tabular, tilted_logits
from .tables import gradient

WORLD = MaskedWorld(2, 3, seed=1, alpha=0.7)
KINDS = ["masked", "uniform", "flow", "vp"]
FORMS = [EPG(), EPG(form="pepg"), EPG(form="par"), EPG(form="awm")]
METHODS = [
    RWR(),
    RWR(samples="theta"),
    RAFT(keep=2),
    *FORMS,
    DiffusionNFT(),
    DiffusionNFT(strength=0.3),
    RAM(),
    RAM(tempered=True),
]


def coefficients(method, reward, size):
    """c of the stated first gradient."""
    normalised = centred(reward, size) / (
        reward.unflatten(0, (-1, size)).std(-1, correction=0) + 1e-4
    ).repeat_interleave(size)
    if isinstance(method, RAFT):
        return best_weights(reward, size, method.keep)
    if isinstance(method, RWR):
        return softmax_weights(reward / 0.5, size)
    if isinstance(method, DiffusionNFT):
        return method.strength * (2 * (normalised / 5 / 2 + 0.5).clamp(0, 1) - 1)
    return centred(reward, size) / 0.5 if getattr(method, "tempered", False) else normalised


def test_every_forward_objective_is_in_the_list():
    def kinds(base):
        return {base} | {kind for below in base.__subclasses__() for kind in kinds(below)}

    library = {kind for kind in kinds(ForwardTuning) if kind.__module__.startswith("tiltflow.")}
    assert {type(method) for method in METHODS} == library - {ForwardTuning}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}-{getattr(m, 'form', '')}")
def test_first_gradient_is_the_stated_one(method, kind):
    """At theta = old = ref: -mean c_i grad ell_i, also with D_ref, with two conditions and their own groups."""
    tilt = replace(small(kind), cond=torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    method = replace(method, batch=12, beta=0.7, bounds=Bounds(draws=2))
    roles = cast_roles(tilt.diffusion, method.averages)
    with torch.no_grad():
        batch = method.collect(tilt, roles, seeded(0))
    if not isinstance(method, RWR):
        assert batch.worth.reshape(2, 6).mean(1).abs().max() < 1e-10  # centred for each condition
    found = gradient(method.loss(tilt, roles, batch, seeded(1), 0.0).value, roles.theta)
    features = method.bounds.features(roles, (), batch.x0, tilt.cond, generator=seeded(1))
    expected = -gradient((coefficients(method, batch.reward, 6) * features.ell["theta"]).mean(), roles.theta)
    assert torch.allclose(found, expected, atol=1e-10, rtol=1e-10)
    assert float(found.norm()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_zero_between_equal_roles_and_shared_noise_makes_it_exact(kind):
    tilt = small(kind)
    roles = cast_roles(tilt.diffusion, {"old": lambda step: 0.0})
    x0 = tilt.diffusion.sample(6, generator=seeded(0))
    f = Bounds(draws=3).features(roles, ("old", "ref"), x0, None, generator=seeded(1))
    for name in ("old", "ref"):
        assert torch.equal(f.ell[name], f.ell["theta"].detach())
        assert torch.allclose(f.far[name], torch.zeros(6, dtype=torch.float64), atol=1e-12)
    assert torch.equal(f.ratio, torch.ones(6, dtype=torch.float64))  # before the first update, to the last bit


@pytest.mark.parametrize(("kind", "weighting"), [*((kind, None) for kind in KINDS), ("flow", "elbo"), ("vp", "elbo")])
def test_divergence_is_the_mean_loss_of_bound(kind, weighting):
    """D = E[ell_other - ell_theta] where x0 is drawn by the other estimate: what ties ell and D together."""
    tilt, other = small(kind), small(kind)
    for layer in other.diffusion.denoiser.parameters():
        torch.nn.init.normal_(layer, std=0.5)
    process = Bounds(weighting=weighting).process(tilt.diffusion)
    x = tilt.diffusion.sample(5, generator=seeded(0))
    x[:, 0] = 3 if kind == "masked" else x[:, 0]  # one masked site
    t = torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    mine, theirs = (model.diffusion.clean(x, t).double() for model in (tilt, other))
    if kind in ("flow", "vp"):  # the mean of a two-point posterior around the estimate
        side = torch.randn(x.shape, dtype=torch.float64, generator=seeded(1))
        gains = [process.elbo(theirs, theirs + d, x, t) - process.elbo(mine, theirs + d, x, t) for d in (side, -side)]
        expected = (gains[0] + gains[1]) / 2
    else:  # sum over tokens of every site, others as they are: bounds are sums over sites
        expected = torch.zeros(5, dtype=torch.float64)
        for site in range(4):
            for token in range(3):
                x0 = torch.where(torch.arange(4) == site, token, x.clamp(max=2))
                gain = _at_site(process, theirs, mine, x0, x, t, site)
                expected = expected + theirs[:, site, token].exp() * gain
    found = divergence(process, mine, theirs, x, t)
    assert torch.allclose(found, expected, atol=1e-10, rtol=1e-9)
    assert float(found.detach().amin()) > 1e-6


def _at_site(process, theirs, mine, x0, x, t, site):
    """The difference of bounds that one site makes: sites other than `site` get the same estimate in both."""
    only = torch.arange(4).reshape(1, 4, 1) == site
    return process.elbo(theirs, x0, x, t) - process.elbo(torch.where(only, mine, theirs), x0, x, t)


def test_masked_features_are_weighted_sums_over_masked_sites():
    """ell = L / n sum log p(x0), D_old = L / n sum KL(p_old || p_theta), over the n masked sites of L."""
    tilt = small("masked")
    roles = cast_roles(tilt.diffusion, {"old": lambda step: 0.0})
    for layer in roles.theta.denoiser.parameters():
        torch.nn.init.normal_(layer, std=0.5)
    x0 = tilt.diffusion.sample(6, generator=seeded(0))
    f = Bounds().features(roles, ("old",), x0, None, generator=seeded(1))
    noised = tilt.diffusion.process.noise(x0, generator=seeded(1))
    x = noised.x
    theta, old = (roles[name].clean(x, noised.t) for name in ("theta", "old"))
    masked, weight = x == 3, 4 / (x == 3).sum(1)
    kl = torch.nn.functional.kl_div(theta, old, reduction="none", log_target=True).sum(-1)
    score = theta.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(f.far["old"], weight * torch.where(masked, kl, 0.0).sum(1), atol=1e-6)
    assert torch.allclose(f.ell["theta"], weight * torch.where(masked, score, 0.0).sum(1), atol=1e-6)


@pytest.mark.parametrize(("kind", "weighting"), [("uniform", None), ("vp", "elbo")])
def test_bounds_and_divergences_have_the_same_importance(kind, weighting):
    """Both are means over uniform times, estimated at times of another law."""
    tilt = small(kind)
    roles = cast_roles(tilt.diffusion, {"old": lambda step: 0.0})
    for layer in roles.theta.denoiser.parameters():
        torch.nn.init.normal_(layer, std=0.5)
    x0 = tilt.diffusion.sample(6, generator=seeded(0))
    f = Bounds(weighting=weighting).features(roles, ("old",), x0, None, generator=seeded(1))
    process = tilt.diffusion.process
    noised = process.noise(x0, generator=seeded(1))
    theta, old = (roles[name].clean(noised.x, noised.t).double() for name in ("theta", "old"))
    assert float((noised.importance - 1).abs().amin()) > 1e-3
    far = noised.importance * divergence(process, theta, old, noised.x, noised.t)
    assert torch.allclose(f.far["old"], far, rtol=1e-10)
    assert torch.allclose(f.ell["old"], noised.importance * process.elbo(old, x0, noised.x, noised.t), rtol=1e-10)


def test_nft_on_numbers_is_the_published_loss():
    """r |v+ - v*|^2 + (1 - r) |v- - v*|^2 less its value at theta = old, for velocities of a flow."""
    tilt = small("flow")
    method = DiffusionNFT(batch=8, strength=0.6)
    roles = cast_roles(tilt.diffusion, method.averages)
    for layer in roles.theta.denoiser.parameters():
        torch.nn.init.normal_(layer, std=0.3)
    batch = method.collect(tilt, roles, seeded(0))
    found = method.loss(tilt, roles, batch, seeded(1), 0.0).value
    process = tilt.diffusion.process
    assert isinstance(process, Gaussian)
    noised = method.bounds.process(tilt.diffusion).noise(batch.x0, generator=seeded(1))
    v, old, target = (
        process.predict("velocity", clean, noised.x, noised.t)
        for clean in (roles.theta.clean(noised.x, noised.t), roles["old"].clean(noised.x, noised.t), batch.x0)
    )
    r = (1 + batch.worth) / 2

    def loss(v):
        up, down = (((old + side * 0.6 * (v - old) - target) ** 2).sum(1) for side in (1, -1))
        return r * up + (1 - r) * down

    assert torch.allclose(found, (loss(v) - loss(old)).mean(), atol=1e-10)


def test_ram_on_numbers_is_the_published_loss():
    tilt = small("flow")
    method = RAM(batch=8)
    roles = cast_roles(tilt.diffusion, method.averages)
    for layer in roles.theta.denoiser.parameters():
        torch.nn.init.normal_(layer, std=0.3)
    batch = method.collect(tilt, roles, seeded(0))
    found = gradient(method.loss(tilt, roles, batch, seeded(1), 0.0).value, roles.theta)
    noised = method.bounds.process(tilt.diffusion).noise(batch.x0, generator=seeded(1))
    v, old, ref, target = (
        tilt.diffusion.process.predict("velocity", clean, noised.x, noised.t)
        for clean in (*(roles[name].clean(noised.x, noised.t) for name in ("theta", "old", "ref")), batch.x0)
    )
    aim = (ref + batch.worth.unsqueeze(1) * (target - old)).detach()
    assert torch.allclose(found, gradient(((v - aim) ** 2).sum(1).mean(), roles.theta), atol=1e-9)


def test_weighted_regression_from_the_reference_has_p_star_as_its_fixed_point():
    """By enumeration: sum_x p(x) w(x) grad ELBO(x) = 0 at the denoiser of p*, and not at that of p."""
    size = []
    for logits in (tilted_logits(WORLD), WORLD.posterior):
        model = tabular(WORLD, FirstHitting(), logits=logits)
        model.denoiser.requires_grad_(True)
        value = (WORLD.tilted * exact_elbo(WORLD, model)).sum()
        size.append(float(gradient(value, model).abs().amax()))
    assert size[0] < 1e-12
    assert size[1] > 1e-2


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}-{getattr(m, 'form', '')}")
def test_training_raises_the_reward(method):
    tilt = Tilt(tabular(WORLD, FirstHitting()), WORLD.reward, WORLD.alpha)
    settings = {"steps": 60, "batch": 64, "group": 16, "updates": 2, "learning_rate": 0.03, "clip": 10.0}
    tuned = replace(method, **settings, bounds=Bounds(draws=4)).fit(tilt, generator=seeded(0))
    before, after = (float(WORLD.base_law(model).detach() @ WORLD.rewards) for model in (tilt.diffusion, tuned))
    assert after > before + 0.2


def test_old_follows_theta_at_the_end_of_rounds():
    """With two updates a round: held through the round, then replaced (EPG), or moved by a growing share (NFT)."""
    schedule = EPG(updates=2).averages["old"]
    assert [schedule(step) for step in (1, 2, 3, 4)] == [1.0, 0.0, 1.0, 0.0]
    slower = DiffusionNFT(updates=2, ramp=0.1, slowest=0.25).averages["old"]
    assert [slower(step) for step in (1, 2, 4, 6, 8)] == [1.0, 0.1, 0.2, 0.25, 0.25]
    assert RWR().averages == {}


def test_what_cannot_be_noised_is_refused():
    tilt = small("masked")
    fixed = replace(tilt, diffusion=tilt.diffusion.infill(torch.tensor([0, 3, 3, 3])))
    with pytest.raises(ValueError, match="fixed"):
        RWR().check(fixed)
    with pytest.raises(ValueError, match="one condition"):
        EPG(batch=9, group=2).check(tilt)
    with pytest.raises(ValueError, match="keep"):
        RAFT(group=4, keep=4).check(tilt)
    with pytest.raises(ValueError, match="form"):
        EPG(form="ppo")  # type: ignore[arg-type]
