"""Gaussian mixtures: closed forms against each other, computed laws of samplers and methods, Doob on continuous states."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiltflow.core import SMC, SVDD, BestOfN, Completions, Doob, Given, ImportanceResampling, PosteriorMean
from tiltflow.core.paths import EDM, VE, FlowMatching, VPCosine, VPLinear
from tiltflow.core.samplers import DDIM, Ancestral, HeunODE
from tiltflow.core.worlds import MixtureWorld, total_variation
from tiltflow.core.worlds.line import Intervals

from .acceptance import accept_law, accept_means, contaminated, enough_draws, sample_size
from .worldlaws import draws

PATHS = [FlowMatching(), VPCosine(), VPLinear(), VE(), EDM()]
LINE = MixtureWorld(seed=1, alpha=0.4, steps=8)
PLANE = MixtureWorld(size=2, components=4, seed=2, path=VPCosine(), steps=8)


def points(world, n=200, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, world.size, dtype=torch.float64, generator=generator)


# --- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [LINE, PLANE, replace(LINE, quadratic=0.0)], ids=str)
def test_the_tilted_law_is_p_times_exp_reward(world):
    x = points(world)
    ratio = world.target.log_prob(x) - world.data.log_prob(x)
    torch.testing.assert_close(ratio, world.reward(x) / world.alpha - world.log_z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.3, 0.9, 1.0])
def test_the_value_by_two_routes(path, t):
    """Against E[exp(r / alpha) | x_t] by quadrature over x0 given x_t, component by component."""
    world = replace(LINE, path=path)
    x = points(world, 20)
    nodes, weights = gauss_hermite(60)
    a, s = (float(f(torch.tensor(t, dtype=torch.float64))) for f in (path.a, path.s))
    data = world.data
    total = a**2 * data.variance.T + s**2  # [1, k]
    gap = x - a * data.mean.T
    share = (data.log_w - gap**2 / total / 2 - total.log() / 2).log_softmax(1)
    mean = data.mean.T + a * data.variance.T / total * gap
    std = (data.variance.T * s**2 / total).sqrt()
    x0 = mean.unsqueeze(-1) + std.unsqueeze(-1) * nodes
    growth = (world.reward(x0.reshape(-1, 1)).reshape(x0.shape) / world.alpha).exp() @ weights
    expected = world.alpha * (share.exp() * growth).sum(1).log()
    torch.testing.assert_close(world.value(x, t), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(world.h(x, t), (expected / world.alpha).exp(), rtol=1e-7, atol=0)


def gauss_hermite(n):
    """Nodes and weights for the mean over N(0, 1), from the eigenvalues of the Jacobi matrix (Golub and Welsch 1969)."""
    off = torch.arange(1, n, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, vectors[0] ** 2


@pytest.mark.parametrize("world", [LINE, PLANE], ids=str)
def test_the_gradient_of_the_value_is_that_of_finite_differences(world):
    x = points(world, 30).requires_grad_()
    (slope,) = torch.autograd.grad(world.value(x, 0.4).sum(), x)
    for axis in range(world.size):
        step = torch.zeros(world.size, dtype=torch.float64)
        step[axis] = 1e-5
        numeric = (world.value(x.detach() + step, 0.4) - world.value(x.detach() - step, 0.4)) / 2e-5
        torch.testing.assert_close(slope[:, axis], numeric, rtol=0, atol=1e-7)


@pytest.mark.parametrize("world", [LINE, PLANE], ids=str)
def test_the_posterior_mean_is_tweedie_s(world):
    """E[x0 | x] = (x + s^2 grad log p_t) / a."""
    x, t = points(world).requires_grad_(), torch.tensor(0.6, dtype=torch.float64)
    (score,) = torch.autograd.grad(world.marginal(0.6).log_prob(x).sum(), x)
    a, s = world.path.a(t), world.path.s(t)
    torch.testing.assert_close(
        world.diffusion.clean(x, 0.6).detach(), ((x + s**2 * score) / a).detach(), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("t", [0.01, 0.5, 0.95])
def test_doob_is_the_exact_denoiser_of_the_tilted_law(path, t):
    """score + grad log h is the score of p*, on every path."""
    world = replace(LINE, path=path)
    x = points(world)
    _, guided, value = Doob().estimate(world.tilt(), x, t, None)
    torch.testing.assert_close(guided, world.exact(world.target).clean(x, t), rtol=0, atol=1e-10)
    torch.testing.assert_close(value, world.value(x, t), rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", [FlowMatching(), VPCosine()], ids=str)
def test_where_no_signal_is_left_the_guided_estimate_is_the_tilted_mean(path):
    world = replace(LINE, path=path)
    _, guided, _ = Doob().estimate(world.tilt(), points(world), 1.0, None)
    mean = float(world.target.log_w.exp() @ world.target.mean[:, 0])
    torch.testing.assert_close(guided, torch.full_like(guided, mean), rtol=0, atol=1e-2)


# --- cells ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [LINE, PLANE], ids=str)
def test_cells_hold_the_masses_that_they_should(world):
    generator = torch.Generator().manual_seed(3)
    for law, mixture in ((world.p, world.data), (world.tilted, world.target)):
        assert float(law.sum()) == pytest.approx(1, abs=1e-12)
        pick = torch.multinomial(mixture.log_w.exp(), 300_000, replacement=True, generator=generator)
        noise = torch.randn(300_000, world.size, dtype=torch.float64, generator=generator)
        x = mixture.mean[pick] + mixture.variance[pick].sqrt() * noise
        assert accept_law(world.outcome(x), law, [contaminated(law, 0.1)])
    assert total_variation(world.p, world.tilted) > 0.1


def test_intervals_share_their_mass_evenly():
    law = Intervals(torch.tensor([0.0, 1.0, 3.0]).double(), torch.tensor([0.4, 0.6]).double())
    inner = torch.tensor([0.5, 1.0, 2.0]).double()
    torch.testing.assert_close(law.cells(inner), torch.tensor([0.2, 0.2, 0.3, 0.3]).double())
    turned = Intervals(law.edges.flip(0), law.mass.flip(0))
    torch.testing.assert_close(turned.cells(inner), law.cells(inner))


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.0), HeunODE()], ids=str)
def test_the_sampler_s_law_tends_to_p(sampler):
    distance = []
    for steps in (8, 32, 128):
        law = LINE.base_law(LINE.tilt(steps=steps, sampler=sampler).diffusion, points=400)
        distance.append(total_variation(law, LINE.p))
    assert distance[2] < distance[1] < distance[0]
    assert distance[2] < 0.03


@pytest.mark.parametrize("points", [400, 2000])
def test_the_computed_law_does_not_depend_on_the_grid(points):
    tilt = LINE.tilt()
    torch.testing.assert_close(LINE.base_law(points=points), LINE.base_law(points=1500), rtol=0, atol=2e-4)
    if points == 400:
        near = LINE.law(SVDD(4), tilt, points=250)
        torch.testing.assert_close(near, LINE.law(SVDD(4), tilt, points=500), rtol=0, atol=2e-4)


METHODS = [SVDD(4), SVDD(4, "argmax"), ImportanceResampling(8), BestOfN(4), Doob()]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("value", ["exact", "plug-in"])
def test_draws_follow_the_computed_law(method, value):
    tilt = LINE.tilt(value=None if value == "exact" else PosteriorMean())
    law = LINE.law(method, tilt)
    hotter = LINE.law(method, replace(tilt, alpha=1.3 * tilt.alpha))
    faults = [contaminated(law, 0.1), LINE.base_law()]
    if not isinstance(method, BestOfN) and getattr(method, "selection", "softmax") == "softmax":
        faults.append(hotter)  # an argmax has no temperature
    assert accept_law(draws(method, LINE, tilt, sample_size(law, faults), seed=4), law, faults)


def test_with_an_ode_every_step_is_guided():
    """Doob with DDIM(0) is the ODE of the tilted model, up to the end of time without signal."""
    tilt = LINE.tilt(sampler=DDIM(0.0), steps=16)
    exact = replace(LINE.exact(LINE.target), sampler=DDIM(0.0), steps=16)
    assert total_variation(LINE.law(Doob(), tilt), LINE.base_law(exact)) < 1e-3
    x = Doob().sample(tilt, 20_000, generator=torch.Generator().manual_seed(5)).x
    law = LINE.law(Doob(), tilt)
    assert accept_law(LINE.outcome(x), law, [contaminated(law, 0.5)])


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["exact", "plug-in"])
@pytest.mark.parametrize(
    "method",
    [
        Doob(),
        Doob(strength=0.5),
        SMC(4),
        SMC(8, threshold=1.0),
        SMC(4, proposal=Doob()),
        SVDD(4),
        ImportanceResampling(4),
    ],
    ids=str,
)
def test_weights_are_unbiased_for_the_sampler_s_own_law(method, value):
    tilt = LINE.tilt(value=None if value == "exact" else PosteriorMean())
    law, log_z = LINE._push(tilt.diffusion, 1000), LINE.log_z_of(tilt.diffusion, points=1000)
    x = law.middles.unsqueeze(1)
    growth = law.mass * (LINE.reward(x) / LINE.alpha - log_z).exp()
    truth = torch.stack([growth.sum(), growth @ x[:, 0], growth @ x[:, 0] ** 2])
    unguided = torch.stack([torch.ones(()).double(), law.mass @ x[:, 0], law.mass @ x[:, 0] ** 2])
    faults = torch.stack([unguided - truth, 0.1 * truth])
    generator = torch.Generator().manual_seed(6)

    def draw(n):
        samples = method.sample(tilt, n, generator=generator)
        weight = (samples.log_weight - log_z).exp()
        return weight.unsqueeze(1) * torch.stack([torch.ones(n).double(), samples.x[:, 0], samples.x[:, 0] ** 2], 1)

    assert accept_means(enough_draws(draw, faults), truth, faults)


def test_the_variance_of_guided_weights_vanishes_with_the_step(generator):
    """With the exact value; and then a guided proposal beats the base law's."""

    def spread(method, steps, value=None):
        samples = method.sample(LINE.tilt(steps=steps, value=value), 2000, generator=generator(0))
        return float(samples.log_weight.std())

    assert spread(Doob(), 64) < 0.5 * spread(Doob(), 16) < 0.4 * spread(Doob(), 4)
    assert spread(SMC(8, proposal=Doob()), 64) < 0.3 * spread(SMC(8), 64)


def test_one_forward_and_one_backward_row_a_step(generator):
    samples = Doob().sample(PLANE.tilt(value=PosteriorMean()), 10, generator=generator(0))
    extra = 10 * 1  # no signal is left at t = 1: the gradient is taken just before, the estimate at 1
    assert samples.cost.forward_rows == 8 * 10 + extra
    assert samples.cost.reward_calls == 8 * 10 + 10


# --- refusals -------------------------------------------------------------------------------------------------------


def test_what_has_no_noise_cannot_choose():
    tilt = LINE.tilt(sampler=DDIM(0.0))
    for method in (SVDD(4), SMC(4), SMC(4, proposal=Doob())):
        with pytest.raises(ValueError, match="no noise"):
            method.sample(tilt, 2)
    assert len(ImportanceResampling(4).sample(tilt, 2, generator=torch.Generator().manual_seed(0))) == 2
    with pytest.raises(ValueError, match="several estimates"):
        Doob().sample(LINE.tilt(sampler=HeunODE()), 2)


def test_what_a_world_does_not_know_is_said():
    with pytest.raises(NotImplementedError, match="on the line"):
        PLANE.base_law()
    with pytest.raises(NotImplementedError, match="no computable law"):
        LINE.law(SMC(4), LINE.tilt())
    with pytest.raises(ValueError, match="tokens"):
        SVDD(2).sample(LINE.tilt(value=Completions(1)), 2)
    with pytest.raises(ValueError, match="size"):
        MixtureWorld(size=3)
    with pytest.raises(ValueError, match="no finite mass"):
        LINE.data.tilt(torch.zeros(1), torch.full((1,), -100.0))
    with pytest.raises(ValueError, match="alpha"):
        MixtureWorld(alpha=0.0)


def test_a_flat_value_guides_nowhere(generator):
    flat = LINE.tilt(value=Given(lambda x, t: (0 * x).sum(1)))
    samples = Doob().sample(flat, 100, generator=generator(0))
    torch.testing.assert_close(samples.log_weight, LINE.reward(samples.x) / LINE.alpha, rtol=0, atol=1e-10)
    assert math.isfinite(samples.log_z)
