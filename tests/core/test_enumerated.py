"""What every listed world computes: kernels dense and sparse, selection laws, cells, the objective of trainers and its gap."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tiltflow.core import SVDD, BestOfN, Denoiser, Doob, Given, ImportanceResampling, PosteriorMean, Subs
from tiltflow.core.samplers import Ancestral, Confidence, FirstHitting
from tiltflow.core.worlds import LandscapeWorld, MaskedWorld, relative_entropy, total_variation

from .worldlaws import argmax_of, best_of, stepwise

WORLD = MaskedWorld(4, 3, seed=2, alpha=1.0)
SAMPLERS = [FirstHitting(), Ancestral(), Confidence()]


def tuned(world, seed=7, strength=0.4):
    """Some other model: the exact one with its logits disturbed."""
    generator = torch.Generator().manual_seed(seed)
    noise = strength * torch.randn(world.posterior.shape, dtype=torch.float64, generator=generator)
    network = Denoiser(lambda x, t: (world.posterior + noise)[world.index(x)], Subs(world.vocab), time_invariant=True)
    return replace(world.diffusion, denoiser=network)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_kernels_are_the_step_s_own_masses(sampler):
    """Against log_prob, state by state."""
    diffusion = WORLD.tilt(steps=3, sampler=sampler).diffusion
    t, s = diffusion.times[1:3].tolist()
    step = diffusion.transition(WORLD.states, t, s)
    plain = torch.stack([step.log_prob(target.expand_as(WORLD.states)) for target in WORLD.states], 1).exp().double()
    torch.testing.assert_close(WORLD.kernel(diffusion, t, s), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("candidates", [2, 8])
def test_argmax_selection_agrees_with_order_statistics(candidates):
    tilt = WORLD.tilt()
    law = WORLD.law(SVDD(candidates, "argmax"), tilt)
    torch.testing.assert_close(law, stepwise(WORLD, tilt, argmax_of(candidates)), rtol=0, atol=1e-12)
    best = WORLD.law(BestOfN(candidates), tilt)
    torch.testing.assert_close(best, best_of(WORLD.p.unsqueeze(0), WORLD.rewards, candidates)[0], rtol=0, atol=1e-12)


def test_svdd_halves_its_distance_when_candidates_double():
    """The exact value: TV(M) / TV(2M) between 1.9 and 2.2 from M = 8."""
    tilt = WORLD.tilt()
    distance = [total_variation(WORLD.law(SVDD(m), tilt), WORLD.tilted) for m in (8, 16, 32, 64, 128)]
    assert all(1.9 <= a / b <= 2.2 for a, b in itertools.pairwise(distance)), distance


def test_a_plug_in_value_has_a_floor():
    tilt = WORLD.tilt(value=PosteriorMean())
    distance = [total_variation(WORLD.law(SVDD(m), tilt), WORLD.tilted) for m in (64, 256)]
    assert distance[1] > 0.8 * distance[0] > 0.05


def test_best_of_n_drifts_past_the_tilted_law():
    tilt = WORLD.tilt()
    mean = [float(WORLD.law(BestOfN(n), tilt) @ WORLD.rewards) for n in (2, 64, 1024)]
    assert mean[0] < float(WORLD.tilted @ WORLD.rewards) < mean[1] < mean[2]
    near = [total_variation(WORLD.law(ImportanceResampling(n), tilt), WORLD.tilted) for n in (64, 1024)]
    assert near[1] < near[0] / 10


# --- what trainers maximise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS[:2], ids=str)
@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_the_gap_is_a_divergence_from_the_best_path(sampler, alpha):
    """alpha log Z - J = alpha KL(path, path*), for any model."""
    world = replace(WORLD, alpha=alpha)
    tilt = world.tilt(steps=5, sampler=sampler)
    for model in (tilt.diffusion, replace(tuned(world), sampler=sampler, steps=5), Doob().guided(tilt)):
        gap, divergence = world.gap(model, tilt), world.path_kl(model, tilt)
        assert gap == pytest.approx(alpha * divergence, abs=1e-10)
        assert gap > -1e-12


def test_the_objective_of_the_model_itself_is_its_mean_reward():
    tilt = WORLD.tilt()
    assert WORLD.objective(tilt.diffusion, tilt) == pytest.approx(float(WORLD.p @ WORLD.rewards), abs=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS[:2], ids=str)
def test_the_chain_s_value_obeys_the_tower_rule(sampler):
    """h_T at the start is Z of the sampler's own law; for one site at a time every h is the world's."""
    tilt = WORLD.tilt(steps=4, sampler=sampler)
    log_h = WORLD.chain_values(tilt)
    start = WORLD.index(tilt.diffusion.prior(1))
    own = (WORLD.base_law(tilt.diffusion).log() + WORLD.rewards / WORLD.alpha).logsumexp(0)
    assert float(log_h[0][start]) == pytest.approx(float(own), abs=1e-10)
    if isinstance(sampler, FirstHitting):
        masks = (WORLD.states == 3).sum(1)
        for k, found in enumerate(log_h):
            rows = masks == 4 - k
            torch.testing.assert_close(found[rows], WORLD.value(WORLD.states[rows]) / WORLD.alpha, rtol=0, atol=1e-10)


# --- distances and cells --------------------------------------------------------------------------------------------


def test_distances():
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    assert total_variation(p, q) == pytest.approx(0.5)
    assert relative_entropy(p, q) == pytest.approx(torch.tensor(2.0).log().item())
    assert relative_entropy(q, p) == float("inf")


def landscape(**options):
    """All 4^5 words but those that begin with TT, scored by two motifs."""
    words = MaskedWorld(5, 4).sequences
    texts = ["".join("ACGT"[k] for k in row) for row in words.tolist()]
    scores = {text: text.count("A") + 3.0 * ("ACG" in text) for text in texts if not text.startswith("TT")}
    return LandscapeWorld(scores, "ACGT", **options)


def test_a_landscape_is_a_world():
    world = landscape(alpha=0.7)
    assert float(world.p.sum()) == pytest.approx(1, abs=1e-12)
    assert int((world.p == 0).sum()) == 64
    assert float(world.reward(world.encode(["ACGAA"]))) == 6.0
    tilt = world.tilt()
    assert total_variation(world.base_law(), world.p) < 1e-12
    assert total_variation(world.law(Doob(), tilt), world.tilted) < 1e-10
    assert not bool(world.value(world.states).isnan().any())
    weighted = (world.p * (world.rewards / 0.7).exp()).sum().log()
    assert world.log_z == pytest.approx(float(weighted), abs=1e-12)


def test_unmeasured_sequences_are_never_drawn(generator):
    world = landscape()
    x = SVDD(8).sample(world.tilt(value=PosteriorMean()), 2000, generator=generator(0)).x
    assert not bool(((x[:, 0] == 3) & (x[:, 1] == 3)).any())


def test_cells_pool_what_they_should():
    world = landscape(alpha=1.0)
    cells = world.pool(world.tilted)
    assert float(cells.sum()) == pytest.approx(1, abs=1e-12)
    assert 100 < len(cells) <= 256
    for first in range(4):  # cells never mix first tokens
        inside = world.sequences[:, 0] == first
        assert bool((world.cells[inside] % 4 == first).all())
    slices = world.cells // 4
    top = world.rewards[slices == slices.max()].min()
    assert bool((world.rewards[slices < slices.max()] <= top).all())
    assert torch.equal(WORLD.pool(WORLD.p), WORLD.p)


def test_weights_change_the_base_law():
    world = landscape(weights={"AAAAA": 3.0, "CCCCC": 1.0})
    assert sorted(world.p[world.p > 0].tolist()) == [0.25, 0.75]


@pytest.mark.parametrize(
    ("scores", "alphabet", "message"),
    [
        ({}, "ACGT", "one length"),
        ({"AC": 1.0, "ACG": 2.0}, "ACGT", "one length"),
        ({"AX": 1.0}, "ACGT", "alphabet"),
        ({"AC": 1.0}, "ACCGT", "repeats"),
        ({"AC": float("nan")}, "ACGT", "finite"),
        ({"A" * 12: 1.0}, "ACGT", "too many"),
    ],
)
def test_tables_that_are_no_landscape(scores, alphabet, message):
    with pytest.raises(ValueError, match=message):
        LandscapeWorld(scores, alphabet)


def test_given_values_may_be_wrong_and_the_law_is_still_computed():
    tilt = WORLD.tilt(value=Given(lambda x, t: torch.zeros(len(x))))
    assert total_variation(WORLD.law(Doob(), tilt), WORLD.p) < 1e-10
