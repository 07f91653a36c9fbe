"""Tau-leaping and Euler: their steps by hand, and the order at which their laws reach the model's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiltflow.core import Diffusion
from tiltflow.core.processes import Ctmc, Gaussian, Masked, Uniform
from tiltflow.core.samplers import Ancestral, EulerCtmc, TauLeaping
from tiltflow.core.schedules import Cosine, Linear
from tiltflow.core.worlds import MaskedWorld, total_variation

from .acceptance import accept_law, contaminated, sample_size
from .chains import DENSE, SPARSE, Sites, absorbing_rates, uniform_rates

CHAINS = {
    "uniform": (Uniform(3), uniform_rates(3)),
    "uniform, cosine": (Uniform(3, Cosine()), uniform_rates(3)),
    "dense": (Ctmc(torch.tensor(DENSE, dtype=torch.float64)), DENSE),
    "sparse": (Ctmc(torch.tensor(SPARSE, dtype=torch.float64)), SPARSE),
    "masked": (Masked(3), absorbing_rates(3)),
}
SAMPLERS = [TauLeaping(), EulerCtmc(), TauLeaping(corrector=0.5), EulerCtmc(corrector=0.5)]


def build(name, sampler, steps):
    process, rates = CHAINS[name]
    sites = Sites(rates, 3, 2, schedule=process.schedule)

    return sites, Diffusion(process, lambda x, t: sites.clean(x, float(t[0])), (2,), steps=steps, sampler=sampler)


def law(name, sampler, steps):
    """Law over all states, `[S^L]`; the last entries are those with a mask."""
    sites, diffusion = build(name, sampler, steps)
    full = (sites.states < 3).all(1)
    found = sites.law(diffusion, sites.marginal(1.0))
    assert float(found[~full].sum()) == 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-10)
    return found[full], sites


@pytest.mark.parametrize("sampler", [Ancestral(), *SAMPLERS], ids=str)
@pytest.mark.parametrize("name", ["uniform", "sparse", "masked"])
def test_the_order_is_one(name, sampler):
    """TV to the data law, halved when the steps are doubled."""
    laws = [law(name, sampler, steps) for steps in (64, 128, 256)]
    distance = [total_variation(found, sites.p) for found, sites in laws]
    ratios = [a / b for a, b in itertools.pairwise(distance)]
    assert all(1.8 < ratio < 2.1 for ratio in ratios), (distance, ratios)
    assert ratios[1] > 1.88
    assert distance[-1] < 0.01


def test_a_step_by_hand():
    """One uniform site: R(k) = beta / K (w P)_k; jump with 1 - exp(-dt sum R), or dt sum R."""
    process, x = Uniform(3), torch.tensor([[1]])
    clean = torch.tensor([[[0.2, 0.5, 0.3]]], dtype=torch.float64)
    t, s = 0.5, 0.4
    same, other = 0.5 + 0.5 / 3, 0.5 / 3  # q(x_t = 1 | x0) for x0 = 1 and others
    w = [0.2 / other, 0.5 / same, 0.3 / other]
    rate = {k: (1 / 0.5) / 3 * (0.5 * w[k] + 0.5 / 3 * sum(w)) for k in (0, 2)}
    total = 0.1 * (rate[0] + rate[2])
    for sampler, jump in [(TauLeaping(), 1 - math.exp(-total)), (EulerCtmc(), total)]:
        step = sampler.transition(process, clean.log(), x, t, s).log_probs.exp()[0, 0]
        expected = [jump * 0.1 * rate[0] / total, 1 - jump, jump * 0.1 * rate[2] / total]
        torch.testing.assert_close(step, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_masked_step_by_hand():
    """Rate 1 / t for the linear schedule; with a corrector tokens are masked at rate eta / (1 - t)."""
    x, clean = torch.tensor([[3, 0]]), torch.tensor([[[0.2, 0.5, 0.3], [1, 0, 0]]], dtype=torch.float64).log()
    step = TauLeaping(corrector=2.0).transition(Masked(3), clean, x, 0.5, 0.4).log_probs.exp()[0]
    stay = math.exp(-0.1 * 3 / 0.5)
    torch.testing.assert_close(step[0, :3], (1 - stay) * clean[0, 0].exp(), rtol=0, atol=1e-12)
    assert float(step[1, 3]) == pytest.approx(1 - math.exp(-0.1 * 2 / 0.5), abs=1e-12)
    assert float(step[1, 0]) == pytest.approx(math.exp(-0.1 * 2 / 0.5), abs=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_steps_are_laws_at_any_size(name, sampler, dtype):
    process, rates = CHAINS[name]
    sites = Sites(rates, 3, 2, schedule=process.schedule)
    clean = torch.randn(len(sites.states), 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    clean = process.parameterise(lambda x, t: clean)(sites.states, 0.5) if name != "masked" else clean.log_softmax(-1)
    for t, s in [(1.0, 0.0), (1.0, 0.5), (1e-3, 1e-6), (0.5, 0.4999), (1e-9, 0.0)]:
        total = sampler.transition(process, clean, sites.states, t, s).log_probs.exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))


def test_times_may_differ_between_samples():
    process, x = Uniform(3), torch.tensor([[0, 1], [2, 1]])
    clean = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    t, s = torch.tensor([0.5, 0.2]).double(), torch.tensor([0.3, 0.0]).double()
    both = TauLeaping().transition(process, clean, x, t, s).log_probs
    for row in range(2):
        one = TauLeaping().transition(process, clean[row : row + 1], x[row : row + 1], float(t[row]), float(s[row]))
        torch.testing.assert_close(both[row : row + 1], one.log_probs)


def test_draws_follow_the_computed_law(generator):
    sites, diffusion = build("uniform", TauLeaping(corrector=0.5), 4)
    found = sites.law(diffusion, sites.marginal(1.0))
    faults = [contaminated(found, 0.05), law("uniform", TauLeaping(), 4)[0], law("uniform", EulerCtmc(0.5), 4)[0]]
    x = diffusion.sample(sample_size(found, faults), generator=generator(0))
    assert accept_law(sites.index(x), found, faults)


def test_a_corrector_helps_a_model_with_errors():
    """Logits of a masked model disturbed at high noise only: steps that take decisions back forget those errors."""
    world = MaskedWorld(3, 3, seed=1)
    wrong = 1.5 * torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def network(x, t):
        early = (t > 0.5).double().reshape(-1, 1, 1)
        return (world.posterior[world.index(x)] + early * wrong).nan_to_num(0)

    distance = []
    for sampler in (TauLeaping(), TauLeaping(corrector=2.0)):
        diffusion = Diffusion(Masked(3, Linear()), network, (3,), steps=100, sampler=sampler)
        distance.append(total_variation(world.base_law(diffusion), world.p))
    assert distance[1] < 0.8 * distance[0], distance


def test_temperature_sharpens():
    clean = torch.tensor([[[0.2, 0.5, 0.3]]], dtype=torch.float64).log()
    x = torch.tensor([[3]])
    cold = TauLeaping(temperature=0.1).transition(Masked(3), clean, x, 0.5, 0.4).log_probs.exp()[0, 0]
    assert float(cold[1] / cold[:3].sum()) > 0.99
    top = EulerCtmc(top_p=0.6).transition(Masked(3), clean, x, 0.5, 0.4).log_probs.exp()[0, 0]
    assert float(top[0]) == 0
    assert float(top[3]) == pytest.approx(0.8, abs=1e-12)


def test_what_it_refuses(generator):
    with pytest.raises(ValueError, match="corrector is -1"):
        TauLeaping(corrector=-1.0)
    with pytest.raises(ValueError, match="with rates"):
        Diffusion(gaussian(), lambda x, t: x, (2,), sampler=TauLeaping())
    model = Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (2,))
    start = torch.tensor([0, 3])
    with pytest.raises(ValueError, match="fixed sites"):
        Diffusion(model.process, model.denoiser, (2,), sampler=TauLeaping(corrector=1.0), start=start)
    Diffusion(model.process, model.denoiser, (2,), sampler=TauLeaping(), start=start).sample(2, generator=generator(0))
    with pytest.raises(ValueError, match="defined on tokens"):
        EulerCtmc().transition(Uniform(3), torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), 0.5, 0.4)


def gaussian():
    from tiltflow.core.paths import VPCosine

    return Gaussian(VPCosine())
