"""Chains on each site, uniform, masked and general: kernels, reverse steps, rates and the bound, against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numpy.polynomial.legendre import leggauss
from tiltflow.core import Diffusion
from tiltflow.core.processes import Ctmc, Masked, Uniform
from tiltflow.core.processes.ctmc import expm
from tiltflow.core.schedules import Cosine, Geometric, Linear, LogLinear, Polynomial
from tiltflow.core.states import one_hot

from .acceptance import accept_law, contaminated, sample_size
from .chains import DENSE, REVERSIBLE, SPARSE, Sites, absorbing_rates, uniform_rates

STEPS = [(1.0, 0.5), (0.6, 0.3), (0.3, 0.0), (1.0, 0.0), (1e-6, 0.0), (0.9, 0.001)]
SCHEDULES = [Linear(), LogLinear(), Cosine(), Polynomial(2.0), Polynomial(0.5), Geometric()]


def matrix(rates):
    return torch.as_tensor(rates, dtype=torch.float64)


def make(name, schedule):
    return {
        "uniform": lambda: (Uniform(3, schedule), uniform_rates(3)),
        "uniform as a matrix": lambda: (Ctmc(uniform_rates(3), schedule), uniform_rates(3)),
        "dense": lambda: (Ctmc(matrix(DENSE), schedule), matrix(DENSE)),
        "sparse": lambda: (Ctmc(matrix(SPARSE), schedule), matrix(SPARSE)),
        "reversible": lambda: (Ctmc(matrix(REVERSIBLE), schedule), matrix(REVERSIBLE)),
        "masked as a matrix": lambda: (Ctmc(absorbing_rates(3), schedule, vocab=3), absorbing_rates(3)),
        "masked": lambda: (Masked(3, schedule), absorbing_rates(3)),
    }[name]()


CHAINS = ["uniform", "uniform as a matrix", "dense", "sparse", "reversible", "masked as a matrix", "masked"]


@pytest.fixture(params=CHAINS)
def world(request):
    """(process, enumeration of two correlated sites)."""
    process, rates = make(request.param, Cosine())
    return process, Sites(rates, 3, 2, seed=1, schedule=Cosine())


# --- kernels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [DENSE, SPARSE, REVERSIBLE, uniform_rates(4), absorbing_rates(2)], ids=str)
def test_the_exponential_of_a_rate_matrix(rates):
    time = torch.tensor([0.0, 1e-9, 0.3, 2.0, 40.0, 690.0], dtype=torch.float64)
    found = expm(matrix(rates), time)
    expected = torch.linalg.matrix_exp(time.reshape(-1, 1, 1) * matrix(rates))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert float(found.min()) >= 0


def test_small_probabilities_keep_their_relative_precision():
    """A ladder of 8 states: the last is reached in time t with probability about t^7 / 7!, 1e-39 here."""
    ladder = torch.diag(torch.ones(7, dtype=torch.float64), 1)
    ladder = ladder - ladder.sum(1).diag()
    for time in (1e-5, 0.5):
        found = float(expm(ladder, torch.tensor([time], dtype=torch.float64))[0, 0, -1])
        series = math.exp(-time) * sum(time**k / math.factorial(k) for k in range(7, 40))  # Poisson: 7 jumps or more
        assert found == pytest.approx(series, rel=1e-12)


def test_the_prior_is_the_stationary_law(generator):
    process = Ctmc(matrix(REVERSIBLE))
    torch.testing.assert_close(process.stationary, matrix([3, 2, 2]) / 7, rtol=0, atol=1e-12)
    assert Ctmc(absorbing_rates(3), vocab=3).prior(2, (4,), generator=generator(0)).tolist() == [[3] * 4] * 2
    faults = [contaminated(process.stationary, 0.05)]
    x = process.prior(sample_size(process.stationary, faults), (1,), generator=generator(0))
    assert accept_law(x.flatten(), process.stationary, faults)


def test_noise_is_drawn_from_the_kernel(world, generator):
    """Pairs of a token and what it turned into, against the rows of the kernel."""
    process, sites = world
    for t in (0.25, 0.7):
        law = sites.site(t)[:3].flatten() / 3
        faults = [contaminated(law, 0.1), sites.site(0.8 * t)[:3].flatten() / 3]
        n = sample_size(law, faults) // 3
        x0 = torch.arange(3).repeat(n).reshape(-1, 1)
        x = process.corrupt(x0, t, generator=generator(0))
        assert accept_law((x0 * len(sites.rates) + x).flatten(), law, faults)


def test_relaxed_noise_is_the_discrete_one(world, dtype, generator):
    process, sites = world
    size = sites.states.max() + 1
    x0 = torch.randint(3, (200, 5), generator=generator(1))
    tokens = process.corrupt(x0, 0.4, generator=generator(1))
    relaxed = process.corrupt(one_hot(x0, 3, dtype), 0.4, generator=generator(1))
    assert torch.equal(relaxed, one_hot(tokens, int(size), dtype))
    soft = process.corrupt(torch.full((200, 5, 3), 1 / 3, dtype=dtype), 0.4, generator=generator(1))
    torch.testing.assert_close(soft.sum(-1), torch.ones(200, 5, dtype=dtype))


# --- reverse steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), STEPS)
def test_a_step_is_the_posterior_of_each_site(world, t, s):
    process, sites = world
    step = process.transition(sites.clean(sites.states, t), sites.states, t, s)
    possible = sites.marginal(t) > 1e-14  # at t = 1 of a masked process there is one state
    torch.testing.assert_close(step.log_probs.exp()[possible], sites.step(t, s)[possible], rtol=0, atol=1e-10)
    torch.testing.assert_close(step.log_probs.exp().sum(-1)[possible].min(), matrix(1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_steps_given_the_sample_compose_and_undo_the_noise(name, schedule):
    """One site, x0 known: t -> s -> 0 is t -> 0 = x0; and q(x_t | x0) pushed through a step is q(x_s | x0)."""
    process, rates = make(name, schedule)
    sites = Sites(rates, 3, 1, schedule=schedule)
    x = sites.states

    def kernel(x0, t, s):
        clean = one_hot(torch.tensor([[x0]]), 3, torch.float64).log().expand(len(x), 1, 3)
        return process.transition(clean, x, t, s).log_probs.exp()[:, 0].nan_to_num(0)

    for x0 in range(3):
        for t, s in itertools.pairwise([1.0, 0.6, 0.2, 1e-4]):
            pushed = sites.site(t)[x0] @ kernel(x0, t, s)
            torch.testing.assert_close(pushed, sites.site(s)[x0], rtol=0, atol=1e-12)
        reached = sites.site(0.6)[x0] > 0
        through = (kernel(x0, 0.6, 0.2) @ kernel(x0, 0.2, 0.0))[reached]
        torch.testing.assert_close(through, one_hot(torch.tensor(x0), len(x), torch.float64).expand_as(through))


def test_times_are_per_sample(world):
    process, sites = world
    x = sites.states[sites.marginal(0.3) > 0]
    clean = sites.clean(x, 0.3).double()
    both = process.transition(
        clean.repeat(2, 1, 1), x.repeat(2, 1), torch.tensor([0.6] * len(x) + [0.3] * len(x)).double(), 0.1
    )
    for part, t in zip(both.log_probs.split(len(x)), (0.6, 0.3), strict=True):
        torch.testing.assert_close(part, process.transition(clean, x, t, 0.1).log_probs)


@pytest.mark.parametrize("name", ["uniform", "dense", "sparse"])
def test_relaxed_steps_are_means_over_the_state(name, dtype):
    process, rates = make(name, Linear())
    sites = Sites(rates, 3, 2, schedule=Linear())
    x, clean = sites.states, sites.clean(sites.states, 0.6).to(dtype)
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    step = process.transition(clean, x, 0.6, 0.3).log_probs.exp()
    hard = process.transition(clean, one_hot(x, 3, dtype), 0.6, 0.3).log_probs.exp()
    torch.testing.assert_close(hard, step, rtol=0, atol=atol)
    weights = torch.rand(9, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)).softmax(-1)
    mixed = process.transition(clean, weights, 0.6, 0.3).log_probs.exp()
    expected = 0
    for state in range(3):
        there = process.transition(clean, torch.full_like(x, state), 0.6, 0.3).log_probs.exp()
        expected = expected + weights[..., state : state + 1] * there
    torch.testing.assert_close(mixed, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["uniform", "dense", "sparse"])
def test_gradients_flow_through_all_relaxed_steps(name, generator):
    process, network = make(name, Linear())[0], torch.nn.Linear(3, 3).double()
    x = one_hot(process.prior(5, (6,), generator=generator(0)), 3, torch.float64)
    for t, s in itertools.pairwise([1.0, 0.6, 0.3, 0.0]):
        clean = process.parameterise(lambda x, t: network(x))(x, t)
        x = process.transition(clean, x, t, s).rsample(0.8, generator=generator(1))
    x[..., 0].sum().backward()
    assert bool(network.weight.grad.isfinite().all())
    assert float(network.weight.grad.norm()) > 1e-3


def test_a_matrix_gives_the_closed_forms():
    """Uniform = Ctmc(1/K - I) and Masked = Ctmc(to the mask), wherever a process is asked for anything."""
    generator = torch.Generator().manual_seed(0)
    for name in ("uniform", "masked"):
        closed, rates = make(name, Cosine())
        general = make(f"{name} as a matrix", Cosine())[0]
        x = Sites(rates, 3, 2, schedule=Cosine()).states
        logits = torch.randn(len(x), 2, 3, dtype=torch.float64, generator=generator)
        clean = logits.log_softmax(-1) if name == "uniform" else clean_of(x, logits)
        torch.testing.assert_close(general.parameterise(lambda x, t, logits=logits: logits)(x, 0.5), clean)
        x0 = torch.where(x < 3, x, 1)
        for t, s in [(0.8, 0.3), (0.2, 0.0)]:
            for ask in (
                lambda process, t=t, s=s, clean=clean, x=x: process.transition(clean, x, t, s).log_probs.exp(),
                lambda process, t=t, clean=clean, x=x: process.rates(clean, x, t),
                lambda process, t=t, x=x: process.forward_rates(x, t),
                lambda process, t=t, clean=clean, x=x, x0=x0: process.elbo(clean, x0, x, t),
            ):
                torch.testing.assert_close(ask(general), ask(closed), rtol=1e-10, atol=1e-10)


def clean_of(x, logits):
    """SUBS by hand."""
    return torch.where((x == 3).unsqueeze(-1), logits.log_softmax(-1), one_hot(x, 4, torch.float64).log()[..., :3])


# --- rates ----------------------------------------------------------------------------------------------------------


def test_rates_are_the_slope_of_the_steps(world):
    """(p(x_s = k | x_t) - 1[k = x_t]) / (t - s), extrapolated to s = t."""
    process, sites = world
    x, t = sites.states, 0.6
    x = x[sites.marginal(t) > 0]
    here = one_hot(x, len(sites.rates), torch.float64)
    at = (sites.marginal(t) > 0).nonzero().flatten()
    slopes = [(sites.step(t, t - h)[at] - here) / h for h in (2e-4, 1e-4)]
    slope = torch.where(here == 1, 0.0, 2 * slopes[1] - slopes[0])
    torch.testing.assert_close(process.rates(sites.clean(x, t), x, t), slope, rtol=0, atol=2e-5)


def test_forward_and_reverse_rates_balance(world):
    """Flow by flow: p_t(x) R(x -> y) = p_t(y) R_forward(y -> x) for every pair of states that differ in one site."""
    process, sites = world
    t, x = 0.45, sites.states
    mass = sites.marginal(t)
    reverse = process.rates(sites.clean(x, t), x, t)
    forward = process.forward_rates(x, t)
    for site, state in itertools.product(range(2), range(len(sites.rates))):
        y = x.clone()
        y[:, site] = state
        back = forward[sites.index(y), site, x[:, site]]
        flow = torch.where(x[:, site] == state, 0.0, mass * reverse[:, site, state])
        torch.testing.assert_close(flow, mass[sites.index(y)] * back, rtol=0, atol=1e-12)


def test_rates_are_finite_at_both_ends(world):
    process, sites = world
    for t in (0.0, 1.0):
        x = sites.states[sites.marginal(max(t, 1e-9)) > 1e-14]
        clean = sites.clean(x, 0.5)
        assert bool(process.rates(clean, x, t).isfinite().all())
        assert bool(process.forward_rates(x, t).isfinite().all())


# --- the bound ------------------------------------------------------------------------------------------------------


def expected_bound(process, sites, clean, nodes=48):
    """Integral over t and sum over x_t of elbo for every sequence, `[K^L]`; clean(x, t).

    With 1 - alpha = u^4 the integrand is smooth where the data are (logarithms there), and Gauss-Legendre converges.
    """
    node, weight = (torch.tensor(v) for v in leggauss(nodes))
    u = (node + 1) / 2
    t = process.schedule.inverse(1 - u**4)
    jacobian = 4 * u**3 / -process.schedule.derivative(t) / 2 * weight
    total = torch.zeros(len(sites.sequences), dtype=torch.float64)
    for time, w in zip(t.tolist(), jacobian, strict=True):
        noised, estimate = sites.noised(time), clean(sites.states, time)
        for row, x0 in enumerate(sites.sequences):
            terms = process.elbo(estimate, x0.expand_as(sites.states), sites.states, time)
            total[row] += w * torch.where(noised[row] > 0, noised[row] * terms, 0.0).sum()
    return total


@pytest.mark.parametrize("name", CHAINS)
def test_the_bound_of_the_exact_denoiser_is_the_log_likelihood(name):
    """For every sequence, sites correlated or not: the path determines x0, so no information is lost on the way."""
    process, rates = make(name, Linear())
    sites = Sites(rates, 3, 2, seed=3, schedule=Linear())
    bound = expected_bound(process, sites, sites.clean)
    torch.testing.assert_close(bound, sites.p.log(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_bound_does_not_depend_on_the_schedule(schedule):
    process = Uniform(3, schedule)
    sites = Sites(uniform_rates(3), 3, 2, seed=3, schedule=schedule)
    bound = expected_bound(process, sites, sites.clean)
    atol = 1e-3 if isinstance(schedule, LogLinear) else 1e-6  # LogLinear ends at alpha = 1e-3
    torch.testing.assert_close(bound, sites.p.log(), rtol=0, atol=atol)


def test_the_bound_of_a_wrong_denoiser_is_below():
    """And lower by the divergence of paths: at least KL(p || p_theta) on average, for any p_theta; here by the identity
    E_p[bound] = -H(p) - (divergence >= 0)."""
    process = Uniform(3)
    sites = Sites(uniform_rates(3), 3, 2, seed=3, schedule=Linear())
    bound = expected_bound(process, sites, lambda x, t: (0.5 * sites.clean(x, t)).log_softmax(-1))
    assert float((sites.p * (sites.p.log() - bound)).sum()) > 0.05
    flat = expected_bound(process, sites, lambda x, t: torch.full((len(x), 2, 3), -math.log(3)).double())
    assert float((sites.p * (bound - flat)).sum()) > 0.05


@pytest.mark.parametrize("name", ["uniform", "sparse", "dense"])
def test_the_estimate_of_the_bound_is_unbiased(name, generator):
    process, rates = make(name, Cosine())
    sites = Sites(rates, 3, 2, seed=3, schedule=Cosine())

    def clean(x, t):  # exact, at a time for each row
        x0 = sites.sequences
        kernels = expm(matrix(rates), -process.schedule.alpha(t.double()).clamp(min=1e-30).log())  # [B, S, S]
        site = kernels[:, x0].gather(3, x[:, None, :, None].expand(-1, len(x0), -1, 1)).squeeze(-1)
        joint = sites.p * site.prod(-1)  # [B, K^L]
        return (torch.einsum("bn,nlk->blk", joint, one_hot(x0, 3, torch.float64))).log()

    diffusion = Diffusion(process, clean, (2,))
    x0 = sites.sequences[:4]
    draws = 20_000
    bound = diffusion.elbo(x0, draws=draws, generator=generator(0)).double()
    rows = x0.repeat_interleave(draws, 0)
    noised = process.noise(rows, strata=draws, generator=generator(1))
    terms = noised.importance * process.elbo(diffusion.clean(noised.x, noised.t), rows, noised.x, noised.t)
    error = terms.double().reshape(4, -1).std(1) / math.sqrt(draws)
    assert float(error.max()) < 0.07
    assert float(((bound - sites.p[:4].log()) / error).abs().max()) < 4.5


def test_noise_levels_are_stratified_and_weighed(world, generator):
    process, _ = world
    if isinstance(process, Masked):
        return  # it has noise levels of its own
    x0 = torch.zeros(64, 3, dtype=torch.int64)
    noised = process.noise(x0, generator=generator(0))
    u = (1 - process.schedule.alpha(noised.t.double())).sqrt()
    assert (u * 64).long().bincount(minlength=64).tolist() == [1] * 64
    weight = 2 * u / -process.schedule.derivative(noised.t.double())
    torch.testing.assert_close(noised.importance.double(), weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_bound_is_finite_near_the_data(world, precision):
    process, _ = world
    t = torch.tensor([0.0, 1e-12, 1e-6, 1e-4, 1.0])
    logits = torch.full((5, 4, 3), -1.0, dtype=getattr(torch, precision), requires_grad=True)
    x0 = torch.tensor([[0, 1, 2, 1]]).repeat(5, 1)
    x = x0.clone()
    if isinstance(process, Masked) or process.states > 3:
        x[:, 0] = 3
    clean = process.parameterise(lambda x, t: logits)(x, t)
    bound = process.elbo(clean, x0, x, t)
    bound[1:].sum().backward()
    assert bool(bound[1:].isfinite().all())
    assert bool(logits.grad.isfinite().all())


# --- guidance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "dense", "sparse", "masked"])
def test_guiding_by_the_exact_h_gives_the_tilted_law(name):
    """p*_t = p_t h: its own clean estimate, from the base law's and h at the neighbours."""
    process, rates = make(name, Linear())
    sites = Sites(rates, 3, 2, seed=1, schedule=Linear())
    tilted = Sites(rates, 3, 2, schedule=Linear())
    reward = torch.randn(len(sites.p), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    tilted.p = (sites.p.log() + reward).softmax(0)
    for t in (0.9, 0.5, 0.01):
        log_h = (tilted.marginal(t) / sites.marginal(t)).log()
        near = sites.states[:, None, None].repeat(1, 2, 3, 1)
        for site, token in itertools.product(range(2), range(3)):
            near[:, site, token, site] = token
        found = process.guide(sites.clean(sites.states, t), sites.states, t, log_h[sites.index(near)])
        expected = tilted.clean(sites.states, t)
        torch.testing.assert_close(found.exp(), expected.exp(), rtol=0, atol=1e-10)


def test_guiding_by_a_wrong_h_leaves_no_token_out():
    process = Uniform(3)
    clean = matrix([0.9, 0.05, 0.05]).log().expand(4, 2, 3)
    log_h = 5 * torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(4, 2, dtype=torch.int64)
    assert float(process.left_out(process.ratios(clean, x, 0.7) * log_h.exp(), x, 0.7).min()) < 0
    guided = process.guide(clean, x, 0.7, log_h)
    assert bool(guided.isfinite().all())
    torch.testing.assert_close(guided.exp().sum(-1), torch.ones(4, 2).double())
    torch.testing.assert_close(process.guide(clean, x, 1.0, log_h), clean)  # nothing to be learnt there
    with pytest.raises(ValueError, match=r"processes\.Masked"):
        Ctmc(absorbing_rates(3), vocab=3).guide(clean, x, 0.7, log_h)


def test_a_wrong_number_of_times_is_refused():
    with pytest.raises(ValueError, match="Time has shape"):
        Uniform(3).corrupt(torch.zeros(3, 2, dtype=torch.int64), torch.tensor([0.1, 0.2]))


# --- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "word"),
    [
        (torch.zeros(2, 3), r"\[S, S\]"),
        (torch.zeros(1, 1), "at least two states"),
        ([[-1.0, 1.0], [0.5, 0.5]], "do not sum to 0"),
        ([[1.0, -1.0], [1.0, -1.0]], "negative"),
        ([[-1.0, float("nan")], [1.0, -1.0]], "not finite"),
        (torch.zeros(3, 3), "more than one stationary law"),
    ],
)
def test_bad_rate_matrices_are_refused(rates, word):
    with pytest.raises(ValueError, match=word):
        Ctmc(matrix(rates))


@pytest.mark.parametrize("vocab", [1, 4, True, 2.0])
def test_tokens_are_among_the_states(vocab):
    with pytest.raises(ValueError, match="vocab is"):
        Ctmc(uniform_rates(3), vocab=vocab)


@pytest.mark.parametrize("vocab", [1, 0, True, "4", None])
def test_uniform_needs_two_tokens(vocab):
    with pytest.raises(ValueError, match="vocab is"):
        Uniform(vocab)


@pytest.mark.parametrize(
    ("x", "word"),
    [(torch.zeros(1, 2), "float32"), ([[0]], "list"), (torch.tensor([[0, 3]]), "0 to 2"), (torch.tensor([[-1]]), "-1")],
)
def test_check_says_what_is_wrong(x, word):
    with pytest.raises(ValueError, match=word):
        Uniform(3).check(x, clean=False)
    masked = Ctmc(absorbing_rates(3), vocab=3)
    masked.check(torch.tensor([[3]]), clean=False)
    with pytest.raises(ValueError, match="0 to 2"):
        masked.check(torch.tensor([[3]]), clean=True)


def test_sites_cannot_be_fixed_where_all_change():
    diffusion = Diffusion(Uniform(3), lambda x, t: torch.zeros(*x.shape, 3), (2,))
    with pytest.raises(ValueError, match="masked process only, not in Uniform"):
        diffusion.infill(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="masked process only"):
        diffusion.restrict(torch.tensor([[True, False, False], [True, True, True]]))


def test_logits_have_the_shape_of_the_tokens():
    with pytest.raises(ValueError, match=r"expected logits \[2, 5, 3\]"):
        Uniform(3).parameterise(lambda x, t: torch.zeros(2, 5, 4))(torch.zeros(2, 5, dtype=torch.int64), 0.5)


def test_a_law_is_drawn_as_computed(generator):
    """Ancestral samples of a chain, end to end."""
    process = Uniform(3)
    sites = Sites(uniform_rates(3), 3, 2, seed=1, schedule=Linear())
    diffusion = Diffusion(
        process, lambda x, t: sites.clean(x, float(t[0].double())), (2,), grid=matrix([1.0, 0.5, 0.25, 0])
    )
    law = sites.law(diffusion, torch.full((9,), 1 / 9).double())
    one_step = sites.p.new_tensor(
        [float(sites.clean(x[None], 1.0)[0, torch.arange(2), x].sum().exp()) for x in sites.states]
    )
    faults = [contaminated(law, 0.05), one_step]
    x = diffusion.sample(sample_size(law, faults), generator=generator(0))
    assert accept_law(sites.index(x), law, faults)
