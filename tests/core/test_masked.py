"""The masked process: noising, reverse steps, the bound and its noise levels."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from numpy.polynomial.legendre import leggauss
from tiltflow.core.diffusion import Diffusion
from tiltflow.core.processes import Masked, masked
from tiltflow.core.schedules import Cosine, Geometric, Linear, LogLinear, Polynomial
from tiltflow.core.states import one_hot
from tiltflow.core.worlds import MaskedWorld

SCHEDULES = [Linear(), LogLinear(), Cosine(), Polynomial(2.0), Polynomial(0.5), Geometric()]
TIMES = (0.05, 0.3, 0.62, 1.0)
X0 = torch.tensor([[0, 1, 2, 1]])


@pytest.fixture(params=SCHEDULES, ids=str)
def process(request):
    return Masked(3, request.param)


def known(x0, x, dtype=torch.float64):
    """The clean estimate of someone who knows x0: log one-hot, `[B, L, K]`."""
    return one_hot(x0, 3, dtype).log().expand(*x.shape, 3)


# --- noising --------------------------------------------------------------------------------------------------------


def test_a_site_is_kept_with_probability_alpha(process, monkeypatch, midpoints):
    u = midpoints(1000)
    monkeypatch.setattr(masked, "uniform", lambda shape, like, generator: u.unsqueeze(1).expand(shape))
    for t in TIMES:
        alpha = float(process.schedule.alpha(torch.tensor(t, dtype=torch.float32).double()))
        x = process.corrupt(X0.expand(1000, 4), t)
        assert float((x == X0).double().mean()) == pytest.approx(alpha, abs=1 / 1000)
        assert bool(((x == X0) | (x == 3)).all())


def test_times_are_per_sample(generator):
    process = Masked(3)
    x = process.corrupt(X0.expand(3, 4), torch.tensor([0.0, 1.0, 0.0]), generator=generator(0))
    assert x.tolist() == [[0, 1, 2, 1], [3, 3, 3, 3], [0, 1, 2, 1]]
    with pytest.raises(ValueError, match="Time has shape"):
        process.corrupt(X0, torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("channels", [3, 4])
def test_relaxed_noising_is_the_discrete_one(channels, dtype, generator):
    process, x0 = Masked(3), torch.randint(3, (200, 5), generator=torch.Generator().manual_seed(0))
    tokens = process.corrupt(x0, 0.4, generator=generator(1))
    relaxed = process.corrupt(one_hot(x0, channels, dtype), 0.4, generator=generator(1))
    assert torch.equal(relaxed, one_hot(tokens, 4, dtype))
    soft = torch.full((200, 5, 3), 1 / 3, dtype=dtype)
    mixed = process.corrupt(soft, 0.4, generator=generator(1))
    assert torch.equal(mixed[..., 3] == 1, tokens == 3)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(200, 5, dtype=dtype))


def test_prior_is_all_masks(generator):
    assert Masked(3).prior(2, (4,), generator=generator(0)).tolist() == [[3] * 4] * 2


# --- reverse steps --------------------------------------------------------------------------------------------------


def kernel(process, t, s, length=2):
    """q(x_s | x_t, x0 = (0, 1)) between all states that x0 can reach, and the states."""
    x0 = X0[:, :length]
    states = torch.tensor(list(itertools.product(*[(int(token), 3) for token in x0[0]])))
    step = process.transition(known(x0, states), states, t, s)
    return torch.stack([step.log_prob(target.expand_as(states)) for target in states], 1).exp(), states


def test_steps_compose(process):
    """Chapman-Kolmogorov: t -> s -> u is t -> u."""
    for t, s, u in [(1.0, 0.6, 0.2), (0.62, 0.3, 0.05), (0.3, 0.1, 0.0)]:
        direct = kernel(process, t, u)[0]
        torch.testing.assert_close(kernel(process, t, s)[0] @ kernel(process, s, u)[0], direct, rtol=0, atol=1e-12)
        torch.testing.assert_close(direct.sum(1), torch.ones(4).double(), rtol=0, atol=1e-12)


def test_steps_undo_the_noise(process):
    """q(x_t) pushed through q(x_s | x_t, x0) is q(x_s), and nothing is masked at t = 0."""

    def marginal(t, states):
        kept = process.schedule.alpha(torch.tensor(t, dtype=torch.float64))
        return torch.where(states == 3, 1 - kept, kept).prod(1)

    for t, s in itertools.pairwise(reversed(TIMES)):
        step, states = kernel(process, t, s)
        torch.testing.assert_close(marginal(t, states) @ step, marginal(s, states), rtol=0, atol=1e-12)
    step, states = kernel(process, 0.3, 0.0)
    assert bool((step[:, (states == 3).any(1)] == 0).all())


def test_relaxed_steps_at_one_hot_states_are_the_discrete_ones(process, dtype):
    world = MaskedWorld(3, 3)
    x, clean = world.states, world.posterior.to(dtype)
    step = process.transition(clean, x, 0.62, 0.3)
    relaxed = process.transition(clean, one_hot(x, 4, dtype), 0.62, 0.3)
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(relaxed.log_probs.exp(), step.log_probs.exp(), rtol=0, atol=atol)


def test_relaxed_estimates_at_one_hot_states_are_the_discrete_ones(dtype):
    process, x = Masked(3), MaskedWorld(3, 3).states
    logits = torch.randn(len(x), 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    relaxed = process.parameterise(lambda x, t: logits)(one_hot(x, 4, dtype), 0.5)
    asked = (x == 3).any(-1)  # rows without a mask skip the network
    hard = process.parameterise(lambda x, t: logits[asked])(x, 0.5)
    torch.testing.assert_close(relaxed.exp()[asked], hard.exp()[asked])
    assert torch.equal(relaxed.exp()[~asked], hard.to(dtype).exp()[~asked])


def test_relaxed_steps_stay_on_the_simplex(dtype):
    process = Masked(3)
    x = torch.rand(50, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x = x / x.sum(-1, keepdim=True)
    clean = process.parameterise(lambda x, t: x[..., :3] * 2)(x, 0.5)
    for s in (0.4, 0.0):
        total = process.transition(clean, x, 0.5, s).log_probs.exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("hard", [False, True])
def test_gradients_flow_through_all_relaxed_steps(hard, generator):
    """To the last step, where no mask mass is left, and through one-hot states: a plain log gives NaN at both."""
    process, network = Masked(3), torch.nn.Linear(4, 3).double()
    x = one_hot(torch.full((5, 6), 3), 4, torch.float64)
    noise = generator(0)
    for t, s in itertools.pairwise([1.0, 0.6, 0.3, 0.0]):
        clean = process.parameterise(lambda x, t: network(x))(x, t)
        x = process.transition(clean, x, t, s).rsample(0.8, generator=noise, straight_through=hard)
    assert float(x.detach()[..., 3].max()) == 0
    x[..., 0].sum().backward()
    assert bool(network.weight.grad.isfinite().all())
    assert float(network.weight.grad.norm()) > 1e-3


def test_the_divergence_of_a_path_does_not_depend_on_the_number_of_steps(process):
    """Two estimates that never change differ by KL per site; a path meets exactly that, however finely it is cut.

    The published DRAKES penalty grows with the number of steps, and is zero on hard states.
    """
    p, q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]], dtype=torch.float64).log()
    x = torch.tensor([[3]])
    reached = float(1 - process.schedule.alpha(torch.ones(1).double()))
    for steps in (1, 7, 50):
        total = 0.0
        for t, s in itertools.pairwise(torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()):
            still = (
                1 - process.schedule.alpha(torch.tensor(t, dtype=torch.float64))
            ) / reached  # probability of being masked at t
            one, two = (process.transition(law.expand(1, 1, 3), x, t, s) for law in (p, q))
            total += float(still * one.kl(two))
        assert total == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-10)


# --- the bound ------------------------------------------------------------------------------------------------------


def expected_bound(process, clean, x0, states):
    """Integral over t in (0, 1), and sum over masks, of elbo: float64 `[N]` for x0 `[N, L]`; clean `[S, L, K]` at states."""
    # Substituting t = inverse(a) for a in (0, 1) by Gauss-Legendre: exact for the polynomials of a that masks give.
    node, weight = (torch.tensor(v) for v in leggauss(12))
    low = process.schedule.alpha(torch.ones(1).double())  # LogLinear stops short of 0; so does the integral
    alpha = low + (1 - low) * (node + 1) / 2
    t = process.schedule.inverse(alpha)
    jacobian = -1 / process.schedule.derivative(t) * (1 - low) / 2
    total = torch.zeros(len(x0), dtype=torch.float64)
    for row, tokens in enumerate(x0):
        reachable = ((states == tokens) | (states == process.mask)).all(1)
        x, estimate = states[reachable], clean[reachable]
        masks = (x == process.mask).sum(1)
        for time, a, w in zip(t.tolist(), alpha, weight * jacobian, strict=True):
            mass = (1 - a) ** masks * a ** (x.shape[1] - masks)
            total[row] += w * (mass * process.elbo(estimate, tokens.expand_as(x), x, time)).sum()
    return total


def test_the_bound_of_the_exact_denoiser_is_the_log_likelihood(process):
    """Any order of the chain rule gives log p(x), so the mean over orders does: the bound is tight, for every schedule."""
    world = MaskedWorld(3, 3)
    x0 = world.sequences[::5]
    bound = expected_bound(process, world.posterior, x0, world.states)
    if isinstance(process.schedule, LogLinear):  # the part of the time axis beyond alpha = eps is not in (0, 1)
        torch.testing.assert_close(bound, world.p[::5].log(), rtol=0, atol=1e-2)
    else:
        torch.testing.assert_close(bound, world.p[::5].log(), rtol=0, atol=1e-9)


def test_the_bound_of_a_wrong_denoiser_is_below_its_own_likelihood():
    """A denoiser that flattens the exact one: bound < log p_theta (Jensen over orders), p_theta from the world's kernels."""
    world = MaskedWorld(3, 3, seed=2)
    masked_site = (world.states == 3).unsqueeze(-1)
    wrong = torch.where(masked_site, (0.3 * world.posterior).log_softmax(-1), world.posterior)
    diffusion = world.diffusion
    denoiser = diffusion.process.parameterise(lambda x, t: wrong[world.index(x)])
    denoiser.time_invariant = True
    likelihood = world.base_law(replace(diffusion, denoiser=denoiser)).log()
    bound = expected_bound(Masked(3), wrong, world.sequences, world.states)
    gap = likelihood - bound
    assert float(gap.min()) > 0
    assert float(gap.max()) < 0.5
    # and it is the mean over orders of the log of the chain rule
    x = world.sequences[7]
    orders = []
    for order in itertools.permutations(range(3)):
        state, total = torch.full((3,), 3), 0.0
        for site in order:
            total += float(wrong[world.index(state), site, x[site]])
            state[site] = x[site]
        orders.append(total)
    assert float(bound[7]) == pytest.approx(sum(orders) / 6, abs=1e-9)


def test_the_bound_of_a_product_law_has_no_noise_in_its_masks():
    """With independent sites the term of n masks is L / n times n of the site terms: their mean over masks is log p."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    process = Masked(3)
    for n in range(1, 5):
        terms = []
        for hidden in itertools.combinations(range(4), n):
            x = X0.clone()
            x[0, list(hidden)] = 3
            t = n / 4
            terms.append(float(process.elbo(p.expand(1, 4, 3), X0, x, t)) * t * 4 / n)
        assert sum(terms) / len(terms) == pytest.approx(float(p[X0].sum()), abs=1e-10)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_bound_is_finite_near_the_data(process, precision):
    """In float32, 1 - alpha(1e-6) is 0 for some schedules, and 1 / 0 times no mask was NaN: one NaN ends a training."""
    t = torch.tensor([0.0, 1e-12, 1e-6, 1e-5, 1e-4])
    clean = torch.full((5, 4, 3), -1.0, dtype=getattr(torch, precision), requires_grad=True)
    x = X0.repeat(5, 1)
    bound = process.elbo(clean, X0.expand(5, 4), x, t)
    assert bound.tolist() == [0] * 5
    x[:, 0] = 3
    bound = process.elbo(clean, X0.expand(5, 4), x, t)
    bound[2:].sum().backward()
    assert bool(bound[2:].isfinite().all())
    assert bool(clean.grad.isfinite().all())


# --- noise levels ---------------------------------------------------------------------------------------------------


def test_every_sample_gets_every_number_of_masks_equally_often(process, monkeypatch, midpoints):
    """Over the one random shift, each row of the batch sees n = 1 .. L uniformly: no row is stuck with a stratum."""
    counts = torch.zeros(6, 4)
    for shift in midpoints(40):
        monkeypatch.setattr(torch, "rand", lambda *shape, shift=shift, **_: shift.expand(shape))
        monkeypatch.setattr(masked, "uniform", lambda shape, *_: torch.linspace(0, 0.9, 4).double().expand(shape))
        noised = process.noise(X0.expand(6, 4))
        masks = (noised.x == 3).sum(1)
        counts += torch.nn.functional.one_hot(masks - 1, 4)
    assert counts.tolist() == [[10] * 4] * 6


def test_noise_levels_of_a_batch_cover_the_range(process, generator):
    noised = process.noise(X0.expand(40, 4), generator=generator(0))
    assert (noised.x == 3).sum(1).bincount(minlength=5).tolist() == [0, 10, 10, 10, 10]
    pairs = process.noise(X0.expand(40, 4), strata=2, generator=generator(0))
    masks = (pairs.x == 3).sum(1).reshape(20, 2)
    assert bool((masks.sum(1) >= 4).all())  # one of each pair in either half
    assert bool((masks[:, 0] <= 2).ne(masks[:, 1] <= 2).all())
    ragged = process.noise(X0.expand(7, 4), strata=3, generator=generator(0))
    assert ragged.x.shape == (7, 4)


def test_which_sites_are_masked_is_uniform(generator):
    noised = Masked(3).noise(X0.expand(40_000, 4), generator=generator(0))
    one = noised.x[(noised.x == 3).sum(1) == 1]
    rates = (one == 3).double().mean(0)
    assert float((rates - 0.25).abs().max()) < 4.5 * math.sqrt(0.25 * 0.75 / len(one))


def test_importance_times_weight_is_sites_over_masks(process, dtype, generator):
    """What the bound needs, at the very times that are handed out (rounded to float32, clamped below 1)."""
    noised = process.noise(X0.expand(8, 4), generator=generator(0))
    masks = (noised.x == 3).sum(1)
    clean = torch.full((8, 4, 3), -1.0, dtype=dtype)
    terms = noised.importance * process.elbo(clean, X0.expand(8, 4), noised.x, noised.t)
    torch.testing.assert_close(terms, torch.full_like(terms, -4.0), rtol=1e-6, atol=0)
    inside = masks < 4
    found = 1 - process.schedule.alpha(noised.t.double())
    torch.testing.assert_close(found[inside], (masks / 4).double()[inside], rtol=0, atol=2e-3)


def test_the_estimate_of_the_bound_is_unbiased(process, generator):
    """Diffusion.elbo on the exact world: with one draw for each number of masks the mean over draws is log p."""
    world = MaskedWorld(3, 3)
    diffusion = replace(world.diffusion, process=process)
    x0 = world.sequences[:9]
    bound = diffusion.elbo(x0, draws=30_000, generator=generator(0))
    one = torch.stack([diffusion.elbo(x0, generator=generator(seed)) for seed in range(100)])
    error = one.std(0) / math.sqrt(30_000)
    assert float(((bound - world.p[:9].log()) / error).abs().max()) < 4.5  # strata only make the error smaller
    assert float(error.max()) < 0.03


# --- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [1, 0, -3, 2.0, True, "4", None])
def test_vocab_is_an_integer_of_at_least_two(vocab):
    with pytest.raises(ValueError, match="vocab is"):
        Masked(vocab)


@pytest.mark.parametrize(
    ("x", "clean", "word"),
    [
        (torch.tensor([0, 1]), False, r"int64 tokens \[B, L\]"),
        (torch.zeros(1, 2), False, "float32"),
        (torch.zeros(1, 2, dtype=torch.int32), False, "int32"),
        ([[0, 1]], False, "list"),
        (torch.tensor([[0, 4]]), False, "0 to 3"),
        (torch.tensor([[-1, 0]]), False, "-1"),
        (torch.tensor([[0, 3]]), True, "mask itself"),
    ],
)
def test_check_says_what_is_wrong(x, clean, word):
    with pytest.raises(ValueError, match=word):
        Masked(3).check(x, clean=clean)
    Masked(3).check(torch.tensor([[0, 3]]), clean=False)


def test_elbo_refuses_masks_in_clean_samples():
    diffusion = Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (4,))
    with pytest.raises(ValueError, match="mask itself"):
        diffusion.elbo(torch.tensor([[0, 1, 2, 3]]))
