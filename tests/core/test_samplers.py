"""The laws of the unguided samplers, computed and drawn."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion, Subs
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral, Confidence, FirstHitting
from tiltflow.core.samplers.base import truncate
from tiltflow.core.schedules import SCHEDULES, Cosine, LogLinear, cosine_grid
from tiltflow.core.worlds import MaskedWorld

from .acceptance import accept_law, contaminated, sample_size, total_variation

WORLD = MaskedWorld(3, 3, seed=3)


def law_of(sampler, count=3, world=WORLD, **changes):
    return replace(world.diffusion, sampler=sampler, steps=count, **changes)


def chain_rule(world, conditionals):
    """The law of unmasking one uniformly chosen site a step, by hand: the mean over orders. float64 `[K^L]`."""
    law = torch.zeros(len(world.sequences), dtype=torch.float64)
    for order in itertools.permutations(range(world.length)):
        for row, x in enumerate(world.sequences):
            state, mass = torch.full((world.length,), world.vocab), 1.0
            for site in order:
                mass *= float(conditionals[world.index(state), site, x[site]].exp())
                state[site] = x[site]
            law[row] += mass
    return law / math.factorial(world.length)


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("length", "vocab"), [(3, 3), (4, 3), (5, 2)])
def test_first_hitting_is_the_data_law(length, vocab, schedule):
    world = MaskedWorld(length, vocab, seed=1)
    diffusion = replace(world.diffusion, process=Masked(vocab, schedule()))
    assert total_variation(world.base_law(diffusion), world.p) < 1e-12


def test_first_hitting_of_another_law_is_the_mean_over_orders():
    """An independent computation, with a denoiser that is not consistent (sharpened): here the order matters."""
    sharp = truncate(WORLD.posterior, 0.5, 1.0)
    law = WORLD.base_law(law_of(FirstHitting(temperature=0.5)))
    torch.testing.assert_close(law, chain_rule(WORLD, sharp), rtol=0, atol=1e-12)
    assert total_variation(law, WORLD.p) > 0.05


@pytest.mark.parametrize("count", [1, 2, 24])
def test_ancestral_draws_follow_its_own_law(count, generator):
    diffusion = law_of(Ancestral(), count)
    law = WORLD.base_law(diffusion)
    faults = [contaminated(law, 0.05), *(WORLD.base_law(law_of(Ancestral(), other)) for other in {1, 2} - {count})]
    size = sample_size(law, faults)
    x = diffusion.sample(size, generator=generator(count))
    assert accept_law(WORLD.outcome(x), law, faults)


def test_one_site_at_a_time_draws_follow_the_data_law(generator):
    """An ancestral sampler in 24 steps sold as exact, and 1 % of uniform samples, would both be noticed."""
    world = MaskedWorld(3, 2)
    faults = [contaminated(world.p), world.base_law(law_of(Ancestral(), 24, world))]
    x = world.diffusion.sample(sample_size(world.p, faults), generator=generator(0))
    assert accept_law(world.outcome(x), world.p, faults)


def test_one_step_draws_every_site_from_its_marginal():
    law = WORLD.base_law(law_of(Ancestral(), 1))
    marginals = WORLD.posterior[-1].exp()
    product = torch.stack([marginals[torch.arange(3), x].prod() for x in WORLD.sequences])
    torch.testing.assert_close(law, product, rtol=0, atol=1e-12)


def test_the_law_depends_on_the_grid_and_not_on_the_schedule_alone():
    """Equal unmasking probabilities give equal laws: a cosine schedule on the grid where its alpha is linear."""
    linear = WORLD.base_law(law_of(Ancestral(), 5))
    grid = Cosine().inverse(torch.linspace(0, 1, 6, dtype=torch.float64))
    same = replace(WORLD.diffusion, sampler=Ancestral(), grid=grid, process=Masked(3, Cosine()))
    torch.testing.assert_close(WORLD.base_law(same), linear, rtol=0, atol=1e-12)
    other = WORLD.base_law(replace(WORLD.diffusion, sampler=Ancestral(), grid=cosine_grid(5)))
    assert total_variation(other, linear) > 1e-3


# --- first hitting --------------------------------------------------------------------------------------------------


def test_first_hitting_takes_one_step_for_each_mask(generator):
    seen = []
    law_of(FirstHitting(), 50).sample(20, generator=generator(0), on_step=lambda s, x: seen.append((x == 3).sum(1)))
    assert [masks.tolist() for masks in seen] == [[2] * 20, [1] * 20, [0] * 20]
    infilled = law_of(FirstHitting()).infill(torch.tensor([3, 1, 3]))
    assert len(infilled.times) == 3


@pytest.mark.parametrize("schedule", [*(make() for make in SCHEDULES.values()), LogLinear(0.1)], ids=str)
def test_nominal_times_descend(schedule):
    """Also for 3000 sites under a schedule that stops at alpha = eps: the times once ran above 1."""
    denoiser = Denoiser(lambda x, t: x, Subs(3), time_invariant=True)
    times = Diffusion(Masked(3, schedule), denoiser, (3000,), sampler=FirstHitting()).times
    assert (float(times[0]), float(times[-1]), len(times)) == (1, 0, 3001)
    assert bool((times[1:] < times[:-1]).all())


def test_first_hitting_needs_a_time_invariant_denoiser():
    with pytest.raises(ValueError, match="does not depend on time"):
        Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (4,), sampler=FirstHitting())


# --- confidence -----------------------------------------------------------------------------------------------------


def blank(count, sites=24, **options):
    """A law over `sites` sites whose logits at site i grow with i: the last site is surest."""
    logits = torch.linspace(0.1, 3, sites).unsqueeze(1) * torch.tensor([1.0, 0.2, 0.0])
    return Diffusion(
        Masked(3), lambda x, t: logits.expand(len(x), -1, -1), (sites,), sampler=Confidence(**options), steps=count
    )


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("count", [1, 5, 24, 60])
def test_confidence_unmasks_the_surest_sites_in_equal_numbers(confidence, count, generator):
    seen = []
    x = blank(count, confidence=confidence).sample(6, generator=generator(0), on_step=lambda s, x: seen.append(x == 3))
    assert int((x == 3).sum()) == 0
    left = torch.stack(seen).sum(-1)
    assert bool((left == left[:, :1]).all())
    for step, masked in enumerate(seen[:-1], start=1):
        expected = max(0, min(24 - step, round(24 * (1 - step / count))))
        assert abs(int(left[step - 1, 0]) - expected) <= 1
        assert not bool((masked[:, 1:] & ~masked[:, :-1]).any())  # what is left is a prefix: the least sure sites


def test_confidence_draws_tokens_and_chooses_sites():
    """Its kernel from all masks: one site for sure (the least entropy), its token by its marginal."""
    diffusion = law_of(Confidence("entropy"), 3)
    kernel = WORLD.kernel(diffusion, 1.0, 2 / 3)
    marginals = WORLD.posterior[-1]
    site = int((marginals.exp() * marginals).sum(-1).argmax())
    for target, mass in zip(WORLD.states, kernel[-1], strict=True):
        open_sites = (target == 3).nonzero().flatten().tolist()
        right = open_sites == [i for i in range(3) if i != site]
        expected = float(marginals[site, target[site]].exp()) if right else 0.0
        assert float(mass) == pytest.approx(expected, abs=1e-12)


def test_confidence_draws_follow_its_own_law(generator):
    diffusion = law_of(Confidence(), 3)
    law = WORLD.base_law(diffusion)
    assert total_variation(law, WORLD.p) < 1e-12  # one site a step with an exact denoiser: any order is the data law
    diffusion = law_of(Confidence(), 2)
    law = WORLD.base_law(diffusion)
    faults = [contaminated(law, 0.05), WORLD.p, WORLD.base_law(law_of(Confidence("entropy", temperature=0.9), 2))]
    x = diffusion.sample(sample_size(law, faults), generator=generator(0))
    assert accept_law(WORLD.outcome(x), law, faults)


# --- temperature and nucleus ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"temperature": 0.5}, {"temperature": 3.0}, {"top_p": 0.6}, {"temperature": 0.7, "top_p": 0.8}]
)
@pytest.mark.parametrize("sampler", [Ancestral, Confidence])
def test_truncation_leaves_the_rate_of_unmasking(sampler, options):
    """Applied after normalisation and not renormalised, a temperature would change how many sites are unmasked."""
    states = WORLD.states
    steps = [law_of(sampler(**kwargs), 4).transition(states, 0.75, 0.5) for kwargs in ({}, options)]
    one, two = (step.log_probs.exp() for step in steps)
    torch.testing.assert_close(one[..., -1], two[..., -1], rtol=0, atol=1e-12)
    torch.testing.assert_close(two.sum(-1), torch.ones(64, 3).double(), rtol=0, atol=1e-12)
    assert float((one - two).abs().max()) > 0.01


def test_temperature_is_a_power():
    clean = torch.randn(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    for temperature in (0.3, 2.0):
        power = clean.exp() ** (1 / temperature)
        torch.testing.assert_close(truncate(clean, temperature, 1.0).exp(), power / power.sum(-1, keepdim=True))
    assert truncate(clean, 1.0, 1.0) is clean


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-6, [0.5]),
        (0.5, [0.5]),  # the best token alone holds it
        (0.5 + 1e-6, [0.5, 0.25]),  # the token that crosses the limit is kept
        (0.75, [0.5, 0.25]),
        (0.8, [0.5, 0.25, 0.125]),
        (1.0, [0.5, 0.25, 0.125, 0.125]),
    ],
)
def test_the_nucleus(top_p, kept):
    p = torch.tensor([0.125, 0.5, 0.125, 0.25], dtype=torch.float64)
    found = truncate(p.log(), 1.0, top_p).exp()
    torch.testing.assert_close(found.sort(descending=True).values[: len(kept)], torch.tensor(kept).double() / sum(kept))
    assert int((found > 0).sum()) == len(kept)
    assert int(found.argmax()) == 1


def test_truncation_leaves_held_and_impossible_tokens():
    p = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.3, 0.0]], dtype=torch.float64)
    for options in ((0.5, 1.0), (1.0, 0.9), (2.0, 0.999999)):
        found = truncate(p.log(), *options).exp()
        assert found[0].tolist() == [1, 0, 0]
        assert float(found[1, 2]) == 0
        assert float(found.sum()) == pytest.approx(2)


def test_truncation_edits_nothing_in_place():
    clean = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    kept = clean.clone()
    truncate(clean, 0.5, 0.5)
    assert torch.equal(clean, kept)


@pytest.mark.parametrize("sampler", [Ancestral, FirstHitting, Confidence])
@pytest.mark.parametrize(
    "options",
    [
        *(("temperature", bad) for bad in (0.0, -1.0, math.nan, math.inf)),
        *(("top_p", bad) for bad in (0.0, 1.1, math.nan)),
    ],
)
def test_bad_truncations_are_refused(sampler, options):
    with pytest.raises(ValueError, match=options[0]):
        sampler(**dict([options]))


def test_unknown_confidence():
    with pytest.raises(ValueError, match="'probability', 'margin' or 'entropy'"):
        Confidence("best")


def test_relaxed_ancestral_steps_are_allowed():
    """What reward backprop needs: the plain ancestral step on the simplex."""
    x = torch.full((2, 3, 4), 0.25, dtype=torch.float64)
    step = law_of(Ancestral(), 4).transition(
        x, 0.5, 0.25, clean=torch.full((2, 3, 3), 1 / 3, dtype=torch.float64).log()
    )
    torch.testing.assert_close(step.log_probs.exp().sum(-1), torch.ones(2, 3).double())
