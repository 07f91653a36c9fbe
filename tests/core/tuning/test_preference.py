"""Preferences: first gradients, shared noise, the population loss by enumeration, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import Tilt
from tiltflow.core.samplers import FirstHitting
from tiltflow.core.tuning import train
from tiltflow.core.tuning.forward import RWR, Bounds, DiffusionNFT
from tiltflow.core.tuning.policy_gradient import GRPO
from tiltflow.core.tuning.preference import Compared, DiffusionDPO, Pairs
from tiltflow.core.tuning.roles import cast_roles
from tiltflow.core.worlds import MaskedWorld
from torch import Tensor

from ..acceptance import accept_means
from .policies import exact_elbo, seeded, small, tabular, tilted_logits
from .tables import gradient

WORLD = MaskedWorld(3, 2, seed=1, alpha=0.7)


def tilt_of(world: MaskedWorld) -> Tilt:
    return Tilt(tabular(world, FirstHitting()), world.reward, world.alpha)


def gains(model) -> Tensor:
    """Delta of every sequence, exactly: `[K^L]`."""
    return exact_elbo(WORLD, model) - exact_elbo(WORLD, tabular(WORLD, FirstHitting()))


def population(delta: Tensor) -> float:
    """The expected sigmoid loss over pairs of the reference's samples with soft labels."""
    prefer = torch.sigmoid((WORLD.rewards[:, None] - WORLD.rewards) / WORLD.alpha)
    d = delta[:, None] - delta
    loss = -prefer * torch.nn.functional.logsigmoid(d) - (1 - prefer) * torch.nn.functional.logsigmoid(-d)
    return float(WORLD.p @ loss.detach() @ WORLD.p)


def test_p_star_has_the_smallest_population_loss():
    """Its exact bounds differ from the reference's by r / alpha - log Z, so the loss is the entropy of the labels."""
    delta = gains(tabular(WORLD, FirstHitting(), logits=tilted_logits(WORLD))).detach()
    assert torch.allclose(delta, WORLD.rewards / WORLD.alpha - WORLD.log_z, atol=1e-10)
    prefer = torch.sigmoid((WORLD.rewards[:, None] - WORLD.rewards) / WORLD.alpha)
    entropy = float(WORLD.p @ torch.special.entr(torch.stack([prefer, 1 - prefer])).sum(0) @ WORLD.p)
    assert population(delta) == pytest.approx(entropy, abs=1e-10)
    assert population(0.9 * delta) > entropy + 1e-4


@pytest.mark.parametrize("kind", ["masked", "uniform", "flow", "vp"])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    ("link", "labels"),
    [
        ("sigmoid", "soft"),
        ("sigmoid", "hard"),
        ("ipo", "soft"),
        ("ipo", "hard"),
        ("hinge", "hard"),
        ("regression", "soft"),
    ],
)
def test_first_gradient_is_the_stated_one(kind, link, labels, split):
    """At theta = ref: -mean of c grad (ell_a - ell_b), c = -link'(0) (2p - 1) or (r_a - r_b) / alpha, at shared noise."""
    tilt = replace(small(kind), cond=torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    method = DiffusionDPO(batch=12, beta=0.6, link=link, labels=labels, split=split, bounds=Bounds(4, "elbo"))
    roles = cast_roles(tilt.diffusion, {})
    batch = method.collect(tilt, roles, seeded(0))
    found = gradient(method.loss(tilt, roles, batch, seeded(1), 0.0).value, roles.theta)
    gap = tilt.reward(batch.first) - tilt.reward(batch.second)
    prefer = torch.sigmoid(0.6 * gap / tilt.alpha) if labels == "soft" else (gap > 0).double()
    slope = {"sigmoid": 0.3, "ipo": 1 / 0.6, "hinge": 0.6}.get(link)
    c = gap / tilt.alpha if slope is None else slope * (2 * prefer - 1)
    seed = int(torch.randint(2**62, (), generator=seeded(1)))
    bounds, parts = Bounds(2 if split else 4, "elbo"), 2 if split else 1
    ell = [
        bounds.features(roles, (), x.repeat_interleave(parts, 0), tilt.cond, generator=seeded(seed)).ell["theta"]
        for x in (batch.first, batch.second)
    ]
    expected = -gradient((c.repeat_interleave(parts) * (ell[0] - ell[1])).mean(), roles.theta)
    assert torch.allclose(found, expected, atol=1e-10, rtol=1e-10)
    assert float(found.norm()) > 1e-3


@pytest.mark.parametrize("kind", ["masked", "uniform", "flow", "vp"])
@pytest.mark.parametrize(("link", "slope"), [("sigmoid", 0.3), ("ipo", 1 / 0.6), ("hinge", 0.6)])
def test_first_gradient_of_offline_pairs_is_the_stated_one(kind, link, slope):
    """The same with p = 1: -mean of c grad (ell_winner - ell_loser), c = -link'(0), at shared noise."""
    tilt = small(kind)
    x = tilt.diffusion.sample(8, generator=seeded(0))
    method = DiffusionDPO(pairs=Pairs(x[:4], x[4:]), batch=12, beta=0.6, link=link, bounds=Bounds(4, "elbo"))
    roles = cast_roles(tilt.diffusion, {})
    batch = method.collect(tilt, roles, seeded(1))
    found = gradient(method.loss(tilt, roles, batch, seeded(2), 0.0).value, roles.theta)
    seed = int(torch.randint(2**62, (), generator=seeded(2)))
    ell = [
        Bounds(2, "elbo").features(roles, (), x.repeat_interleave(2, 0), None, generator=seeded(seed)).ell["theta"]
        for x in (batch.first, batch.second)
    ]
    expected = -gradient(slope * (ell[0] - ell[1]).mean(), roles.theta)
    assert torch.allclose(found, expected, atol=1e-10, rtol=1e-10)
    assert float(found.norm()) > 1e-3


def test_split_gradients_of_a_square_are_unbiased_and_published_ones_are_not():
    """Mean over noise of the gradient of (d - target)^2 / 2 against the one with exact bounds, for one pair."""
    tilt = tilt_of(WORLD)
    roles = cast_roles(tilt.diffusion, {})
    with torch.no_grad():
        table = next(roles.theta.denoiser.parameters())
        table += torch.randn(table.shape, dtype=torch.float64, generator=seeded(3))
    x, y = (WORLD.sequences[[i]].expand(1000, -1) for i in (1, 6))
    prefer = torch.full((1000,), 0.9, dtype=torch.float64)
    batch = Compared(x, y, prefer, None, 0.0)
    exact_d = gains(roles.theta)[1] - gains(roles.theta)[6]
    exact = gradient((exact_d - torch.logit(prefer[0])) ** 2 / 2, roles.theta)
    rows = {}
    for split in (True, False):
        method = DiffusionDPO(link="regression", split=split, bounds=Bounds(draws=4))
        losses = (method.loss(tilt, roles, batch, seeded(seed), 0.0).value for seed in range(60))
        rows[split] = torch.stack([gradient(loss, roles.theta) for loss in losses])
    used = rows[True].std(0) > 1e-9
    fault = (rows[False].mean(0) - exact)[used].unsqueeze(0)
    assert accept_means(rows[True][:, used], exact[used], fault)
    assert accept_means(rows[False][:, used], exact[used]).outcome == "fail"


@pytest.mark.parametrize("kind", ["masked", "uniform", "flow", "vp"])
def test_a_sample_compared_with_itself_has_no_margin(kind):
    """To the last bit: times, masks and noise are those of the other."""
    tilt = small(kind)
    x = tilt.diffusion.sample(6, generator=seeded(0))
    method = DiffusionDPO(pairs=Pairs(x, x), batch=8)
    roles = cast_roles(tilt.diffusion, {})
    for layer in roles.theta.denoiser.parameters():
        torch.nn.init.normal_(layer, std=0.5)
    found = method.loss(tilt, roles, method.collect(tilt, roles, seeded(1)), seeded(2), 0.0)
    assert found.facts["margin"] == 0
    assert float(found.value.detach()) == pytest.approx(0.6931471805599453, abs=1e-12)


def test_margins_are_unbiased_estimates_of_exact_ones():
    logits = WORLD.posterior + torch.randn(WORLD.posterior.shape, dtype=torch.float64, generator=seeded(3))
    roles = cast_roles(tabular(WORLD, FirstHitting()), {})
    with torch.no_grad():
        next(roles.theta.denoiser.parameters()).copy_(logits.clamp(min=-30))
        exact = gains(roles.theta)
        x = WORLD.sequences[[1, 6]].repeat_interleave(20_000, 0)
        f = Bounds(draws=2).features(roles, ("ref",), x, None, generator=seeded(4))  # own strata: independent rows
    found = (f.ell["theta"] - f.ell["ref"]).reshape(2, -1).T
    assert accept_means(found, exact[[1, 6]], 0.2 * exact[[1, 6]].unsqueeze(0))


@pytest.mark.parametrize("samples", ["ref", "theta"])
def test_training_lowers_the_population_loss(samples):
    """Nearly to its minimum. The gap need not follow: equal differences of bounds do not make equal models."""
    tilt = tilt_of(WORLD)
    method = DiffusionDPO(steps=150, batch=128, learning_rate=0.03, samples=samples, updates=1, clip=10.0, average=0.95)
    tuned = method.fit(tilt, generator=seeded(0))
    delta = gains(tuned).detach()
    best = population(WORLD.rewards / WORLD.alpha)
    assert population(delta) - best < 0.05 * (population(torch.zeros_like(delta)) - best)
    assert WORLD.gap(tuned, tilt) < 0.5 * WORLD.gap(tilt.diffusion, tilt)


def test_offline_pairs_raise_their_winners():
    tilt = tilt_of(WORLD)
    order = WORLD.rewards.argsort()
    pairs = Pairs(WORLD.sequences[order[4:]], WORLD.sequences[order[:4]])
    tuned = DiffusionDPO(pairs=pairs, steps=60, batch=64, learning_rate=0.03, link="ipo", beta=0.25).fit(
        tilt, generator=seeded(0)
    )
    delta = gains(tuned).detach()
    assert float((delta[order[4:]] - delta[order[:4]]).mean()) > 1.0
    law = WORLD.base_law(tuned).detach()
    assert float(law @ WORLD.rewards) > float(WORLD.p @ WORLD.rewards) + 0.2


def test_pairs_are_named_by_their_content():
    x = torch.arange(6).reshape(2, 3) % 2
    assert repr(Pairs(x, 1 - x)) == repr(Pairs(x.clone(), 1 - x))
    assert repr(Pairs(x, 1 - x)) != repr(Pairs(1 - x, x))


def test_what_cannot_be_compared_is_refused():
    tilt = tilt_of(WORLD)
    x = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="equal shapes"):
        Pairs(x, x[:1])
    with pytest.raises(ValueError, match="one condition"):
        DiffusionDPO(batch=7).check(tilt)
    with pytest.raises(ValueError, match="even"):
        DiffusionDPO(pairs=Pairs(x, x), batch=7).check(tilt)
    with pytest.raises(ValueError, match="shape"):
        DiffusionDPO(pairs=Pairs(x[:, :2], x[:, :2])).check(tilt)
    with pytest.raises(ValueError, match="Tokens run"):
        DiffusionDPO(pairs=Pairs(x, x + 2)).check(tilt)
    with pytest.raises(ValueError, match="needs rewards"):
        DiffusionDPO(link="regression", labels="hard")
    with pytest.raises(ValueError, match="halves"):
        DiffusionDPO(bounds=Bounds(draws=2))
    with pytest.raises(ValueError, match="links"):
        DiffusionDPO(link="kto")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [
        GRPO(updates=3),
        RWR(updates=3, samples="theta"),
        DiffusionNFT(updates=3),
        DiffusionDPO(updates=3, samples="theta"),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_run_left_within_a_round_goes_on_the_same(method, tmp_path):
    """The round is drawn again by the model that drew it, "old" and the optimiser as they were."""
    tilt = tilt_of(WORLD)
    method = replace(method, steps=3, batch=8, learning_rate=0.05)
    whole = [progress.facts for progress in train(method, tilt, seed=1)]
    options = {"seed": 1, "checkpoint": tmp_path / "run.safetensors", "save_every": 1}
    for progress in train(method, tilt, **options):
        if progress.step == 5:
            break
    assert [progress.facts for progress in train(method, tilt, **options)] == whole[3:]
