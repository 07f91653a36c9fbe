"""Affine paths: schedules, derivatives, log-SNR and its inverse at both ends of time; grids; laws of training times."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core.paths import (
    EDM,
    PATHS,
    VE,
    Affine,
    FlowMatching,
    SubVP,
    VPCosine,
    VPLinear,
    karras_grid,
    log_snr_grid,
    shifted_grid,
)
from tiltflow.core.processes import Gaussian, LogitNormal, UniformLogSnr, UniformShare, UniformTime
from tiltflow.core.processes.times import stratified_uniforms
from tiltflow.core.schedules import check_grid

from . import mixtures
from .mixtures import tensor

TIMES = tensor(1e-12, 1e-8, 1e-4, 0.01, 0.3, 0.5, 0.9, 1 - 1e-4, 1 - 1e-8)
paths = pytest.mark.parametrize("path", mixtures.PATHS.values(), ids=mixtures.PATHS.keys())


@paths
def test_ends_are_exact(path):
    zero, one = tensor(0.0), tensor(1.0)
    assert float(path.a(zero)) == 1
    assert float(path.s(zero)) == 0
    assert float(path.log_snr(zero)) == math.inf
    assert float(path.inverse(tensor(math.inf))) == 0
    assert float(path.inverse(path.log_snr(one))) == pytest.approx(1, abs=1e-15)
    singular = isinstance(path, (VPCosine, FlowMatching, Affine))
    assert (float(path.a(one)) == 0) == singular
    for t in (zero, one):
        assert bool(torch.stack([path.a(t), path.s(t), path.da(t), path.ds(t)]).isfinite().all())


@paths
def test_derivatives(path):
    for function, derivative in ((path.a, path.da), (path.s, path.ds), (path.log_snr, path.log_snr_rate)):
        t = TIMES.clone().requires_grad_()
        value = function(t).sum()
        expected = torch.autograd.grad(value, t)[0] if value.requires_grad else torch.zeros_like(t)
        torch.testing.assert_close(derivative(TIMES), expected, rtol=1e-10, atol=1e-12)
        middle, h = TIMES[3:7], 1e-5  # and a route that trusts no autograd
        difference = (function(middle + h) - function(middle - h)) / (2 * h)
        torch.testing.assert_close(derivative(middle), difference, rtol=1e-5, atol=1e-8)


@paths
def test_log_snr_falls_and_inverts(path):
    log_snr = path.log_snr(TIMES)
    assert bool((log_snr.diff() < 0).all())
    torch.testing.assert_close(log_snr, 2 * (path.a(TIMES) / path.s(TIMES)).log(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(path.inverse(log_snr), TIMES, rtol=1e-10, atol=1e-14)


def test_precision_near_the_data():
    """Against the first terms of the series at t = 1e-12, where the plain formulas 1 - a^2 lose four digits and more."""
    t = tensor(1e-12)
    torch.testing.assert_close(VPLinear().s(t) ** 2, 0.1 * t + 0.5 * 19.9 * t**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(SubVP().s(t), 0.1 * t + 0.5 * 19.9 * t**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(VE().s(t) ** 2, 2e-4 * math.log(5000) * t, rtol=1e-10, atol=0)
    torch.testing.assert_close(VPCosine().a(1 - tensor(2.0**-40)), math.pi / 2 * tensor(2.0**-40), rtol=1e-12, atol=0)


def test_known_schedules():
    t = TIMES[2:8]
    vp, cosine = VPLinear(), VPCosine()
    torch.testing.assert_close(vp.a(t) ** 2 + vp.s(t) ** 2, torch.ones_like(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(cosine.a(t) ** 2 + cosine.s(t) ** 2, torch.ones_like(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(SubVP().s(t), vp.s(t) ** 2, rtol=1e-12, atol=0)
    steps = 100_000  # the discrete process of Ho et al. in its limit
    betas = torch.linspace(0.1, 20, steps, dtype=torch.float64) / steps
    assert float((1 - betas).log().sum() / 2) == pytest.approx(float(vp.a(tensor(1.0)).log()), rel=1e-3)
    assert float(VE().s(tensor(1.0))) == pytest.approx(50, rel=1e-6)
    assert float(EDM(80).s(tensor(0.25))) == 20


def test_affine_takes_any_pair():
    flow, same = FlowMatching(), Affine(lambda t: 1 - t, lambda t: t)
    for name in ("a", "s", "da", "ds", "log_snr"):
        torch.testing.assert_close(getattr(same, name)(TIMES), getattr(flow, name)(TIMES), rtol=1e-12, atol=0)
    constant = Affine(torch.ones_like, lambda t: 3 * t)
    assert torch.equal(constant.da(TIMES), torch.zeros_like(TIMES))
    with pytest.raises(ValueError, match="expected 1 and 0"):
        Affine(lambda t: t, lambda t: 1 - t)
    with pytest.raises(ValueError, match="falling strictly"):
        Affine(lambda t: 1 - t, lambda t: t * (1 - t) ** 2)


@pytest.mark.parametrize(
    "make",
    [lambda: VPLinear(2, 1), lambda: SubVP(0, 1), lambda: VE(1, 0.1), lambda: EDM(-1), lambda: VPCosine(0)],
    ids=["vp", "subvp", "ve", "edm", "cosine"],
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()
    assert set(PATHS) == set(mixtures.PATHS) - {"affine"}


# --- Grids ----------------------------------------------------------------------------------------------------------


@paths
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_grids_run_from_noise_to_data(path, steps):
    for grid in (path.grid(steps), karras_grid(path, steps), log_snr_grid(path, steps)):
        assert torch.equal(check_grid(grid), grid)
        assert len(grid) == steps + 1
        assert (grid[0], grid[-1]) == (1, 0)


def test_grids_are_what_they_say():
    sigma = 80 * EDM().grid(5)[:-1]
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    torch.testing.assert_close(sigma, tensor(*expected), rtol=1e-10, atol=0)
    steps = VPLinear().log_snr(log_snr_grid(VPLinear(), 9, low=-100)[:-1]).diff()
    torch.testing.assert_close(steps, steps[:1].expand(8), rtol=1e-8, atol=0)
    assert float(shifted_grid(4, 3.0)[2]) == pytest.approx(3 * 0.5 / 2)
    with pytest.raises(ValueError, match="positive"):
        shifted_grid(4, 0)
    with pytest.raises(ValueError, match="must rise"):
        log_snr_grid(VPLinear(), 4, low=20)


# --- Training times -------------------------------------------------------------------------------------------------


@paths
@pytest.mark.parametrize(
    "law", [UniformTime(), UniformLogSnr(), UniformShare(), LogitNormal(), LogitNormal(1, 0.5)], ids=str
)
def test_quantile_and_density_agree(path, law):
    """d quantile / d u = 1 / density, and the quantiles of 0 and 1 are the ends of the span."""
    span = Gaussian(path).span
    u = tensor(0.02, 0.3, 0.5, 0.8, 0.97).requires_grad_()
    t = law.quantile(u, path, span)
    if not isinstance(path, Affine):  # whose inverse bisects
        rate = torch.autograd.grad(t.sum(), u)[0]
        torch.testing.assert_close(law.density(t.detach(), path, span), 1 / rate, rtol=1e-7, atol=0)
    ends = law.quantile(tensor(0.0, 1.0), path, span)
    torch.testing.assert_close(ends.sort().values, tensor(*span), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("law", [UniformTime(), UniformLogSnr(), UniformShare(), LogitNormal()], ids=str)
def test_density_integrates_to_one(law):
    path = mixtures.PATHS["affine"]  # whose quantile has no derivative to compare with: it bisects
    span = Gaussian(path).span
    logits = torch.linspace(*torch.logit(tensor(*span)).tolist(), 20_001, dtype=torch.float64)
    t = torch.sigmoid(logits)
    assert float(torch.trapezoid(law.density(t, path, span) * t * (1 - t), logits)) == pytest.approx(1, abs=1e-4)


def test_laws_differ_as_they_should():
    span = Gaussian(FlowMatching()).span
    t = tensor(0.1, 0.5, 0.9)
    ratio = LogitNormal().density(t, FlowMatching(), span) / UniformTime().density(t, FlowMatching(), span)
    assert float(ratio[1]) > float(ratio[0]) == pytest.approx(float(ratio[2]))
    share = UniformShare().density(t, FlowMatching(), span)
    torch.testing.assert_close(share, UniformTime().density(t, FlowMatching(), span), rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="positive"):
        LogitNormal(std=0)


def test_strata_are_even(generator):
    u = stratified_uniforms(60, 20, generator(0)).reshape(3, 20)
    assert torch.equal((u * 20).floor().sort(1).values, torch.arange(20, dtype=torch.float64).expand(3, 20))
