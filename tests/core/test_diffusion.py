"""A pretrained law: sampling it, fixing sites, restricting tokens, and what that costs."""

from __future__ import annotations

import gc
import itertools
from dataclasses import replace

import pytest
import torch
from tiltflow.core import SMC, SVDD, Denoiser, Diffusion, Meter, PosteriorMean, Subs, Tilt, steps
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral, Confidence, FirstHitting
from tiltflow.core.worlds import MaskedWorld

from .acceptance import accept_law, contaminated, sample_size, total_variation

WORLD = MaskedWorld(3, 3, seed=3)
TEMPLATES = [list(t) for t in itertools.product((3, 1), (3, 2, 0), (3, 0))]


def conditional(template):
    """p(x | fixed sites), float64 `[27]`."""
    template = torch.tensor(template)
    agrees = ((WORLD.sequences == template) | (template == 3)).all(1)
    return torch.where(agrees, WORLD.p, 0.0) / WORLD.p[agrees].sum()


def ancestral(count=24, **changes):
    return replace(WORLD.diffusion, sampler=Ancestral(), steps=count, **changes)


class Counted(torch.nn.Module):
    """A network of ordinary size in float32, for samples of 12 sites over 4 tokens."""

    time_invariant = True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Parameter(torch.randn(12 * 5, 12 * 4, generator=generator) / 3)

    def forward(self, x, t):
        flat = torch.nn.functional.one_hot(x, 5).flatten(1).float()
        return torch.stack([(row @ self.mix) for row in flat]).reshape(-1, 12, 4)  # row by row: batch-invariant


def counted(sampler=None, count=30, *, time_invariant=True, max_rows=None):
    denoiser = Denoiser(Counted(), Subs(4), max_rows=max_rows, time_invariant=time_invariant)
    return Diffusion(Masked(4), denoiser, (12,), steps=count, sampler=sampler or Ancestral())


# --- laws -----------------------------------------------------------------------------------------------------------


def test_one_site_at_a_time_is_the_data_law():
    torch.testing.assert_close(WORLD.base_law(), WORLD.p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_infilling_is_the_conditional_law(template):
    law = WORLD.base_law(WORLD.diffusion.infill(torch.tensor(template)))
    torch.testing.assert_close(law, conditional(template), rtol=0, atol=1e-12)


def test_infilled_samples_follow_the_conditional_law(generator):
    template = [3, 2, 3]
    law = conditional(template)
    mixed = torch.where(law > 0, contaminated(law, 0.2), 0.0)
    faults = [mixed / mixed.sum(), WORLD.base_law(ancestral(1).infill(torch.tensor(template)))]
    size = sample_size(law, faults)
    x = WORLD.diffusion.infill(torch.tensor(template)).sample(size, generator=generator(0))
    assert accept_law(WORLD.outcome(x), law, faults)


def test_several_templates_give_the_mixture_of_their_conditional_laws(generator):
    templates = [[3, 2, 3], [0, 3, 3], [3, 3, 1]]
    diffusion = WORLD.diffusion.infill(torch.tensor(templates))
    law = torch.stack([conditional(template) for template in templates]).mean(0)
    torch.testing.assert_close(WORLD.base_law(diffusion), law, rtol=0, atol=1e-12)
    unequal = [[3, 2, 3], [0, 1, 3], [3, 3, 3], [2, 2, 2]]  # some are done before others
    x = WORLD.diffusion.infill(torch.tensor(unequal)).sample(160, generator=generator(0))
    for template, drawn in zip(unequal, x.split(40), strict=True):
        given = torch.tensor(template)
        assert bool(((drawn == given) | (given == WORLD.vocab)).all())


def test_templates_and_starts_must_be_as_many():
    two = WORLD.diffusion.infill(torch.tensor([[3, 2, 3], [0, 3, 3]]))
    assert two.infill(torch.tensor([3, 3, 1])).start.tolist() == [[3, 2, 1], [0, 3, 1]]
    with pytest.raises(ValueError, match="3 templates for a law with 2 starts"):
        two.infill(torch.full((3, 3), 3))
    with pytest.raises(ValueError, match=r"shape \(2, 2\); expected \(3,\), or rows"):
        WORLD.diffusion.infill(torch.full((2, 2), 3))
    with pytest.raises(ValueError, match=r"Site\(s\) \[0\]"):
        two.infill(torch.tensor([1, 3, 3]))


def test_fixed_sites_add_up():
    once = WORLD.diffusion.infill(torch.tensor([3, 2, 0]))
    twice = WORLD.diffusion.infill(torch.tensor([3, 2, 3])).infill(torch.tensor([3, 3, 0]))
    assert torch.equal(once.start, twice.start)
    with pytest.raises(ValueError, match=r"Site\(s\) \[1\]"):
        once.infill(torch.tensor([3, 1, 3]))


def test_a_full_template_is_returned_as_it_is(generator):
    x = WORLD.diffusion.infill(torch.tensor([0, 1, 2])).sample(4, generator=generator(0))
    assert x.tolist() == [[0, 1, 2]] * 4


ALLOWED = torch.tensor([[True, True, False], [True, True, True], [False, True, False]])


@pytest.mark.parametrize("sampler", [FirstHitting(), Ancestral(), Confidence(), FirstHitting(top_p=0.5)], ids=str)
def test_forbidden_tokens_have_no_mass(sampler):
    diffusion = replace(WORLD.diffusion, sampler=sampler, steps=5).restrict(ALLOWED)
    law = WORLD.base_law(diffusion)
    honoured = ALLOWED[torch.arange(3), WORLD.sequences].all(1)
    assert bool((law[~honoured] == 0).all())
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)


def test_sites_with_one_allowed_token_give_the_conditional_law():
    allowed = torch.tensor([[True] * 3, [False, False, True], [True] * 3])
    law = WORLD.base_law(WORLD.diffusion.restrict(allowed))
    torch.testing.assert_close(law, conditional([3, 2, 3]), rtol=0, atol=1e-12)


def test_restrictions_and_fixed_sites_combine_in_any_order():
    one = WORLD.diffusion.infill(torch.tensor([1, 3, 3])).restrict(ALLOWED)
    two = WORLD.diffusion.restrict(ALLOWED).infill(torch.tensor([1, 3, 3]))
    half = torch.ones_like(ALLOWED)
    half[0] = ALLOWED[0]
    rest = ALLOWED.clone()
    rest[0] = True
    three = WORLD.diffusion.restrict(half).infill(torch.tensor([1, 3, 3])).restrict(rest)
    assert one.start.tolist() == two.start.tolist() == three.start.tolist() == [1, 3, 1]
    laws = [WORLD.base_law(diffusion) for diffusion in (one, two, three)]
    for law in laws[1:]:
        torch.testing.assert_close(law, laws[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda d: d.infill(torch.tensor([2, 3, 3])).restrict(ALLOWED), r"Site\(s\) \[0\]"),
        (lambda d: d.restrict(ALLOWED).infill(torch.tensor([3, 3, 2])), r"Site\(s\) \[2\]"),
        (lambda d: d.restrict(ALLOWED).restrict(~ALLOWED | (torch.arange(3) == 0)), r"allowed at site\(s\) \[2\]"),
        (lambda d: d.restrict(torch.zeros(3, 3, dtype=torch.bool)), r"allowed at site\(s\) \[0, 1, 2\]"),
        (lambda d: d.restrict(ALLOWED[:2]), "expected bool"),
        (lambda d: d.restrict(ALLOWED.int()), "expected bool"),
        (lambda d: d.infill(torch.tensor([0, 1])), r"shape \(2,\)"),
        (lambda d: d.infill(torch.tensor([0, 1, 4])), "0 to 3"),
        (lambda d: d.infill(torch.tensor([0.0, 1, 2])), "int64"),
    ],
)
def test_contradictions_are_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build(WORLD.diffusion)


def test_an_allowed_token_that_the_model_never_makes(generator):
    logits = torch.tensor([0.0, 0.0, -torch.inf])
    allowed = torch.tensor([[False, False, True], [True, True, True]])
    allowed[0, 2] = True
    impossible = Diffusion(Masked(3), lambda x, t: logits.expand(len(x), 2, 3), (2,), steps=2)
    two = allowed.clone()
    two[1] = torch.tensor([False, False, True])
    assert impossible.restrict(two).sample(2, generator=generator(0)).tolist() == [[2, 2]] * 2  # fixed from the start
    both = Diffusion(Masked(3), lambda x, t: torch.full((len(x), 2, 3), -torch.inf), (2,), steps=2)
    with pytest.raises(ValueError, match="no mass"):
        both.sample(2, generator=generator(0))


# --- cost -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_invariant", [True, False])
def test_forward_rows_of_the_ancestral_sampler(time_invariant, generator):
    """At most B T; with reuse one row at the start and one for every row and step in which something changed."""
    diffusion, seen = counted(time_invariant=time_invariant), []
    with Meter() as meter:
        x = diffusion.sample(20, generator=generator(0), on_step=lambda s, x: seen.append(x))
    rows = meter.cost.forward_rows
    states = [diffusion.prior(20), *seen]
    changed = [((b != a).any(1) & (b == 4).any(1)).sum() for a, b in itertools.pairwise(states[:-1])]
    unfinished = [int((a == 4).any(1).sum()) for a in states[1:-1]]
    assert rows == 1 + int(sum(changed) if time_invariant else sum(unfinished))
    assert rows < 20 * 30
    assert torch.equal(x, seen[-1])


def test_reuse_changes_no_token(generator):
    reused, fresh = (counted(time_invariant=flag).sample(30, generator=generator(1)) for flag in (True, False))
    assert torch.equal(reused, fresh)


@pytest.mark.parametrize("max_rows", [1, 7, 1000])
def test_the_split_of_a_batch_changes_no_token(max_rows, generator):
    def reward(x):
        return (x == 1).double().sum(1)

    whole, split = counted(), counted(max_rows=max_rows)
    assert torch.equal(whole.sample(30, generator=generator(2)), split.sample(30, generator=generator(2)))
    for method in (SVDD(4), SMC(4)):
        one, two = (method.sample(Tilt(d, reward, 0.5), 5, generator=generator(3)) for d in (whole, split))
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.log_weight, two.log_weight)
        assert one.cost.forward_rows == two.cost.forward_rows


@pytest.fixture
def live_numbers():
    """Numbers in all tensors that are alive and were made since the test began."""
    gc.collect()
    gc.freeze()

    def count():
        gc.collect()
        return sum(leaf.numel() for leaf in gc.get_objects() if type(leaf) is torch.Tensor)

    yield count
    gc.unfreeze()


@pytest.mark.parametrize("method", [SVDD(4), SMC(8), None], ids=["svdd", "smc", "unguided"])
def test_memory_does_not_grow_with_the_steps(method, generator, live_numbers):
    """Numbers held in living tensors, most of them at any step of runs of 10 and of 60 steps: the same."""
    held = {}
    for count in (10, 60):
        diffusion, marks = counted(count=count), []
        if method is None:
            diffusion.sample(16, generator=generator(0), on_step=lambda s, x, marks=marks: marks.append(live_numbers()))
        else:
            tilt = Tilt(diffusion, lambda x: (x == 1).double().sum(1), 0.5, value=PosteriorMean())
            marks = [live_numbers() for _ in steps(method, tilt, 16, generator=generator(0))]
        held[count] = max(marks)
    assert held[60] <= held[10] + 2 * 60  # the grid itself, and a copy of it
    assert held[10] > 16 * 12  # at least the samples are seen


# --- the object -----------------------------------------------------------------------------------------------------


def test_on_step_sees_every_step(generator):
    seen = []
    x = ancestral(6).sample(3, generator=generator(0), on_step=lambda s, x: seen.append((s, x)))
    assert [s for s, _ in seen] == pytest.approx([5 / 6, 4 / 6, 0.5, 2 / 6, 1 / 6, 0])
    assert torch.equal(seen[-1][1], x)
    masks = [int((x == 3).sum()) for _, x in seen]
    assert masks == sorted(masks, reverse=True)
    assert masks[-1] == 0


def test_a_seed_is_a_result(generator):
    one, two, other = (ancestral(8).sample(50, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_sampling_touches_no_global_randomness(generator):
    state = torch.get_rng_state()
    ancestral(8).sample(5, generator=generator(0))
    SVDD(3).sample(WORLD.tilt(), 4, generator=generator(0))
    SMC(3).sample(WORLD.tilt(), 4, generator=generator(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_on_a_device_leaves_the_original(generator):
    diffusion = counted()
    copied = diffusion.to("cpu")
    with torch.no_grad():
        copied.denoiser.network.mix.zero_()
    assert float(diffusion.denoiser.network.mix.detach().abs().max()) > 0


def test_a_bare_network_is_read_in_the_default_parameterisation(generator):
    diffusion = Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (4,), steps=5)
    assert diffusion.sample(2, generator=generator(0)).max() < 3
    assert diffusion.denoiser.parameterisation == Subs(3)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_counts_are_checked(n):
    with pytest.raises(ValueError, match="n is"):
        WORLD.diffusion.sample(n)
    with pytest.raises(ValueError, match="draws is"):
        WORLD.diffusion.elbo(WORLD.sequences, draws=n)


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"shape": ()}, ValueError, "shape"),
        ({"shape": (0,)}, ValueError, "shape"),
        ({"steps": 0}, ValueError, "steps"),
        ({"grid": torch.tensor([0.5, 1.0])}, ValueError, "grid"),
        ({"grid": torch.tensor([1.0, 0.5])}, ValueError, "exactly 0"),
        ({"denoiser": 3}, TypeError, "callable"),
    ],
)
def test_bad_arguments_are_refused_when_built(changes, error, word):
    arguments = {"process": Masked(3), "denoiser": lambda x, t: x, "shape": (3,), **changes}
    with pytest.raises(error, match=word):
        Diffusion(**arguments)


def test_a_network_of_nan_is_an_error_and_not_a_token(generator):
    diffusion = Diffusion(Masked(3), lambda x, t: torch.full((len(x), 4, 3), torch.nan), (4,), steps=3)
    with pytest.raises(ValueError, match="NaN"):
        diffusion.sample(2, generator=generator(0))


@pytest.mark.parametrize(
    "sampler", [Ancestral(temperature=0.5), Ancestral(top_p=0.5), FirstHitting(), Confidence()], ids=str
)
def test_samplers_of_tokens_refuse_relaxed_states(sampler):
    diffusion = replace(ancestral(4), sampler=sampler)
    x = torch.full((2, 3, 4), 0.25, dtype=torch.float64)
    with pytest.raises(ValueError, match="tokens"):
        diffusion.transition(x, 0.5, 0.25, clean=torch.full((2, 3, 3), 1 / 3).log())


def test_more_steps_are_closer_to_the_data_law():
    """Total variation about c / T (Ancestral); none for one site at a time."""
    gaps = [total_variation(WORLD.base_law(ancestral(count)), WORLD.p) for count in (6, 12, 24)]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.15)


def test_the_number_of_steps_can_be_replaced():
    """Also after a sampler that has steps of its own; a given grid fixes the number."""
    first = replace(WORLD.diffusion, steps=7)
    assert len(first.times) == WORLD.length + 1  # one site a step, whatever `steps` says
    assert torch.equal(replace(first, sampler=Ancestral()).times, torch.linspace(1, 0, 8, dtype=torch.float64))
    assert len(replace(first, sampler=Ancestral(), steps=3).times) == 4
    assert replace(first, sampler=Ancestral(), grid=torch.tensor([1.0, 0.3, 0.0])).steps == 2
