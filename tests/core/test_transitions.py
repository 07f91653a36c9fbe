from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiltflow.core.transitions import (
    CategoricalTransition,
    GaussianTransition,
    OneSiteTransition,
    UnmaskingTransition,
    categorical,
    kl_categorical,
    uniform,
)

from .acceptance import accept_law, contaminated, sample_size

INF = math.inf
K, L = 3, 2
LATTICE = torch.tensor(list(itertools.product(range(K + 1), repeat=L)))  # [16, 2]
EXTREMES = torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)  # of torch.rand in float64


def table(*shape, seed=0, dtype=torch.float64):
    """Random log-probabilities, normalised over the last dimension."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul(1.5).log_softmax(-1).to(dtype)


def unmasking(seed=0, dtype=torch.float64, stay=0.7):
    """A step from each of the 16 states of two sites; at unmasked sites the estimate holds the token."""
    clean = table(len(LATTICE), L, K, seed=seed, dtype=dtype)
    held = torch.nn.functional.one_hot(LATTICE.clamp(max=K - 1), K).to(dtype).log()
    clean = torch.where((LATTICE == K).unsqueeze(-1), clean, held)
    return UnmaskingTransition(LATTICE, clean, torch.tensor([[stay]], dtype=torch.float64))


def dense(transition):
    return CategoricalTransition(transition.log_probs)


def enumerated(transition, rows):
    """log p of every lattice state from each of `rows` states: `[rows, 16]`."""
    return torch.stack([transition.log_prob(target.expand(rows, L)) for target in LATTICE], 1)


# --- categorical draws ----------------------------------------------------------------------------------------------


def test_categorical_inverts_the_cumulative_law(midpoints):
    p = torch.tensor([0.17, 0.0, 0.5, 0.03, 0.3], dtype=torch.float64)
    drawn = categorical(p.log(), midpoints(100_000)).bincount(minlength=5)
    assert drawn.tolist() == [17_000, 0, 50_000, 3_000, 30_000]


def test_the_scale_of_the_logits_does_not_matter(midpoints, dtype):
    logits = table(7, dtype=dtype)
    u = midpoints(1000)
    for shift in (0.0, 700.0, -700.0):
        assert torch.equal(categorical(logits + shift, u), categorical(logits + shift - shift, u))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_mass_of_1e_12_has_its_share_of_the_uniforms(position):
    p = [0.3, 0.7 - 1e-12]
    p.insert(position, 1e-12)
    p = torch.tensor(p, dtype=torch.float64)
    start = p[:position].sum()
    inside = start + 1e-12 * torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    outside = start + 1e-12 * torch.tensor([-0.01, 1.01], dtype=torch.float64)
    assert (categorical(p.log(), inside) == position).all()
    outside = outside[(outside >= 0) & (outside < 1)]
    assert (categorical(p.log(), outside) != position).all()


def test_small_masses_of_a_large_vocabulary(midpoints):
    """K = 20 000, ten tokens of 1e-3: float32 Gumbel noise draws about half of them."""
    p = torch.full((20_000,), 0.99 / 19_990, dtype=torch.float64)
    p[1999::2000] = 1e-3
    drawn = torch.cat([categorical(p.log().float(), u) for u in midpoints(10_000).split(500)])
    counts = drawn.bincount(minlength=20_000)
    assert (counts[1999::2000] - 10).abs().max() <= 1
    assert int(counts[1999::2000].sum()) == pytest.approx(100, abs=1)


def test_a_state_of_mass_zero_is_never_drawn():
    for dead in itertools.product([True, False], repeat=4):
        if all(dead):
            continue
        for scale in (0.0, 3.7, -800.0):
            logits = torch.where(torch.tensor(dead), -INF, table(4) + scale)
            drawn = categorical(logits, EXTREMES)
            assert not torch.tensor(dead)[drawn].any(), (dead, drawn)


@pytest.mark.parametrize("logits", [[math.nan, 0.0], [-INF, -INF], [INF, 0.0]])
def test_a_law_without_mass_is_refused(logits):
    with pytest.raises(ValueError, match="NaN, or no mass"):
        categorical(torch.tensor(logits), EXTREMES)


def test_uniforms_are_float64_whatever_they_are_like(generator):
    u = uniform((1000,), torch.zeros(1, dtype=torch.float32), generator(0))
    assert u.dtype == torch.float64
    assert (u * 2**24 % 1 != 0).any()  # more than the 24 bits of float32


# --- categorical transitions ----------------------------------------------------------------------------------------


def frequencies(step, n, chosen_uniforms, midpoints, points=400):
    """How often each site takes each state, over a comb of uniforms: from one draw each (n None), or all draws at once."""
    if n is None:
        drawn = torch.stack([(chosen_uniforms(u), step.sample())[1] for u in midpoints(points)])
    else:
        chosen_uniforms(midpoints(points).reshape(-1, 1, 1))
        drawn = step.sample(points)
    return torch.nn.functional.one_hot(drawn, step.log_probs.shape[-1]).double().mean(0)


@pytest.mark.parametrize("n", [None, "all"])
def test_categorical_sample_has_the_law(n, chosen_uniforms, midpoints):
    step = CategoricalTransition(table(2, 3, 5))
    assert float((frequencies(step, n, chosen_uniforms, midpoints) - step.log_probs.exp()).abs().max()) < 2 / 400


def test_log_prob_sums_to_one(dtype):
    steps = [
        dense(unmasking(dtype=dtype)),
        unmasking(dtype=dtype),
        CategoricalTransition(table(4, L, K + 1, dtype=dtype)),
    ]
    for step in steps:
        total = enumerated(step, len(step.log_probs)).double().exp().sum(1)
        torch.testing.assert_close(
            total, torch.ones_like(total), rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6
        )


def test_log_prob_takes_leading_draws():
    step = CategoricalTransition(table(4, 3, 5))
    x = torch.randint(5, (6, 4, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(step.log_prob(x), torch.stack([step.log_prob(draw) for draw in x]))


def test_kl_is_that_of_the_enumerated_laws():
    for p, q in [(unmasking(0), unmasking(1)), (dense(unmasking(0)), dense(unmasking(1, stay=0.4)))]:
        log_p, log_q = enumerated(p, 16), enumerated(q, 16)
        exact = torch.where(log_p == -INF, 0.0, log_p.exp() * (log_p - log_q)).sum(1)
        torch.testing.assert_close(p.kl(q), exact, rtol=0, atol=1e-10)
        assert float(p.kl(q).max()) > 0.01  # on masked sites: the published DRAKES term is zero here
        assert float(p.kl(p).abs().max()) == 0


def test_kl_is_infinite_where_mass_is_missed():
    p = torch.tensor([[[0.5, 0.5, 0.0]]]).double().log()
    q = torch.tensor([[[1.0, 0.0, 0.0]]]).double().log()
    assert kl_categorical(p, q).item() == INF
    assert CategoricalTransition(q).kl(CategoricalTransition(p)).item() == pytest.approx(math.log(2))


def test_kl_has_finite_gradients_at_impossible_tokens():
    p = table(16, L, K).requires_grad_()
    step, other = unmasking(0), unmasking(1)
    moved = UnmaskingTransition(step.x, torch.where(step.clean > -INF, p, -INF), step.stay)
    moved.kl(other).sum().backward()
    assert bool(p.grad.isfinite().all())
    assert float(p.grad.abs().sum()) > 0


def test_tilt_is_the_enumerated_reweighting():
    log_h = table(16, L, K + 1, seed=5)
    step = unmasking(3)
    log_p = enumerated(step, 16)
    weight = torch.stack([log_h.gather(-1, x.expand(16, L).unsqueeze(-1)).squeeze(-1).sum(1) for x in LATTICE], 1)
    exact = (log_p + weight).log_softmax(1).exp()
    torch.testing.assert_close(enumerated(step.tilt(log_h), 16).exp(), exact, rtol=0, atol=1e-12)


# --- the two forms of an unmasking step -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [None, "all"])
@pytest.mark.parametrize("stay", [0.0, 0.7, 1.0])
def test_unmasking_draws_follow_the_dense_law(n, stay, chosen_uniforms, midpoints):
    """Each site against its own marginal, integrated over u; that sites use uniforms of their own: next test."""
    step = unmasking(2, stay=stay)
    assert float((frequencies(step, n, chosen_uniforms, midpoints) - step.log_probs.exp()).abs().max()) < 2 / 400


def test_unmasking_draws_are_independent_over_sites_and_draws(generator):
    step = unmasking(2)
    blank = UnmaskingTransition(step.x[-1:], step.clean[-1:], step.stay)
    law = enumerated(blank, 1)[0].exp()
    marginal = blank.log_probs[0].exp()
    shared = torch.zeros(K + 1, K + 1, dtype=torch.float64)  # the law of a fault: one uniform for both sites
    cuts = torch.cat([torch.zeros(1), marginal.cumsum(1).flatten()]).unique().double()
    for low, high in itertools.pairwise(cuts):
        both = categorical(marginal.log(), (low + high) / 2)
        shared[both[0], both[1]] += high - low
    faults = [shared.flatten(), contaminated(law)]
    size = sample_size(law, faults)
    index = LATTICE.new_tensor([K + 1, 1])
    first = (blank.sample(size, generator=generator(3))[:, 0] * index).sum(-1)
    assert accept_law(first, law, faults)
    pairs = blank.sample(2 * size, generator=generator(4))[:, 0, 0].reshape(2, size)
    law2 = marginal[0].outer(marginal[0]).flatten()
    same = marginal[0].diag().flatten()
    assert accept_law(pairs[0] * (K + 1) + pairs[1], law2, [contaminated(law2, 0.02), same])


def test_unmasking_never_draws_an_impossible_token(chosen_uniforms):
    """Not even where (u - stay) / (1 - stay) rounds to 1."""
    clean = torch.tensor([[[0.0, -INF]]], dtype=torch.float64)
    for k in range(200):
        stay = torch.tensor([[0.25 + k * 2.0**-54]], dtype=torch.float64)
        for u in EXTREMES:
            chosen_uniforms(u)
            drawn = UnmaskingTransition(torch.tensor([[2]]), clean, stay).sample().item()
            assert drawn == (2 if u < stay else 0), (k, u)


def test_dense_log_probs_keep_rare_moves_in_float32():
    """1 - stay = 1e-6 is lost to 6 % if it is taken in float32."""
    exact, single = (unmasking(0, dtype, stay=1 - 1e-6).log_probs for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(single.double().exp()[-1], exact.exp()[-1], rtol=1e-5, atol=0)


def test_unmasking_leaves_its_inputs_alone(generator):
    step = unmasking(0)
    x, clean = step.x.clone(), step.clean.clone()
    for n in (None, 4):
        step.sample(n, generator=generator(0))
        step.log_probs.exp_()
    assert torch.equal(step.x, x)
    assert torch.equal(step.clean, clean)


# --- one site a step ------------------------------------------------------------------------------------------------


def test_one_site_log_prob_sums_to_one_and_moves_one_site():
    base = unmasking(4)
    step = OneSiteTransition(base.x, base.clean)
    mass = enumerated(step, 16).exp()
    torch.testing.assert_close(mass.sum(1), torch.ones(16).double(), rtol=0, atol=1e-12)
    moved = (LATTICE.unsqueeze(0) != LATTICE.unsqueeze(1)).sum(-1)
    masks = (LATTICE == K).sum(-1, keepdim=True)
    assert bool((mass[(moved != masks.clamp(max=1))] == 0).all())
    # from all masks: half the token law of each site
    assert mass[-1][LATTICE.tolist().index([1, K])].item() == pytest.approx(float(base.clean[-1, 0, 1].exp()) / 2)


def test_one_site_draws_have_the_law(chosen_uniforms, midpoints, generator):
    base = unmasking(4)
    step = OneSiteTransition(base.x, base.clean)
    u = torch.cartesian_prod(midpoints(40), midpoints(200))  # site, token
    chosen_uniforms(u.T.unsqueeze(-1))
    drawn = step.sample(len(u)) @ torch.tensor([K + 1, 1])
    found = torch.stack([column.bincount(minlength=16) for column in drawn.T]).double() / len(u)
    torch.testing.assert_close(found, enumerated(step, 16).exp(), rtol=0, atol=1 / 200)


def test_one_draw_of_one_site_is_the_first_of_many(generator):
    base = unmasking(4)
    step = OneSiteTransition(base.x, base.clean)
    assert torch.equal(step.sample(generator=generator(5)), step.sample(1, generator=generator(5))[0])


def test_one_site_kl_is_that_of_the_enumerated_laws():
    p, q = (OneSiteTransition(LATTICE, unmasking(seed).clean) for seed in (0, 1))
    log_p, log_q = enumerated(p, 16), enumerated(q, 16)
    exact = torch.where(log_p == -INF, 0.0, log_p.exp() * (log_p - log_q)).sum(1)
    torch.testing.assert_close(p.kl(q), exact, rtol=0, atol=1e-10)


def test_one_site_refuses_what_it_has_not():
    step = OneSiteTransition(LATTICE, unmasking(0).clean)
    with pytest.raises(NotImplementedError, match="ancestral"):
        step.rsample()
    with pytest.raises(NotImplementedError, match="ancestral"):
        step.tilt(torch.zeros(1))


# --- relaxed draws --------------------------------------------------------------------------------------------------


def test_straight_through_is_one_hot_with_the_gradient_of_the_soft_draw(dtype, generator):
    weight = torch.randn(50, 7, 5, dtype=dtype, generator=generator(9))
    found = {}
    for hard in (False, True):
        logits = table(50, 7, 5, dtype=dtype).requires_grad_()
        draw = CategoricalTransition(logits).rsample(0.5, generator=generator(1), straight_through=hard)
        (weight * draw).sum().backward()
        found[hard] = draw.detach(), logits.grad
    soft, one_hot = found[False][0], found[True][0]
    assert bool(((one_hot == 0) | (one_hot == 1)).all())  # to the last bit
    assert bool((one_hot.sum(-1) == 1).all())
    assert torch.equal(one_hot.argmax(-1), soft.argmax(-1))
    torch.testing.assert_close(soft.sum(-1), torch.ones(50, 7, dtype=dtype))
    assert bool((soft >= 0).all())
    torch.testing.assert_close(found[False][1], found[True][1])


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_relaxed_draws_have_the_law_at_their_largest_site(temperature, generator):
    law = torch.tensor([0.6, 0.0, 0.3, 0.09, 0.01], dtype=torch.float64)
    faults = [contaminated(law, 0.02), (law**1.1) / (law**1.1).sum()]
    size = sample_size(law, faults)
    draw = CategoricalTransition(law.float().log().expand(size, 1, 5)).rsample(temperature, generator=generator(0))
    assert accept_law(draw.argmax(-1).flatten(), law, faults)


def test_the_temperature_of_a_relaxed_draw(generator):
    step = CategoricalTransition(table(400, 5, 4))
    sharp, flat = (step.rsample(tau, generator=generator(0)) for tau in (0.05, 20.0))
    assert float(sharp.amax(-1).mean()) > 0.95
    assert float((flat - 0.25).abs().max()) < 0.4
    for tau in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            step.rsample(tau)


@pytest.mark.parametrize("hard", [False, True])
def test_gradients_are_finite_at_impossible_tokens(hard, dtype, generator):
    logits = table(6, 2, 4, dtype=dtype).requires_grad_()
    masked = logits.masked_fill(torch.tensor([False, True, False, True]), -INF).log_softmax(-1)
    draw = CategoricalTransition(masked).rsample(0.7, generator=generator(0), straight_through=hard)
    (draw * torch.tensor([3.0, 0, 1, 0])).sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad.abs().max()) > 1e-4
    assert not draw.detach()[..., [1, 3]].any()


def test_the_extremes_of_the_uniforms_give_finite_noise(chosen_uniforms, dtype):
    for u in EXTREMES:
        chosen_uniforms(u)
        assert bool(CategoricalTransition(table(2, 2, 3, dtype=dtype)).rsample(0.1).isfinite().all())


# --- Gaussian -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["per sample", "per coordinate"])
def gaussians(request, dtype):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64).to(dtype)
    std = torch.rand(2, 4, generator=generator, dtype=torch.float64).to(dtype) + 0.3
    if request.param == "per coordinate":
        std = std.reshape(2, 4, 1, 1) * torch.tensor([1.0, 0.5], dtype=dtype)
    return [GaussianTransition(*pair) for pair in zip(mean, std, strict=True)]


def reference(step):
    std = step.std.reshape(4, 1, 1) if step.std.ndim == 1 else step.std
    return torch.distributions.Independent(torch.distributions.Normal(step.mean, std.expand(4, 3, 2)), 2)


def test_gaussian_density_and_divergence(gaussians):
    p, q = gaussians
    x = torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(1)).to(p.mean)
    torch.testing.assert_close(p.log_prob(x), reference(p).log_prob(x))
    torch.testing.assert_close(p.log_prob(x[0]), reference(p).log_prob(x[0]))
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(reference(p), reference(q)))
    assert float(p.kl(p).abs().max()) < 1e-6


def test_gaussian_draws(gaussians, generator):
    p, _ = gaussians
    x = p.sample(20_000, generator=generator(2))
    error = reference(p).variance.sqrt() / math.sqrt(20_000)
    assert float(((x.mean(0) - p.mean) / error).abs().max()) < 4.8  # 24 means, alarm below 1e-4
    assert float((x.var(0) / reference(p).variance - 1).abs().max()) < 5 * math.sqrt(2 / 20_000)
    assert x.dtype == p.mean.dtype


def test_gaussian_draws_of_one_seed_differ_only_by_mean_and_scale(generator):
    mean = torch.zeros(3, 2, requires_grad=True)
    scale = torch.ones(3, requires_grad=True)
    draw = GaussianTransition(mean, scale).rsample(generator=generator(0))
    cold = GaussianTransition(mean, scale).rsample(0.5, generator=generator(0))
    torch.testing.assert_close(cold, draw / 2)
    draw.sum().backward()
    assert torch.equal(mean.grad, torch.ones(3, 2))
    torch.testing.assert_close(scale.grad, draw.detach().sum(1))
    assert not GaussianTransition(mean, scale).sample(generator=generator(0)).requires_grad


def test_gaussian_tilt_by_a_linear_log_h(gaussians):
    """N(m, s^2) exp(c x) / Z = N(m + s^2 c, s^2): compared as densities, up to the constant Z."""
    p, _ = gaussians
    c = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(3)).to(p.mean)
    x = torch.randn(6, 4, 3, 2, generator=torch.Generator().manual_seed(4)).to(p.mean)
    gap = p.tilt(c).log_prob(x) - p.log_prob(x) - (c * x).flatten(2).sum(-1)
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=1e-4, atol=1e-4)
