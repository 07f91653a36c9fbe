"""Log ratios read as clean estimates, and back, on laws that are counted through."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion
from tiltflow.core.parameterisations import Ratios
from tiltflow.core.processes import Ctmc, Masked, Uniform
from tiltflow.core.schedules import LogLinear
from tiltflow.core.states import one_hot

from .chains import DENSE, REVERSIBLE, SPARSE, Sites, absorbing_rates, uniform_rates

SCHEDULE = LogLinear(1e-2)
TIMES = (0.02, 0.5, 0.99, 1.0)
CHAINS = {
    "uniform": (Uniform(3, SCHEDULE), uniform_rates(3)),
    "dense": (Ctmc(torch.tensor(DENSE, dtype=torch.float64), SCHEDULE), DENSE),
    "reversible": (Ctmc(torch.tensor(REVERSIBLE, dtype=torch.float64), SCHEDULE), REVERSIBLE),
    "sparse": (Ctmc(torch.tensor(SPARSE, dtype=torch.float64), SCHEDULE), SPARSE),
    "masked": (Masked(3, SCHEDULE), absorbing_rates(3)),
    "masked as a matrix": (Ctmc(absorbing_rates(3), SCHEDULE, vocab=3), absorbing_rates(3)),
}


@pytest.fixture(params=CHAINS)
def world(request):
    process, rates = CHAINS[request.param]
    return process, Sites(rates, 3, 2, seed=2, schedule=SCHEDULE)


def log_ratios(sites, t):
    """log p_t(x with k at site i) / p_t(x) from the law itself, `[S^L, L, S]`."""
    mass, found = sites.marginal(t), torch.zeros(len(sites.states), 2, len(sites.rates), dtype=torch.float64)
    for site, state in itertools.product(range(2), range(len(sites.rates))):
        y = sites.states.clone()
        y[:, site] = state
        found[:, site, state] = (mass[sites.index(y)] / mass).log()
    return found


@pytest.mark.parametrize("t", TIMES)
def test_ratios_of_a_law_give_its_posterior(world, t):
    process, sites = world
    time = torch.full((len(sites.states),), t, dtype=torch.float64)
    clean = Ratios(process).clean(log_ratios(sites, t), sites.states, time)
    torch.testing.assert_close(clean.exp(), sites.clean(sites.states, t).exp(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_the_way_back(world, t):
    """output(clean) is the law's log ratios wherever the reverse process can jump, and clean(output(clean)) is clean."""
    process, sites = world
    time = torch.full((len(sites.states),), t, dtype=torch.float64)
    clean = sites.clean(sites.states, t)
    output = Ratios(process).output(clean, sites.states, time)
    can = torch.as_tensor(sites.rates)[:, sites.states].permute(1, 2, 0) > 0  # Q[k, x] > 0
    truth = log_ratios(sites, t)
    torch.testing.assert_close(output[can], truth[can], rtol=0, atol=1e-10)
    there = one_hot(sites.states, len(sites.rates)).bool()
    assert bool((output[there].abs() < 1e-10).all())
    again = Ratios(process).clean(output, sites.states, time)
    torch.testing.assert_close(again.exp(), clean.exp(), rtol=0, atol=1e-10)


def test_what_is_at_the_site_itself_is_not_read():
    process, sites = CHAINS["uniform"][0], Sites(uniform_rates(3), 3, 2, schedule=SCHEDULE)
    output = log_ratios(sites, 0.5)
    time = torch.full((9,), 0.5, dtype=torch.float64)
    other = output + 7 * one_hot(sites.states, 3, torch.float64)
    assert torch.equal(
        Ratios(process).clean(output, sites.states, time), Ratios(process).clean(other, sites.states, time)
    )


@pytest.mark.parametrize("name", ["uniform", "dense", "sparse"])
def test_ratios_of_no_law_become_a_law(name):
    """Negative masses are set to 0: by hand for one site of the uniform chain, and finite gradients for all."""
    process, _ = CHAINS[name]
    x, t = torch.zeros(64, 2, dtype=torch.int64), torch.full((64,), 0.3, dtype=torch.float64)
    output = 3 * torch.randn(64, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean = Ratios(process).clean(output.requires_grad_(), x, t)
    torch.testing.assert_close(clean.exp().sum(-1), torch.ones(64, 2).double())
    mass = process.left_out(torch.cat([torch.ones(64, 2, 1), output[..., 1:].exp()], -1), x, t)
    torch.testing.assert_close(mass.sum(-1), torch.ones(64, 2).double())
    negative = mass < 0
    assert 0.02 < float(negative.double().mean()) < 0.6
    assert bool((clean.exp()[negative] == 0).all())
    kept = mass.clamp(min=0) * process.likelihood(x, t)
    torch.testing.assert_close(clean.exp(), kept / kept.sum(-1, keepdim=True), rtol=0, atol=1e-12)
    process.elbo(clean, torch.ones_like(x), x, t).sum().backward()
    assert bool(output.grad.isfinite().all())
    assert float(output.grad.norm()) > 0


def test_pure_noise_says_nothing():
    """alpha(1) = 0: ratios are 1 and the estimate is uniform, whatever the rounding of the network."""
    for process in (Uniform(3), Ctmc(torch.tensor(DENSE, dtype=torch.float64))):
        noise = 1e-7 * torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
        law = process.stationary.log().float()
        x = torch.zeros(4, 2, dtype=torch.int64)
        clean = Ratios(process).clean(law - law[0] + noise, x, torch.ones(4))
        torch.testing.assert_close(clean.exp(), torch.full((4, 2, 3), 1 / 3))
        assert clean.dtype == torch.float32


def test_a_network_of_ratios_samples_as_one_of_logits(world, generator):
    """Through `Denoiser`, float64: the same draws."""
    process, sites = world

    def at(t):
        return float(t.double()[0])

    logits = Diffusion(process, lambda x, t: sites.clean(x, at(t)), (2,), steps=8)
    network = Denoiser(lambda x, t: log_ratios(sites, at(t))[sites.index(x)].clamp(min=-800), Ratios(process))
    ratios = Diffusion(process, network, (2,), steps=8)
    one, two = (model.sample(2000, generator=generator(0)) for model in (logits, ratios))
    assert float((one != two).any(1).double().mean()) < 2e-3


def test_what_it_refuses():
    process = Uniform(3)
    with pytest.raises(ValueError, match="expected log ratios"):
        Ratios(process).clean(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64), torch.ones(1))
    with pytest.raises(ValueError, match="relaxed"):
        Ratios(process).clean(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.ones(1))
