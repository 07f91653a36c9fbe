"""Probability-flow log-likelihood against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core import Diffusion, Meter
from tiltflow.core.paths import EDM, FlowMatching, VPCosine
from tiltflow.core.processes import Gaussian, Masked

from . import mixtures
from .acceptance import accept_means
from .mixtures import PLANE, Mixture, slope, tensor

paths = pytest.mark.parametrize("path", mixtures.PATHS.values(), ids=mixtures.PATHS.keys())


@pytest.fixture
def x0(generator):
    return PLANE.sample(6, generator(0))


@pytest.mark.parametrize("name", ["cosine", "flow", "affine"])
def test_a_mixture_to_1e_7(name, x0):
    """On paths that end in pure noise the model's density is that of the data."""
    diffusion = PLANE.diffusion(mixtures.PATHS[name])
    torch.testing.assert_close(diffusion.log_likelihood(x0, steps=100), PLANE.log_prob(x0), rtol=0, atol=1e-7)


def test_observed_orders(x0):
    """Heun 2, Runge-Kutta 4."""
    diffusion, exact = PLANE.diffusion(FlowMatching()), PLANE.log_prob(x0)
    for solver, order, counts in (("heun", 2, (32, 64, 128)), ("rk4", 4, (32, 64, 128))):
        errors = [float((diffusion.log_likelihood(x0, steps=n, solver=solver) - exact).abs().max()) for n in counts]
        assert slope(errors) == pytest.approx(order, abs=0.2), errors


@paths
def test_gaussian_data_on_every_path(path):
    """The flow is x_1 = a m + (x0 - m) sqrt(a^2 v + s^2) / sqrt(v): the model's density is N(0, s^2) pulled back by it."""
    mean, variance = 0.7, 0.3
    one = Mixture(tensor(1.0), tensor([mean, mean]), tensor(variance))
    x0 = tensor([0.1, 0.9], [-1.0, 2.0])
    a, s = path.a(tensor(1.0)), path.s(tensor(1.0))
    growth = ((a**2 * variance + s**2) / variance).sqrt()
    end = a * mean + (x0 - mean) * growth
    expected = torch.distributions.Normal(0.0, float(s)).log_prob(end).sum(1) + 2 * growth.log()
    torch.testing.assert_close(one.diffusion(path).log_likelihood(x0), expected, rtol=0, atol=1e-6)


def test_hutchinson_is_unbiased(x0, generator):
    """Given the path, which does not depend on the probes, the estimate is linear in the divergence."""
    diffusion, exact = PLANE.diffusion(VPCosine()), PLANE.diffusion(VPCosine()).log_likelihood(x0[:2], steps=12)
    many = diffusion.log_likelihood(x0[:2].repeat(2000, 1), steps=12, divergence="hutchinson", generator=generator(0))
    estimates = many.reshape(2000, 2)
    assert float(estimates.std(0).min()) > 0.01  # not exact by accident: the Jacobian is not diagonal
    assert accept_means(estimates, exact, 0.1 * torch.eye(2, dtype=torch.float64))
    averaged = diffusion.log_likelihood(
        x0[:2].repeat(500, 1), steps=12, divergence="hutchinson", probes=16, generator=generator(1)
    )
    ratio = averaged.reshape(500, 2).std(0) / estimates.std(0)
    torch.testing.assert_close(ratio, torch.full((2,), 0.25, dtype=torch.float64), rtol=0.2, atol=0)


def test_hutchinson_is_exact_in_one_dimension(generator):
    x0 = mixtures.LINE.sample(4, generator(0))
    diffusion = mixtures.LINE.diffusion(FlowMatching())
    exact = diffusion.log_likelihood(x0, steps=10)
    torch.testing.assert_close(
        diffusion.log_likelihood(x0, steps=10, divergence="hutchinson", generator=generator(1)),
        exact,
        rtol=0,
        atol=1e-10,
    )


def test_networks_of_any_dtype_shape_and_condition():
    """A float32 network with its own shape; the state stays float64, so only the network's rounding is seen."""
    path = FlowMatching()

    def network(x, t, cond):
        share = ((1 - t) / ((1 - t) ** 2 + t**2)).reshape(-1, 1, 1)
        return cond.unsqueeze(-1) + share * (x - (1 - t).reshape(-1, 1, 1) * cond.unsqueeze(-1))

    diffusion = Diffusion(Gaussian(path, predicts="x0"), network, (2, 3))
    x0, cond = torch.zeros(4, 2, 3), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    with Meter() as meter:
        got = diffusion.log_likelihood(x0, cond=cond, steps=30)
    expected = -3 * cond.double().square().sum(1) / 2 - 3 * math.log(2 * math.pi)
    assert got.dtype == torch.float64
    assert not got.requires_grad
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert meter.cost.forward_rows == 4 * (4 * 30 - 1)  # at u = 0 the slope is known


def test_what_does_not_fit_is_refused(x0):
    diffusion = PLANE.diffusion(EDM())
    for options in ({"solver": "euler"}, {"divergence": "none"}, {"steps": 0}, {"probes": 0}):
        with pytest.raises(ValueError, match=r"steps and probes|signature"):
            diffusion.log_likelihood(x0, **options)
    with pytest.raises(ValueError, match="NaN"):
        diffusion.log_likelihood(x0 * math.nan)
    tokens = Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (4,))
    with pytest.raises(ValueError, match="use elbo"):
        tokens.log_likelihood(x0)
