"""Samplers of Gaussian processes: who equals whom, observed orders, laws on Gaussian data, numbers of estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from tiltflow.core import SVDD, Diffusion, Meter, Tilt
from tiltflow.core.paths import EDM, FlowMatching, VPCosine, VPLinear, karras_grid, log_snr_grid
from tiltflow.core.processes import Gaussian, Masked
from tiltflow.core.samplers import (
    DDIM,
    Ancestral,
    Confidence,
    DPMSolver,
    EulerMaruyama,
    EulerODE,
    ExponentialSDE,
    FirstHitting,
    HeunODE,
    InterpolantSDE,
    complete,
    denoise,
)

from . import mixtures
from .mixtures import LINE, PLANE, slope, tensor


@dataclass(frozen=True)
class Rising:
    """A noise shape of one's own, w(t) = t; a lambda's name would differ from one test worker to the next."""

    def __call__(self, t):
        return t


paths = pytest.mark.parametrize("path", mixtures.PATHS.values(), ids=mixtures.PATHS.keys())
STEPS = [(1.0, 0.9), (0.9, 0.3), (0.3, 0.29), (0.1, 0.0)]
SINGLE = [
    Ancestral(),
    DDIM(),
    DDIM(0.5),
    DDIM(1.0),
    EulerODE(),
    EulerODE("time"),
    ExponentialSDE(0.5),
    ExponentialSDE(1.5),
    EulerMaruyama(),
    EulerMaruyama(0.0),
    InterpolantSDE(),
    InterpolantSDE(0.3, "constant"),
    InterpolantSDE(0.5, Rising()),
]
MULTI = [HeunODE(), HeunODE("time"), DPMSolver()]


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(one, two):
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.std.expand(4, 3), two.std.expand(4, 3), rtol=1e-9, atol=1e-12)


# --- Who equals whom ------------------------------------------------------------------------------------------------


@paths
@pytest.mark.parametrize(("t", "s"), STEPS)
@pytest.mark.parametrize(
    ("one", "two"),
    [
        (DDIM(1.0), Ancestral()),
        (ExponentialSDE(1.0), Ancestral()),
        (ExponentialSDE(0.0), DDIM(0.0)),
        (EulerODE(), DDIM(0.0)),
        (InterpolantSDE(0.0), EulerODE("time")),
        (EulerMaruyama(0.0), EulerODE("time")),
    ],
    ids=str,
)
def test_equal_steps(path, t, s, one, two):
    if isinstance(one, EulerMaruyama) and float(path.a(tensor(t))) == 0:
        two = DDIM(0.0)  # there Euler-Maruyama takes an exact step
    process, clean, x = Gaussian(path), draws(4, 3), draws(4, 3, seed=1)
    assert_same(one.transition(process, clean, x, t, s), two.transition(process, clean, x, t, s))


@pytest.mark.parametrize(("t", "s"), STEPS)
@pytest.mark.parametrize("path", [FlowMatching(), EDM()], ids=str)
def test_straight_paths_make_euler_ddim(path, t, s):
    process, clean, x = Gaussian(path), draws(4, 3), draws(4, 3, seed=1)
    assert_same(EulerODE("time").transition(process, clean, x, t, s), DDIM().transition(process, clean, x, t, s))


def test_ddim_is_what_was_published():
    """Song et al. 2021, eq. 12 and 16, in their own symbols (alpha is a^2)."""
    path, eta, t, s = VPLinear(), 0.4, 0.6, 0.45
    clean, x = draws(4, 3), draws(4, 3, seed=1)
    alpha, before = path.a(tensor(t)) ** 2, path.a(tensor(s)) ** 2
    sigma = eta * ((1 - before) / (1 - alpha)).sqrt() * (1 - alpha / before).sqrt()
    eps = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    step = DDIM(eta).transition(Gaussian(path), clean, x, t, s)
    torch.testing.assert_close(step.mean, before.sqrt() * clean + (1 - before - sigma**2).sqrt() * eps)
    torch.testing.assert_close(step.std.flatten(), sigma.reshape(1))


def test_the_sde_of_flow_grpo_is_what_was_published():
    """Liu et al. 2025, eq. 9, with dt = t - s > 0 and the velocity v = eps - x0."""
    level, t, s = 0.7, 0.6, 0.5
    clean, x = draws(4, 3), draws(4, 3, seed=1)
    velocity, sigma = (x - clean) / t, level * math.sqrt(t / (1 - t))
    mean = x - (velocity + sigma**2 / (2 * t) * (x + (1 - t) * velocity)) * (t - s)
    step = InterpolantSDE(level).transition(Gaussian(FlowMatching()), clean, x, t, s)
    torch.testing.assert_close(step.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step.std.flatten(), tensor(sigma * math.sqrt(t - s)))


@paths
def test_exponential_steps_compose(path):
    """For a clean estimate that stays, the SDE is solved exactly: t to u to s is t to s, at any noise level."""
    process, clean, x, sampler = Gaussian(path), draws(4, 3), draws(4, 3, seed=1), ExponentialSDE(0.7)
    whole, first = (sampler.transition(process, clean, x, 0.9, s) for s in (0.2, 0.5))
    second = sampler.transition(process, clean, first.mean, 0.5, 0.2)
    gain = sampler.transition(process, clean, first.mean + 1, 0.5, 0.2).mean - second.mean
    torch.testing.assert_close(second.mean, whole.mean, rtol=1e-10, atol=1e-10)
    spread = (gain**2 * first.std**2 + second.std**2).sqrt()
    torch.testing.assert_close(spread, whole.std.expand_as(spread), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sampler", [DDIM(), HeunODE(), DPMSolver()], ids=str)
@paths
def test_straight_solvers_do_not_depend_on_the_path(path, sampler):
    """From the same y = x / (a + s), on times of the same log-SNR, every path gives the same sample."""
    levels = torch.linspace(-7, 9, 12, dtype=torch.float64)
    y, ends = draws(5, 2), []
    for each in (path, FlowMatching()):
        times = torch.cat([each.inverse(levels), tensor(0.0)])
        scale = each.a(times[0]) + each.s(times[0])
        ends.append(complete(PLANE.diffusion(each, sampler=sampler), scale * y, times))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_heun_in_sigma_is_the_one_of_edm():
    """Algorithm 1 of Karras et al. 2022 (no churn), line by line."""
    path = EDM(20.0)
    sigmas = [20.0, 7.0, 2.0, 0.6, 0.1, 0.0]
    x = path.sigma_max * draws(5, 2)
    got = complete(PLANE.diffusion(path, sampler=HeunODE("time")), x, tensor(*sigmas) / path.sigma_max)
    for sigma, after in pairwise(sigmas):
        d = (x - PLANE.posterior_mean(x, 1.0, sigma)) / sigma
        ahead = x + (after - sigma) * d
        if after:
            d = (d + (ahead - PLANE.posterior_mean(ahead, 1.0, after)) / after) / 2
        x = x + (after - sigma) * d
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-10)


# --- Orders ---------------------------------------------------------------------------------------------------------

ORDERS = [(DDIM(), 1), (EulerODE("time"), 1), (HeunODE(), 2), (HeunODE("time"), 2), (DPMSolver(), 2)]


def between(path, count):
    """Times even in log-SNR between two fixed noise levels, where the orders of all solvers are defined."""
    ends = path.log_snr(tensor(0.95, 0.02)).tolist()
    return path.inverse(torch.linspace(*ends, count + 1, dtype=torch.float64))


@pytest.mark.parametrize("name", ["vp", "cosine", "edm", "flow"])
def test_observed_orders(name):
    """Root-mean-square error of trajectories against a fine solution with the exact denoiser of a mixture."""
    path, x = mixtures.PATHS[name], draws(32, 2)
    x = x * float(path.s(tensor(1.0)))
    fine = complete(PLANE.diffusion(path, sampler=HeunODE()), x, between(path, 900))
    for sampler, order in ORDERS:
        ends = [complete(PLANE.diffusion(path, sampler=sampler), x, between(path, n)) for n in (15, 30, 60)]
        errors = [float((end - fine).square().mean().sqrt()) for end in ends]
        assert slope(errors) == pytest.approx(order, abs=0.15), (sampler, errors)


def test_heun_is_of_second_order_from_prior_to_data():
    """The whole way, ends included, on flow matching's own grid: Wasserstein-2 to the data, by sorted draws."""
    eps = torch.special.ndtri((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).unsqueeze(1)
    diffusion = LINE.diffusion(FlowMatching(), sampler=HeunODE())
    ends = [complete(diffusion, eps, torch.linspace(1, 0, n + 1).double()) for n in (15, 30, 60, 500)]
    errors = [float((end - ends[-1]).square().mean().sqrt()) for end in ends[:-1]]
    assert slope(errors) == pytest.approx(2, abs=0.2)
    cdf = sum(
        w * torch.special.ndtr((ends[-1] - m) / v.sqrt())
        for w, m, v in zip(LINE.weights, LINE.means[:, 0], LINE.variances, strict=True)
    )
    torch.testing.assert_close(cdf, torch.special.ndtr(eps), rtol=0, atol=2e-4)  # the flow keeps quantiles


# --- Laws on Gaussian data: every step is affine, so the law of the samples is computed ------------------------------

MEAN, VARIANCE = 0.7, 0.3


def law_of(sampler, path, times, mean, variance):
    """Mean and variance of x at the end, from N(mean, variance) at times[0], with the exact denoiser of N(MEAN, VARIANCE)."""
    process, x = Gaussian(path), tensor([0.0], [1.0])
    for t, s in pairwise(times.tolist()):
        a, noise = path.a(tensor(t)), path.s(tensor(t))
        clean = MEAN + a * VARIANCE / (a**2 * VARIANCE + noise**2) * (x - a * MEAN)
        step = sampler.transition(process, clean, x, t, s)
        base, gain = float(step.mean[0]), float(step.mean[1] - step.mean[0])
        mean, variance = base + gain * mean, gain**2 * variance + float(step.std.max()) ** 2
    return mean, variance


@pytest.mark.parametrize("name", ["vp", "cosine", "edm", "flow"])
@pytest.mark.parametrize(
    "sampler", [s for s in SINGLE if s.stochastic and s != EulerMaruyama()] + [EulerMaruyama(0.5)], ids=str
)
def test_stochastic_laws_converge_with_order_one(name, sampler):
    """Error of mean and variance at a fixed noise level, started from the exact marginal: weak order 1."""
    path = mixtures.PATHS[name]
    if isinstance(sampler, InterpolantSDE) and name == "edm":
        sampler = replace(sampler, level=sampler.level * 5)  # in the units of that path
    errors = []
    for count in (50, 100, 200):
        times = between(path, count)
        a, noise = path.a(times), path.s(times)
        mean, variance = law_of(sampler, path, times, float(a[0]) * MEAN, float(a[0] ** 2 * VARIANCE + noise[0] ** 2))
        gap = abs(variance - float(a[-1] ** 2 * VARIANCE + noise[-1] ** 2)) + abs(mean - float(a[-1]) * MEAN)
        errors.append(gap)
    assert slope(errors) == pytest.approx(1, abs=0.2), errors
    assert errors[-1] < 0.1


@pytest.mark.parametrize("sampler", [Ancestral(), EulerMaruyama(), InterpolantSDE(0.5, Rising()), DDIM()], ids=str)
@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_laws_from_prior_to_data(name, sampler):
    """All the way from N(0, 1) where nothing is left of the data, both singular ends included."""
    path = mixtures.PATHS[name]
    errors = []
    for count in (200, 400):
        mean, variance = law_of(sampler, path, torch.linspace(1, 0, count + 1).double(), 0.0, 1.0)
        errors.append(abs(mean - MEAN) + abs(variance - VARIANCE))
    assert errors[0] < 0.02
    assert slope(errors) > 0.8


def test_noise_that_starts_from_nothing_converges_slowly():
    """As `InterpolantSDE` says: with w^2 ~ level^2 / a the first steps err by a part that no grid makes small."""
    errors = []
    for count in (200, 400, 800):
        times = torch.linspace(1, 0, count + 1, dtype=torch.float64)
        errors.append(law_of(InterpolantSDE(), VPCosine(), times, 0.0, 1.0)[1] - VARIANCE)
    assert 0.1 < slope(errors) < 0.49  # it approaches level^2
    assert errors[0] < 0.005


def test_samples_follow_the_computed_law(generator):
    """The one-step law above is also the one that `sample` draws from."""
    path, sampler = FlowMatching(), InterpolantSDE()
    one = mixtures.Mixture(tensor(1.0), tensor([MEAN]), tensor(VARIANCE))
    x = one.diffusion(path, steps=8, sampler=sampler).sample(20_000, generator=generator(0))
    mean, variance = law_of(sampler, path, torch.linspace(1, 0, 9).double(), 0.0, 1.0)
    assert float(x.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / 20_000))
    assert float(x.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / 20_000))


# --- The contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VPLinear(), EDM(), FlowMatching()], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("sampler", SINGLE + MULTI, ids=str)
def test_every_sampler_runs_from_end_to_end(path, sampler, dtype, generator):
    """Finite, of the right dtype, ending in the last clean estimate, with the stated number of estimates."""
    network = PLANE.network(path)
    diffusion = Diffusion(
        Gaussian(path, predicts="x0", dtype=dtype), network, (2,), sampler=sampler, grid=karras_grid(path, 12)
    )
    with Meter() as meter:
        path_taken = list(
            denoise(diffusion, diffusion.prior(6, generator=generator(0)), diffusion.times, generator=generator(1))
        )
    assert [s for s, _, _ in path_taken] == diffusion.times[1:].tolist()
    assert all(x.dtype == dtype and bool(x.isfinite().all()) for _, x, _ in path_taken)
    assert torch.equal(path_taken[-1][1], path_taken[-1][2])
    assert meter.cost.forward_rows == 6 * (23 if isinstance(sampler, HeunODE) else 12)


@pytest.mark.parametrize("sampler", SINGLE + MULTI, ids=str)
def test_noise_is_as_declared(sampler, generator):
    diffusion = PLANE.diffusion(VPLinear(), steps=5, sampler=sampler)
    x = diffusion.prior(3, generator=generator(0))
    one, two = (complete(diffusion, x, diffusion.times, generator=generator(seed)) for seed in (1, 2))
    assert torch.equal(one, two) == (not sampler.stochastic)
    assert sampler.single_step == (sampler not in MULTI)
    if sampler.single_step:
        assert diffusion.transition(x, 0.5, 0.4).deterministic == (not sampler.stochastic)


@pytest.mark.parametrize("sampler", MULTI, ids=str)
def test_what_only_samples_says_so(sampler, generator):
    diffusion = PLANE.diffusion(VPLinear(), steps=4, sampler=sampler)
    with pytest.raises(ValueError, match=r"no transition.*DDIM"):
        diffusion.transition(diffusion.prior(2), 1.0, 0.5)
    with pytest.raises(ValueError, match=r"only samples|no transition"):
        SVDD(2).sample(Tilt(diffusion, lambda x: x.sum(1), 1.0), 2, generator=generator(0))


def test_a_run_may_start_midway_with_its_estimate_at_hand(generator):
    for sampler in (DDIM(), HeunODE(), DPMSolver()):
        diffusion = PLANE.diffusion(VPCosine(), steps=6, sampler=sampler)
        x = diffusion.prior(3, generator=generator(0))
        times = diffusion.times[2:]
        with Meter() as meter:
            clean = diffusion.clean(x, float(times[0]))
            given = complete(diffusion, x, times, clean=clean)
        assert torch.equal(given, complete(diffusion, x, times))
        assert meter.cost.forward_rows == 3 * (7 if isinstance(sampler, HeunODE) else 4)


@pytest.mark.parametrize("sampler", [s for s in SINGLE + MULTI if s != Ancestral()], ids=str)
def test_gaussian_samplers_refuse_tokens(sampler):
    with pytest.raises(ValueError, match="needs a Gaussian process, not Masked"):
        Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (4,), sampler=sampler)
    with pytest.raises(ValueError, match="masked process, not Gaussian"):
        PLANE.diffusion(VPLinear(), sampler=FirstHitting())
    with pytest.raises(ValueError, match="masked process, not Gaussian"):
        PLANE.diffusion(VPLinear(), sampler=Confidence())


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDIM(1.5),
        lambda: ExponentialSDE(-1),
        lambda: EulerMaruyama(math.nan),
        lambda: InterpolantSDE(-0.1),
        lambda: InterpolantSDE(1, "cosine"),
        lambda: EulerODE("sigma"),
    ],
    ids=["ddim", "exponential", "euler-maruyama", "interpolant", "shape", "variable"],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_the_path_gives_the_grid():
    assert torch.equal(PLANE.diffusion(EDM(), steps=7).times, karras_grid(EDM(), 7))
    assert torch.equal(PLANE.diffusion(VPLinear(), steps=7).times, torch.linspace(1, 0, 8, dtype=torch.float64))
    grid = log_snr_grid(VPLinear(), 5)
    assert torch.equal(PLANE.diffusion(VPLinear(), grid=grid).times, grid)
