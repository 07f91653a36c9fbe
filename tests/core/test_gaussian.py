"""The Gaussian process: conversions, posteriors, bounds and losses, as identities in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion, GaussianTransition
from tiltflow.core.parameterisations import Prediction
from tiltflow.core.parameterisations.gaussian import KINDS, convert
from tiltflow.core.paths import EDM, FlowMatching, VPCosine, VPLinear
from tiltflow.core.pretraining import Pretraining, pretrain
from tiltflow.core.processes import Gaussian, LogitNormal, Masked, UniformLogSnr, UniformShare, UniformTime
from torch import nn

from . import mixtures
from .acceptance import accept_means
from .mixtures import LINE, tensor

paths = pytest.mark.parametrize("path", mixtures.PATHS.values(), ids=mixtures.PATHS.keys())
LEVELS = (16.0, 5.0, 0.0, -5.0, -16.0)  # log-SNR; beyond the path, its end


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pairs(path, t, shape=(4, 3)):
    """x0, eps, x and what a perfect network of each kind predicts, straight from the definitions."""
    x0, eps, time = draws(*shape), draws(*shape, seed=1), tensor(t)
    a, s, da, ds = path.a(time), path.s(time), path.da(time), path.ds(time)
    norm = (a**2 + s**2).sqrt()
    kinds = {"x0": x0, "eps": eps, "score": -eps / s, "velocity": da * x0 + ds * eps, "v": (a * eps - s * x0) / norm}
    return x0, eps, a * x0 + s * eps, kinds


# --- Conversions ----------------------------------------------------------------------------------------------------


@paths
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("source", KINDS)
def test_every_kind_from_every_kind(path, level, source):
    t = min(1.0, float(path.inverse(tensor(level))))
    _, _, x, kinds = pairs(path, t)
    for target in KINDS:
        there = convert(path, kinds[source], source, target, x, t)
        torch.testing.assert_close(there, kinds[target], rtol=1e-10, atol=1e-10)
        back = convert(path, there, target, source, x, t)
        torch.testing.assert_close(back, kinds[source], rtol=1e-10, atol=1e-10)


@paths
@pytest.mark.parametrize("t", [1e-10, 1 - 1e-10, 0.0, 1.0])
@pytest.mark.parametrize("kind", ["v", "velocity"])
def test_v_and_velocity_tell_all_at_both_ends(path, t, kind):
    x0, eps, x, kinds = pairs(path, t)
    torch.testing.assert_close(convert(path, kinds[kind], kind, "x0", x, t), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(convert(path, kinds[kind], kind, "eps", x, t), eps, rtol=1e-9, atol=1e-9)


def test_where_one_says_nothing_of_the_other():
    x = draws(4, 3)
    assert torch.equal(convert(VPLinear(), x, "x0", "eps", x, 0.0), torch.zeros_like(x))
    assert bool(convert(VPLinear(), x.float(), "x0", "v", x.float(), 0.0).isfinite().all())
    for kind in ("eps", "score"):
        with pytest.raises(ValueError, match="says nothing of the data"):
            Gaussian(FlowMatching(), predicts=kind)
        Gaussian(VPCosine(end=0.999), predicts=kind)
    with pytest.raises(ValueError, match="cannot predict 'noise'"):
        Gaussian(VPLinear(), predicts="noise")
    with pytest.raises(ValueError, match="cannot predict 'data'"):
        convert(VPLinear(), x, "data", "eps", x, 0.5)


def test_v_is_what_was_published():
    _, eps, x, kinds = pairs(VPLinear(), 0.3)
    a, s = VPLinear().a(tensor(0.3)), VPLinear().s(tensor(0.3))
    torch.testing.assert_close(a * x - s * kinds["v"], kinds["x0"], rtol=1e-12, atol=1e-12)  # Salimans and Ho 2022
    _, _, x, kinds = pairs(EDM(), 0.02)
    sigma = 1.6
    skip, out = 1 / (sigma**2 + 1), sigma / math.sqrt(1 + sigma**2)  # Karras et al. 2022, table 1, sigma_data = 1
    torch.testing.assert_close(skip * x - out * kinds["v"], kinds["x0"], rtol=1e-12, atol=1e-12)
    _, eps, _, kinds = pairs(FlowMatching(), 0.3)
    torch.testing.assert_close(kinds["velocity"], eps - kinds["x0"], rtol=1e-12, atol=1e-12)


@paths
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 2, 3, 3)])
def test_times_may_differ_by_sample(path, shape, dtype):
    process, x, clean = Gaussian(path), draws(*shape).to(dtype), draws(*shape, seed=1).to(dtype)
    t, s = tensor(0.3, 0.5, 0.7, 0.9), tensor(0.1, 0.0, 0.6, 0.2)
    step = process.transition(clean, x, t, s)
    velocity = process.predict("velocity", clean, x, t)
    assert step.mean.dtype == step.std.dtype == velocity.dtype == dtype
    for i in range(4):
        row = slice(i, i + 1)
        alone = process.transition(clean[row], x[row], float(t[i]), float(s[i]))
        torch.testing.assert_close(step.mean[row], alone.mean)
        torch.testing.assert_close(step.std[row], alone.std)
        torch.testing.assert_close(velocity[row], process.predict("velocity", clean[row], x[row], float(t[i])))
    with pytest.raises(ValueError, match="one per sample"):
        process.transition(clean, x, tensor(0.3, 0.5), 0.1)


def test_the_network_is_read_as_it_says(generator):
    x0, _, x, kinds = pairs(VPLinear(), 0.4)
    for kind in KINDS:
        diffusion = Diffusion(Gaussian(VPLinear(), predicts=kind), lambda x, t, kind=kind: kinds[kind], (3,))
        torch.testing.assert_close(diffusion.clean(x, 0.4), x0, rtol=1e-10, atol=1e-10)
    assert Gaussian(FlowMatching()).predicts == "velocity"
    assert Gaussian(VPLinear()).predicts == Gaussian(EDM()).predicts == "v"
    with pytest.raises(ValueError, match="expected the same shape"):
        Denoiser(lambda x, t: x[:, :2], Prediction(VPLinear(), "eps"))(x, 0.4)


# --- Steps ----------------------------------------------------------------------------------------------------------


@paths
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (0.9, 0.2), (0.5, 0.499), (0.01, 0.001), (1.0, 0.001)])
def test_the_posterior_is_bayes(path, t, s):
    """q(x_s | x_t, x0) from the product of q(x_s | x0) and q(x_t | x_s), both Gaussian."""
    x0, x = draws(4, 3), draws(4, 3, seed=2)
    a_t, s_t, a_s, s_s = path.a(tensor(t)), path.s(tensor(t)), path.a(tensor(s)), path.s(tensor(s))
    growth = a_t / a_s
    added = s_t**2 - growth**2 * s_s**2
    variance = 1 / (1 / s_s**2 + growth**2 / added)
    mean = variance * (a_s * x0 / s_s**2 + growth * x / added)
    step = Gaussian(path).transition(x0, x, t, s)
    torch.testing.assert_close(step.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step.std.flatten() ** 2, variance, rtol=1e-9, atol=1e-12)


@paths
def test_steps_of_a_point_mass_compose(path):
    """With x0 known the reverse process is Markov: t to u to s is t to s."""
    process, x0, x = Gaussian(path), draws(4, 3), draws(4, 3, seed=2)
    t, u, s = 0.9, 0.4, 0.1
    whole, first = process.transition(x0, x, t, s), process.transition(x0, x, t, u)
    second = process.transition(x0, first.mean, u, s)
    gain = process.transition(x0, first.mean + 1, u, s).mean - second.mean
    torch.testing.assert_close(second.mean, whole.mean, rtol=1e-10, atol=1e-10)
    spread = (gain**2 * first.std**2 + second.std**2).sqrt()
    torch.testing.assert_close(spread, whole.std.expand_as(spread), rtol=1e-10, atol=1e-10)


@paths
@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_bridges_keep_the_marginal(path, kept):
    process, x0, eps = Gaussian(path), draws(4, 3), draws(4, 3, seed=1)
    t, s = 0.8, 0.3
    a, noise = path.a(tensor(s)), path.s(tensor(s))
    step = process.bridge(x0, path.a(tensor(t)) * x0 + path.s(tensor(t)) * eps, t, s, kept)
    torch.testing.assert_close(step.mean, a * x0 + noise * kept * eps, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((kept * noise) ** 2 + step.std.flatten() ** 2, noise.reshape(1) ** 2, rtol=1e-10, atol=0)


@paths
def test_ends_of_time_are_exact(path, dtype):
    process, x, clean = Gaussian(path), draws(4, 3).to(dtype), draws(4, 3, seed=1).to(dtype)
    last = process.transition(clean, x, 0.2, 0.0)
    assert torch.equal(last.mean, clean)
    assert last.deterministic
    first = process.transition(clean, x, 1.0, 0.7)
    assert not first.deterministic
    if float(path.a(tensor(1.0))) == 0:  # nothing is left to keep
        torch.testing.assert_close(first.mean, path.a(tensor(0.7)).to(dtype) * clean)
        torch.testing.assert_close(first.std.flatten(), path.s(tensor(0.7)).to(dtype).reshape(1))


@paths
def test_prior_and_corruption(path, generator):
    process = Gaussian(path, dtype=torch.float64)
    prior = process.prior(20_000, (2,), generator=generator(0)) / float(path.s(tensor(1.0)))
    x0 = tensor(1.0, -2.0).expand(20_000, 2)
    noised = process.corrupt(x0, 0.3, generator=generator(1))
    eps = (noised - path.a(tensor(0.3)) * x0) / path.s(tensor(0.3))
    for z in (prior, eps):
        moments = torch.cat([z, z**2, z[:, :1] * z[:, 1:]], 1)
        assert accept_means(moments, tensor(0, 0, 1, 1, 0), 0.1 * torch.eye(5, dtype=torch.float64))
    assert Gaussian(path).prior(2, (2,)).dtype == torch.float32


def test_everything_flows_through_the_clean_estimate(generator):
    process, x = Gaussian(VPLinear()), draws(4, 2, 3)
    clean = draws(4, 2, 3, seed=1).requires_grad_()
    step = process.transition(clean, x, 0.8, 0.3)
    step.rsample(generator=generator(0)).sum().backward(retain_graph=True)
    time, after = tensor(0.8), tensor(0.3)
    a, s = process.path.a, process.path.s
    expected = a(after) * (
        1 - (s(after) * a(time) / (a(after) * s(time))) ** 2
    )  # the coefficient of x0 in the posterior
    torch.testing.assert_close(clean.grad, expected.expand(4, 2, 3), rtol=1e-10, atol=1e-12)
    other = process.transition(draws(4, 2, 3, seed=2), x, 0.8, 0.3)
    for value in (step.log_prob(x), step.kl(other)):
        assert value.shape == (4,)
        gradient = torch.autograd.grad(value.sum(), clean, retain_graph=True)[0]
        assert bool((gradient != 0).all())


# --- Atoms ----------------------------------------------------------------------------------------------------------


def test_a_step_without_noise_is_an_atom(dtype, generator):
    mean = draws(3, 2).to(dtype)
    atom, other = (
        GaussianTransition(mean, torch.zeros(3, dtype=dtype)),
        GaussianTransition(mean, torch.ones(3, dtype=dtype)),
    )
    elsewhere = GaussianTransition(mean + tensor([0.0], [1.0], [0.0]).to(dtype), atom.std)
    assert atom.deterministic
    assert not other.deterministic
    assert torch.equal(atom.sample(generator=generator(0)), mean)
    assert torch.equal(atom.log_prob(elsewhere.mean), tensor(0.0, -math.inf, 0.0).to(dtype))
    assert torch.equal(atom.kl(elsewhere), tensor(0.0, math.inf, 0.0).to(dtype))
    assert torch.equal(atom.kl(other), torch.full((3,), math.inf, dtype=dtype))
    assert torch.equal(other.kl(atom), torch.full((3,), math.inf, dtype=dtype))
    assert torch.equal(atom.tilt(mean).mean, mean)


def test_atoms_and_densities_may_stand_side_by_side():
    mean = draws(2, 2).requires_grad_()
    step = GaussianTransition(mean, tensor(0.0, 0.5))
    alone = GaussianTransition(mean[1:], tensor(0.5))
    x = mean.detach() + tensor([0.0, 0.0], [1.0, 2.0])
    torch.testing.assert_close(step.log_prob(x)[1:], alone.log_prob(x[1:]))
    step.log_prob(x).sum().backward()
    torch.testing.assert_close(mean.grad, tensor([0.0, 0.0], [4.0, 8.0]))


# --- The bound ------------------------------------------------------------------------------------------------------

MEAN, VARIANCE = 0.4, 0.6  # Gaussian data, for which all is known


def gaussian_clean(path, x, t, scale=1.0):
    a, s = path.a(t).unsqueeze(-1), path.s(t).unsqueeze(-1)
    return scale * (MEAN + a * VARIANCE / (a**2 * VARIANCE + s**2) * (x - a * MEAN))


def exact_elbo(process, x0, levels=4000, scale=1.0):
    """The mean of `elbo` over time by a comb of the law's quantiles, over noise by eps = +-1, exact for quadratics."""
    u = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    t = process.law.quantile(u, process.path, process.span)
    importance = 1 / process.law.density(t, process.path, process.span)
    total = 0.0
    for eps in (-1.0, 1.0):
        x = process.path.a(t).unsqueeze(-1) * x0 + process.path.s(t).unsqueeze(-1) * eps
        clean = gaussian_clean(process.path, x, t, scale)
        total += float((importance * process.elbo(clean, torch.full_like(x, x0), x, t)).mean()) / 2
    return total


def noised_log_likelihood(x0, sigma):
    """E log N(x0 + sigma z; MEAN, VARIANCE + sigma^2)."""
    variance = VARIANCE + sigma**2
    return -0.5 * (math.log(2 * math.pi * variance) + ((x0 - MEAN) ** 2 + sigma**2) / variance)


@pytest.mark.parametrize("sigma", [1e-4, 0.1])
@pytest.mark.parametrize("name", ["cosine", "flow", "affine"])
def test_the_bound_is_tight_for_the_exact_denoiser(name, sigma):
    """On paths that end in pure noise; the slack of the others is the mismatch of their prior."""
    process = Gaussian(mixtures.PATHS[name], sigma_min=sigma)
    for x0 in (-1.0, 0.5, 2.0):
        assert exact_elbo(process, x0) == pytest.approx(noised_log_likelihood(x0, sigma), abs=2e-5)


@paths
@pytest.mark.parametrize("law", [UniformTime(), UniformShare(), UniformLogSnr(), LogitNormal(-1.0, 2.0)], ids=str)
def test_the_bound_does_not_depend_on_the_law(path, law):
    expected = exact_elbo(Gaussian(path), 0.7)
    levels = 4000 if law in (UniformShare(), UniformLogSnr()) else 100_000  # others see the steep end rarely
    assert exact_elbo(Gaussian(path, law=law), 0.7, levels) == pytest.approx(expected, abs=5e-3)
    slack = noised_log_likelihood(0.7, 1e-4) - expected
    assert abs(slack) < 0.01  # the prior's mismatch; its sign depends on x0


def test_a_wrong_denoiser_has_a_lower_bound():
    """By the error of its clean estimate: SNR-weighted, integrated, in closed form by the same comb."""
    process = Gaussian(FlowMatching(), sigma_min=0.1)
    right = sum(exact_elbo(process, x0) for x0 in (-1.0, 0.5, 2.0))
    for scale in (0.9, 1.1):
        assert sum(exact_elbo(process, x0, scale=scale) for x0 in (-1.0, 0.5, 2.0)) < right - 0.1


def test_the_bound_through_the_diffusion(dtype, generator):
    path = FlowMatching()
    process = Gaussian(path, predicts="x0", sigma_min=1e-3)
    network = lambda x, t: gaussian_clean(path, x, t)  # noqa: E731
    diffusion = Diffusion(process, network, (1,))
    x0 = tensor([-1.0], [0.5], [2.0]).to(dtype)
    estimate = diffusion.elbo(x0.repeat(1000, 1), draws=50, generator=generator(0)).reshape(1000, 3)
    expected = tensor(*(noised_log_likelihood(v, 1e-3) for v in (-1.0, 0.5, 2.0)))
    assert accept_means(estimate, expected, 0.2 * torch.eye(3, dtype=torch.float64))
    shifted = torch.distributions.Normal(MEAN, VARIANCE**0.5).log_prob(x0[:, 0])
    torch.testing.assert_close(expected.to(dtype), shifted, rtol=1e-5, atol=1e-5)


def test_noise_is_spread_and_weighted(generator):
    process = Gaussian(VPLinear(), law=UniformLogSnr())
    x0 = draws(64, 2)
    noised = process.noise(x0, generator=generator(0))
    low, high = process.span
    cells = (process.path.log_snr(noised.t) - process.path.log_snr(tensor(high))) * 64
    cells = (cells / (process.path.log_snr(tensor(low)) - process.path.log_snr(tensor(high)))).floor()
    assert torch.equal(cells.sort().values, torch.arange(64, dtype=torch.float64))
    strata = process.noise(x0, strata=8, generator=generator(0)).t.reshape(8, 8)
    assert float(strata.amin(1).amax()) < float(strata.amax(1).amin())
    area = process.noise(draws(20_000, 1), generator=generator(1)).importance.mean()
    assert float(area) == pytest.approx(high - low, rel=2e-2)  # the integral of 1 over the span


# --- Losses ---------------------------------------------------------------------------------------------------------


@paths
@pytest.mark.parametrize("t", [0.01, 0.4, 0.99])
def test_losses_are_errors_of_what_they_name(path, t):
    process, x0, wrong = Gaussian(path), draws(4, 3), draws(4, 3, seed=5)
    x = process.corrupt(x0, t, generator=torch.Generator().manual_seed(0))

    def error(kind):
        return (convert(path, wrong, "x0", kind, x, t) - convert(path, x0, "x0", kind, x, t)).square().sum(1)

    for weighting, kind in (("x0", "x0"), ("simple", "eps"), ("v", "v"), ("velocity", "velocity")):
        torch.testing.assert_close(process.loss(wrong, x0, t, weighting), error(kind), rtol=1e-9, atol=1e-12)
    snr = float(path.log_snr(tensor(t)).exp())
    for weighting, weight in (("snr", max(snr, 1)), ("min-snr", min(snr, 5))):
        torch.testing.assert_close(process.loss(wrong, x0, t, weighting), weight * error("x0"), rtol=1e-9, atol=1e-12)
    time = tensor(t).requires_grad_()
    rate = torch.autograd.grad(path.log_snr(time).exp(), time)[0]
    torch.testing.assert_close(process.loss(wrong, x0, t, "elbo"), -rate / 2 * error("x0"), rtol=1e-9, atol=1e-12)


def test_the_bound_differs_from_its_loss_by_what_no_network_changes():
    process, x0 = Gaussian(VPLinear()), draws(4, 3)
    noised = process.noise(x0, generator=torch.Generator().manual_seed(0))
    one, two = draws(4, 3, seed=5), draws(4, 3, seed=6)
    gap = process.elbo(one, x0, noised.x, noised.t) - process.elbo(two, x0, noised.x, noised.t)
    losses = process.loss(two, x0, noised.t, "elbo") - process.loss(one, x0, noised.t, "elbo")
    torch.testing.assert_close(gap, losses, rtol=1e-7, atol=0)


def test_training_on_another_loss(generator):
    process = Gaussian(FlowMatching())
    other = process.reweighted("velocity", LogitNormal())
    x0, clean = draws(16, 2), draws(16, 2, seed=1)
    noised = other.noise(x0, generator=generator(0))
    assert torch.equal(noised.importance, torch.ones(16, dtype=torch.float64))
    expected = -process.loss(clean, x0, noised.t, "velocity")
    assert torch.equal(other.elbo(clean, x0, noised.x, noised.t), expected)
    assert isinstance(process.reweighted().law, UniformTime)
    with pytest.raises(ValueError, match="weighting is 'best'"):
        process.reweighted("best")


class Small(nn.Module):
    """A small network of (x, t), which reads the noise level as an angle."""

    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, x, t):
        t = t.unsqueeze(-1)
        return self.layers(torch.cat([x, t, torch.cos(math.pi * t), torch.sin(math.pi * t)], -1))


@pytest.mark.parametrize("weighting", [None, "v"])
def test_pretraining_learns_a_mixture(weighting):
    """Through the trainer as it is, on the bound and on another loss: toward the entropy of the data, and not below it."""
    torch.manual_seed(0)
    process = Gaussian(VPCosine(), sigma_min=1e-2)
    trained = process if weighting is None else process.reweighted(weighting)
    diffusion = Diffusion(trained, Small(), (1,))
    validation = LINE.sample(1000, torch.Generator().manual_seed(1))
    settings = Pretraining(
        steps=400, batch=512, learning_rate=1e-2, warmup=50, weight_decay=0, ema=0.99, validate_every=200
    )

    @torch.no_grad()
    def bound(model):
        x0 = validation.float()
        return -float(model.elbo(x0, draws=64, generator=torch.Generator().manual_seed(2)).mean())

    judge = replace(diffusion, process=process)
    before = bound(judge)
    list(pretrain(diffusion, lambda n, generator: LINE.sample(n, generator).float(), validation.float(), settings))
    entropy = -float(LINE.log_prob(validation).mean())
    after = bound(judge)
    assert after < before - 0.1
    assert entropy - 0.02 < after < entropy + 0.2


# --- What does not fit ----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    process = Gaussian(VPLinear())
    for bad, what in ((torch.zeros(3, dtype=torch.int64), "int64"), (torch.zeros(3), "floats"), ([1.0], "list")):
        with pytest.raises(ValueError, match=what):
            process.check(bad, clean=True)
    with pytest.raises(ValueError, match="NaN"):
        process.check(torch.full((2, 2), math.nan), clean=True)
    with pytest.raises(ValueError, match="expected a path"):
        Gaussian(Masked(3))
    for sigma in (0, -1, 1e6):
        with pytest.raises(ValueError, match="sigma_min"):
            Gaussian(VPLinear(), sigma_min=sigma)
