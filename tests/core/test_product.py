"""Joint states: packing, steps, bounds, and steering of a sequence and a number that a reward couples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiltflow.core import (
    SMC,
    SVDD,
    BestOfN,
    Completions,
    Diffusion,
    Doob,
    Given,
    ImportanceResampling,
    PosteriorMean,
    Rollout,
    Tilt,
)
from tiltflow.core.paths import FlowMatching, VPCosine
from tiltflow.core.processes import Gaussian, Masked, Product, Uniform
from tiltflow.core.samplers import DDIM, Ancestral, DPMSolver, PerPart, Remasking, TauLeaping
from tiltflow.core.states import one_hot
from tiltflow.core.worlds import MaskedWorld

from .acceptance import accept_means, enough_draws

WORLD = MaskedWorld(2, 3, seed=1)
PATH = VPCosine()
NUMBERS = Gaussian(PATH, predicts="x0", dtype=torch.float64)
PRODUCT = Product({"sequence": (Masked(3), (2,)), "number": (NUMBERS, (1,))})
MEAN, VARIANCE, STEPS, ALPHA = 0.3, 0.5, 5, 0.7
PULL = torch.tensor([0.5, -0.4, 0.2], dtype=torch.float64)  # of each first token on the number


def posterior_mean(x, t):
    """E[x0 | x_t] of data N(MEAN, VARIANCE)."""
    time = t.double().reshape(-1, 1)
    a, s = PATH.a(time), PATH.s(time)
    return MEAN + a * VARIANCE / (a**2 * VARIANCE + s**2) * (x - a * MEAN)


def network(parts, t):
    return {"sequence": WORLD.posterior[WORLD.index(parts["sequence"])], "number": posterior_mean(parts["number"], t)}


def reward(sequence, number):
    return PULL[sequence[:, 0]] * number[:, 0] + 0.3 * (sequence[:, 1] == 2)


def model(sampler=None, process=PRODUCT):
    return Diffusion(process, network, PRODUCT.shape, steps=STEPS, sampler=sampler or Ancestral())


def tilt(value=None, sampler=None):
    return Tilt(model(sampler), PRODUCT.on_parts(reward), ALPHA, value=value)


def base_laws(sequence=None, number=None):
    """The parts' own laws under the sampler: masses of the 9 sequences, and (mean, variance) of the number."""
    chain = Diffusion(
        Masked(3), lambda x, t: WORLD.posterior[WORLD.index(x)], (2,), steps=STEPS, sampler=sequence or Ancestral()
    )
    mean, variance = 0.0, float(PATH.s(torch.ones(1).double())) ** 2
    for t, s in itertools.pairwise(chain.times.tolist()):
        probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # the step's mean is affine in x
        step = (number or Ancestral()).transition(NUMBERS, posterior_mean(probe, torch.tensor([t, t])), probe, t, s)
        offset, slope = float(step.mean[0]), float(step.mean[1] - step.mean[0])
        mean, variance = offset + slope * mean, slope**2 * variance + float(step._std.flatten()[0]) ** 2
    return WORLD.base_law(chain), mean, variance


# --- states ---------------------------------------------------------------------------------------------------------


def test_parts_come_back_as_they_were(dtype):
    product = Product({"a": (Uniform(5), (3,)), "b": (Gaussian(FlowMatching()), (2, 2)), "c": (Masked(4), (2,))})
    assert product.shape == (9,)
    generator = torch.Generator().manual_seed(0)
    parts = {
        "a": torch.randint(5, (6, 7, 3), generator=generator),
        "b": torch.randn(6, 7, 2, 2, dtype=dtype, generator=generator),
        "c": torch.randint(5, (6, 7, 2), generator=generator),
    }
    joint = product.pack(parts)
    assert (joint.shape, joint.dtype) == ((6, 7, 9), dtype)
    for name, part in product.unpack(joint).items():
        assert torch.equal(part, parts[name])
    relaxed = {**parts, "a": one_hot(parts["a"], 5, dtype), "c": one_hot(parts["c"], 5, dtype)}
    for name, part in product.unpack(product.pack(relaxed)).items():
        assert torch.equal(part, relaxed[name])
    clean = {"a": relaxed["a"], "b": parts["b"], "c": relaxed["c"][..., :4]}
    for name, part in product.unpack_clean(product.pack(clean)).items():
        assert torch.equal(part, clean[name])


def test_tokens_only_are_kept_as_floats():
    product = Product({"a": (Masked(4), (2,)), "b": (Masked(3), (1,))})
    joint = product.pack({"a": torch.tensor([[1, 4]]), "b": torch.tensor([[3]])})
    assert joint.dtype == torch.float32
    assert {name: part.tolist() for name, part in product.unpack(joint).items()} == {"a": [[1, 4]], "b": [[3]]}


def test_what_it_refuses(generator):
    with pytest.raises(ValueError, match="at least one name"):
        Product({})
    with pytest.raises(ValueError, match="width 4"):
        PRODUCT.unpack(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"parts are \['number'\]"):
        PRODUCT.pack({"number": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match="expected floats"):
        PRODUCT.check(torch.zeros(1, 3, dtype=torch.int64), clean=True)
    with pytest.raises(ValueError, match="mask itself"):
        PRODUCT.check(torch.tensor([[0.0, 3, 0]]), clean=True)
    with pytest.raises(ValueError, match="fractions"):
        PRODUCT.check(torch.tensor([[0.0, 1.2, 0]]), clean=True)
    with pytest.raises(ValueError, match=r"process\.shape"):
        Diffusion(PRODUCT, network, (4,)).sample(1, generator=generator(0))
    with pytest.raises(ValueError, match="outputs by name"):
        Diffusion(PRODUCT, lambda parts, t: torch.zeros(1), (3,)).sample(1, generator=generator(0))
    with pytest.raises(TypeError, match="expected a callable"):
        PRODUCT.parameterise(3)
    with pytest.raises(ValueError, match="masked process only"):
        model().infill(torch.zeros(3))
    with pytest.raises(ValueError, match="can be guided"):
        Doob().sample(tilt(), 2, generator=generator(0))


def test_samplers_by_part_are_checked():
    with pytest.raises(ValueError, match="no part"):
        model(PerPart({"other": Ancestral()}))
    with pytest.raises(ValueError, match="needs a product"):
        Diffusion(Masked(3), lambda x, t: x, (2,), sampler=PerPart({}))
    with pytest.raises(ValueError, match="needs a masked process"):
        model(PerPart({"number": Remasking()}))
    with pytest.raises(ValueError, match="single-step"):
        model(PerPart({"number": DPMSolver()}))


# --- steps and bounds -----------------------------------------------------------------------------------------------


def joint_points(generator, n=40):
    sequence = WORLD.states[torch.randint(16, (n,), generator=generator)]
    return sequence, torch.randn(n, 1, dtype=torch.float64, generator=generator)


def test_a_step_is_the_steps_of_the_parts(generator):
    sequence, number = joint_points(generator(0))
    x = PRODUCT.pack({"sequence": sequence, "number": number})
    step = model().transition(x, 0.6, 0.3)
    time = torch.full((40,), 0.6, dtype=torch.float64)
    parts = [
        Masked(3).transition(WORLD.posterior[WORLD.index(sequence)], sequence, 0.6, 0.3),
        NUMBERS.transition(posterior_mean(number, time), number, 0.6, 0.3),
    ]
    draws = step.sample(5, generator=generator(1))
    assert draws.shape == (5, 40, 3)
    found = PRODUCT.unpack(draws)
    expected = parts[0].log_prob(found["sequence"]) + parts[1].log_prob(found["number"])
    torch.testing.assert_close(step.log_prob(draws), expected, rtol=0, atol=1e-10)
    noise = generator(1)
    assert torch.equal(found["sequence"], parts[0].sample(5, generator=noise))
    torch.testing.assert_close(found["number"], parts[1].sample(5, generator=noise), rtol=0, atol=1e-12)


def test_divergences_and_tilts_are_those_of_the_parts(generator):
    sequence, number = joint_points(generator(0))
    x = PRODUCT.pack({"sequence": sequence, "number": number})
    step = model().transition(x, 0.6, 0.3)
    log_h = {
        "sequence": torch.randn(40, 2, 4, dtype=torch.float64, generator=generator(2)),
        "number": torch.ones(40, 1),
    }
    other = step.tilt(log_h)
    expected = sum(one.tilt(log_h[name]).kl(one) for name, one in step.steps.items())
    torch.testing.assert_close(other.kl(step), expected, rtol=0, atol=1e-12)
    assert float(expected.min()) > 0
    assert step.tilt({}).kl(step).abs().max() == 0


def test_bounds_add_up(generator):
    """Of independent parts: the bound of each on its own, at the same times."""
    x0 = PRODUCT.pack({"sequence": WORLD.sequences[:4], "number": torch.linspace(-1, 1, 4).double().unsqueeze(1)})
    draws = 20_000
    joint = model().elbo(x0, draws=draws, generator=generator(0))
    numbers = Diffusion(NUMBERS, posterior_mean, (1,)).elbo(
        PRODUCT.unpack(x0)["number"], draws=draws, generator=generator(1)
    )
    expected = WORLD.p[:4].log() + numbers
    torch.testing.assert_close(joint, expected, rtol=0, atol=0.15)
    parts = PRODUCT.unpack(x0)
    noised = PRODUCT.corrupt(x0, 0.4, generator=generator(0))
    there = PRODUCT.unpack(noised)
    clean = model().clean(noised, 0.4)
    by_part = PRODUCT.unpack_clean(clean)
    total = sum(
        process.elbo(by_part[name], parts[name], there[name], 0.4) for name, (process, _) in PRODUCT.parts.items()
    )
    torch.testing.assert_close(PRODUCT.elbo(clean, x0, noised, 0.4), total, rtol=0, atol=1e-12)


def test_gradients_flow_through_relaxed_steps(generator):
    """Tokens as mixtures, numbers reparameterised: the pair goes through the network and all steps."""
    product = Product({"sequence": (Uniform(3), (2,)), "number": (Gaussian(PATH, predicts="x0"), (1,))})
    layer = torch.nn.Linear(7, 7)

    def predict(parts, t):
        out = layer(torch.cat([parts["sequence"].flatten(1), parts["number"]], 1))
        return {"sequence": out[:, :6].unflatten(1, (2, 3)), "number": out[:, 6:]}

    denoiser = product.parameterise(predict)
    found = product.unpack(product.prior(5, generator=generator(0)))
    x = product.pack({**found, "sequence": one_hot(found["sequence"], 3)})
    for t, s in itertools.pairwise([1.0, 0.6, 0.3, 0.0]):
        x = product.transition(denoiser(x, t), x, t, s).rsample(0.8, generator=generator(1))
    x.sum(0)[[0, 6]].sum().backward()
    assert bool(layer.weight.grad.isfinite().all())
    assert float(layer.weight.grad.norm()) > 1e-3


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [
        Ancestral(),
        PerPart({"sequence": Remasking(), "number": DDIM(0.5)}),
        PerPart({"sequence": TauLeaping(corrector=0.5)}),
    ],
    ids=["ancestral", "remasking and DDIM", "tau-leaping"],
)
def test_unguided_draws_follow_the_parts_own_laws(sampler, generator):
    own = getattr(sampler, "samplers", {})
    law, mean, variance = base_laws(own.get("sequence"), own.get("number"))
    drawn = PRODUCT.unpack(model(sampler).sample(40_000, generator=generator(0)))
    number, row = drawn["number"][:, 0], WORLD.outcome(drawn["sequence"])
    observed = torch.cat([one_hot(row, 9, torch.float64), number.unsqueeze(1), (number**2).unsqueeze(1)], 1)
    truth = torch.cat([law, torch.tensor([mean, variance + mean**2]).double()])
    faults = torch.eye(11).double() * (0.05 * torch.ones(11).double()).unsqueeze(1)
    assert accept_means(observed, truth, faults)


def coupled(law, mean, variance):
    """E over the base law of exp(r / alpha) times (1, first token is 0, second is 2, number), by completing the square."""
    x = WORLD.sequences
    slope = PULL[x[:, 0]] / ALPHA
    weight = law * (slope * mean + slope**2 * variance / 2 + 0.3 * (x[:, 1] == 2) / ALPHA).exp()
    parts = [torch.ones(9).double(), (x[:, 0] == 0).double(), (x[:, 1] == 2).double(), mean + slope * variance]
    return torch.stack([(weight * part).sum() for part in parts])


@pytest.mark.parametrize("value", [PosteriorMean(), Rollout(1), "another"], ids=["plug-in", "rollout", "another"])
@pytest.mark.parametrize("method", [SVDD(4), SMC(4), SMC(8, "max", threshold=1.0), ImportanceResampling(4)], ids=str)
def test_weights_are_unbiased(method, value):
    """E[W f] = Z E*[f] for a reward that couples a sequence and a number."""
    if value == "another":
        value = Given(lambda x, t: (1 - t) * PRODUCT.on_parts(reward_or_mask)(x))
    truth = coupled(*base_laws())
    problem = tilt(value)
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        samples = method.sample(problem, n, generator=generator)
        parts = PRODUCT.unpack(samples.x)
        first, second = (torch.tensor([[0], [2]]) == parts["sequence"].T).double()
        observed = torch.stack([torch.ones(n).double(), first, second, parts["number"][:, 0]], 1)
        return samples.log_weight.exp().unsqueeze(1) * observed

    values = enough_draws(draw, torch.diag(0.1 * truth[:3].abs().max().expand(4)))
    assert accept_means(values, truth, torch.diag(0.1 * truth[:3].abs().max().expand(4)))


def reward_or_mask(sequence, number):
    return torch.where(sequence[:, 0] < 3, PULL[sequence[:, 0].clamp(max=2)], 0.0) * number[:, 0]


def test_samples_move_toward_the_reward(generator):
    """Under p*, as many candidates show it; a best-of-N goes past it."""
    truth = coupled(*base_laws())
    expected = truth / truth[0]
    samples = SVDD(32).sample(tilt(), 3000, generator=generator(0))
    number = PRODUCT.unpack(samples.x)["number"]
    weights = samples.log_weight.softmax(0)
    assert float((weights * number[:, 0]).sum()) == pytest.approx(float(expected[3]), abs=0.08)
    assert samples.log_z == pytest.approx(math.log(truth[0]), abs=0.05)
    base = tilt().reward(model().sample(2000, generator=generator(1))).mean()
    assert float(BestOfN(8).sample(tilt(), 500, generator=generator(2)).reward.mean()) > float(base) + 0.4


def test_the_default_value_reads_the_reward_at_the_decoded_estimate(generator):
    assert tilt().value == PosteriorMean()
    x = PRODUCT.prior(4, generator=generator(0))
    clean = model().clean(x, 1.0)
    best = PRODUCT.unpack(PRODUCT.decode(clean))
    assert best["sequence"].dtype == torch.int64
    assert torch.equal(best["sequence"], WORLD.posterior[-1].argmax(-1).expand(4, 2))
    torch.testing.assert_close(best["number"], torch.full((4, 1), MEAN).double(), rtol=0, atol=1e-6)
    found = tilt().evaluate(x, 1.0).value
    torch.testing.assert_close(found, reward(**best).double())
    soft = PRODUCT.unpack(PRODUCT.decode(clean, soft=True))["sequence"]
    torch.testing.assert_close(soft[..., :3], WORLD.posterior[-1].exp().expand(4, 2, 3))
    with pytest.raises(ValueError, match="continuous"):
        SVDD(2).sample(tilt(Completions()), 2, generator=generator(0))
