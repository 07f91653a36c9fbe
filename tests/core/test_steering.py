"""Steering: unbiased weights, metamorphic relations, cost, the stepwise driver, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiltflow.core import (
    SMC,
    SVDD,
    BestOfN,
    Completions,
    Denoiser,
    Diffusion,
    Doob,
    ImportanceResampling,
    Meter,
    PosteriorMean,
    Progress,
    RewardError,
    Rollout,
    StopWhen,
    Subs,
    Tilt,
    Trace,
    steps,
)
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral
from tiltflow.core.worlds import MaskedWorld

from .acceptance import accept_law, accept_means, contaminated, enough_draws, sample_size

INF = math.inf
WORLD = MaskedWorld(4, 3, seed=3, alpha=0.5)
SMALL = MaskedWorld(3, 3, seed=3, alpha=0.5)
MILD = MaskedWorld(4, 3, seed=3, alpha=1.0)  # weights of moderate variance


# --- E[Z_hat W(f)] = Z E*[f] ----------------------------------------------------------------------------------------


def observables(x, world):
    """1, and whether site i holds token k: float64 `[n, 1 + L K]`."""
    one_hot = torch.nn.functional.one_hot(x, world.vocab).flatten(1).double()
    return torch.cat([torch.ones(len(x), 1).double(), one_hot], 1)


def unbiased(method, tilt, world, seed, observe=(), rewards=None, hotter=1.1, off=0.1):
    """z-tests of E[exp(log_weight) f(x)] / Z = E*[f] for the observables; returns some of the samples.

    There are enough of them to notice: an alpha `hotter` by so much; unguided samples that weigh Z; Z_hat `off` by so much.
    """
    rewards = world.rewards if rewards is None else rewards

    def moments(alpha):
        return (world.p * (rewards / alpha).exp()) @ observables(world.sequences, world)

    z = moments(tilt.alpha)[0]
    truth = moments(tilt.alpha) / z
    unguided = world.p @ observables(world.sequences, world)
    shifts = torch.stack([moments(hotter * tilt.alpha) / z - truth, unguided - truth, off * truth])
    generator, drawn = torch.Generator().manual_seed(seed), []

    def draw(n):
        drawn.append(method.sample(tilt, n, generator=generator, observe=observe))
        weight = (drawn[-1].log_weight - z.log()).exp()
        return weight.unsqueeze(1) * observables(drawn[-1].x, world)

    verdict = accept_means(enough_draws(draw, shifts), truth, shifts)
    assert verdict, verdict
    return drawn[-1]


# A covering array: every pair of settings of the potential, value, threshold, scheme and interval occurs.
SMC_CASES = [
    (SMC(4), "exact"),
    (SMC(16, threshold=1.0, resampling="multinomial"), "plug-in"),
    (SMC(4, "max", threshold=1.0, tempering=1.0, resampling="stratified"), "plug-in"),
    (SMC(16, "max", interval=2, resampling="residual"), "exact"),
    (SMC(4, "sum", interval=2, threshold=1.0, tempering=2.0), "plug-in"),
    (SMC(16, "sum", tempering=1.0, resampling="stratified"), "exact"),
    (SMC(4, interval=2, threshold=1.0, tempering=1.0, resampling="residual"), "random"),
    (SMC(16, "max", threshold=0.0), "random"),
    (SMC(4, threshold=0.0, resampling="multinomial"), "plug-in"),
    (SMC(16, threshold=1.0, tempering=0.5, resampling="residual"), "exact"),
    (SMC(4, "sum", interval=2, resampling="multinomial"), "random"),
    (SMC(16, "max", interval=3, threshold=1.0, resampling="stratified"), "exact"),
    (SMC(4, threshold=1.0), "plug-in"),
    (SMC(1, "sum"), "plug-in"),
    *[
        (SMC(n, threshold=threshold), value)
        for n in (4, 16, 64)
        for threshold in (0.5, 1.0)
        for value in ("exact", "plug-in")
    ],
    (SMC(4, proposal=Doob()), "plug-in"),
    (SMC(8, "max", interval=2, threshold=1.0, proposal=Doob()), "random"),
    (SMC(8, "sum", tempering=1.0, resampling="residual", proposal=Doob(strength=0.5)), "plug-in"),
]
VALUES = {"exact": None, "plug-in": PosteriorMean(), "random": Completions(2)}


@pytest.mark.parametrize(("method", "value"), SMC_CASES, ids=str)
def test_smc_weights_are_unbiased(method, value):
    unbiased(method, MILD.tilt(value=VALUES[value]), MILD, seed=1)


@pytest.mark.parametrize("candidates", [1, 2, 8])
@pytest.mark.parametrize("value", VALUES)
def test_svdd_weights_are_unbiased(candidates, value):
    unbiased(SVDD(candidates), MILD.tilt(value=VALUES[value]), MILD, seed=2)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("method", [Doob(), Doob(strength=0.5), Doob(strength=1.2)], ids=str)
def test_doob_weights_are_unbiased(method, value):
    unbiased(method, MILD.tilt(value=VALUES[value]), MILD, seed=9)


def test_importance_resampling_weights_are_unbiased():
    unbiased(ImportanceResampling(4), MILD.tilt(), MILD, seed=3)


@pytest.mark.parametrize(
    "method",
    [SVDD(4), SMC(8, threshold=1.0), SMC(4, "max", resampling="residual"), Doob(), SMC(4, proposal=Doob())],
    ids=str,
)
@pytest.mark.parametrize("base", ["parallel", "restricted"])
def test_weights_are_those_of_the_samplers_own_law(method, base):
    """Ancestral sampling in two steps, and tokens that are not allowed: p_T, not p, is what is tilted."""
    if base == "parallel":
        tilt = MILD.tilt(steps=2, sampler=Ancestral(), value=PosteriorMean())
    else:
        allowed = torch.tensor([[True, True, False], [True] * 3, [False, True, False], [True] * 3])
        tilt = MILD.tilt(value=PosteriorMean())
        tilt = replace(tilt, diffusion=tilt.diffusion.restrict(allowed))
    own = replace(MILD)
    own.__dict__["p"] = MILD.base_law(tilt.diffusion)
    unbiased(method, tilt, own, seed=4)


@pytest.mark.parametrize(
    "method",
    [SVDD(4), SMC(8), SMC(4, "max", threshold=1.0), SMC(4, "sum", tempering=1.0), ImportanceResampling(4)],
    ids=str,
)
@pytest.mark.parametrize("value", ["plug-in", "random"])
def test_hard_constraints_keep_the_weights_unbiased(method, value):
    """A reward of -inf on most sequences: intermediate values of -inf must not kill a path that could still end well."""
    world = MaskedWorld(3, 3, seed=3, alpha=1.0)
    allowed = (world.sequences[:, 0] != world.sequences[:, 1]) & (world.rewards < 1)
    rewards = torch.where(allowed, world.rewards, -INF)
    tilt = replace(world.tilt(value=VALUES[value]), reward_function=lambda x: rewards[world.outcome(x)])
    samples = unbiased(method, tilt, world, seed=5, rewards=rewards, hotter=1.3, off=0.15)
    dead = samples.log_weight == -INF
    assert bool((samples.reward[~dead] > -INF).all())


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("method", [SVDD(4), SMC(8), SMC(4, "max", interval=2), ImportanceResampling(3)], ids=str)
def test_an_early_stop_keeps_the_weights_unbiased(method, stop):
    tilt = MILD.tilt(
        value=None if isinstance(method, SVDD) else PosteriorMean()
    )  # without and with an estimate at hand
    observe = [StopWhen(lambda state: state.index >= stop)]
    samples = unbiased(method, tilt, MILD, seed=6, observe=observe)
    assert samples.stopped == stop


def test_with_exact_h_and_many_candidates_the_weights_agree(generator):
    """Near Doob's transform every weight tends to Z: the variance falls with M."""
    spread = [
        float(SVDD(m).sample(SMALL.tilt(), 500, generator=generator(0)).log_weight.sub(SMALL.log_z).std())
        for m in (4, 64, 1024)
    ]
    assert spread[0] > 3 * spread[1] > 9 * spread[2]
    assert SVDD(1024).sample(SMALL.tilt(), 500, generator=generator(1)).log_z == pytest.approx(SMALL.log_z, abs=0.02)


# --- metamorphic ----------------------------------------------------------------------------------------------------

METHODS = [
    SVDD(4),
    SVDD(3, selection="argmax"),
    SMC(4),
    SMC(4, "max", threshold=1.0, resampling="residual"),
    SMC(4, "sum", interval=2, tempering=1.0, resampling="stratified"),
    SMC(5, threshold=1.0, resampling="multinomial"),
    ImportanceResampling(4),
    BestOfN(4),
]


@pytest.mark.parametrize(
    "method",
    [SVDD(1, selection="argmax"), SMC(1), SMC(1, "sum", threshold=1.0), ImportanceResampling(1), BestOfN(1)],
    ids=str,
)
@pytest.mark.parametrize("sampler", [None, Ancestral()], ids=["one site", "ancestral"])
def test_a_single_particle_is_the_unguided_sampler(method, sampler, generator):
    """Token for token: nothing draws from the generator but the sampler's own steps."""
    tilt = WORLD.tilt(steps=5, sampler=sampler, value=PosteriorMean())
    samples = method.sample(tilt, 200, generator=generator(2))
    assert torch.equal(samples.x, tilt.diffusion.sample(200, generator=generator(2)))
    if not isinstance(method, (BestOfN, SVDD)):
        torch.testing.assert_close(samples.log_weight, samples.reward / tilt.alpha)


def test_one_candidate_of_svdd_weighs_as_importance_sampling(generator):
    samples = SVDD(1).sample(WORLD.tilt(), 200, generator=generator(2))
    torch.testing.assert_close(samples.log_weight, samples.reward / WORLD.alpha, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "method", [SMC(4, threshold=1.0), SMC(4, "max"), SMC(4, "sum"), ImportanceResampling(4)], ids=str
)
def test_a_constant_reward_moves_no_particle(method, generator):
    """Equal weights are not resampled: all N particles of every group are the unguided ones."""
    tilt = Tilt(WORLD.diffusion, lambda x: torch.full((len(x),), 0.7), 0.5, value=PosteriorMean())
    *_, state = steps(method, tilt, 50, generator=generator(3))
    assert torch.equal(state.x, WORLD.diffusion.sample(200, generator=generator(3)))
    samples = method.sample(tilt, 50, generator=generator(3))
    torch.testing.assert_close(samples.log_weight, torch.full((50,), 0.7 / 0.5).double(), rtol=0, atol=1e-6)


def test_a_constant_reward_leaves_the_law_of_svdd():
    tilt = Tilt(SMALL.diffusion, lambda x: [0.7] * len(x), 0.5, value=Completions(1))
    faults = [contaminated(SMALL.p, 0.05), SMALL.tilted]
    samples = SVDD(4).sample(tilt, sample_size(SMALL.p, faults), generator=torch.Generator().manual_seed(0))
    assert accept_law(SMALL.outcome(samples.x), SMALL.p, faults)
    torch.testing.assert_close(samples.log_weight, torch.full((len(samples),), 1.4).double())


def test_a_tiny_alpha_neither_overflows_nor_divides_by_zero(generator):
    """exp(r / alpha) would be exp(1e6)."""
    for method in METHODS:
        samples = method.sample(replace(WORLD.tilt(value=PosteriorMean()), alpha=1e-6), 20, generator=generator(0))
        assert bool(samples.log_weight.isfinite().all()), method
        assert float(samples.reward.mean()) > float(WORLD.p @ WORLD.rewards) + 0.3, method


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_single_precision_networks_give_the_same_tokens(method, generator):
    """The exact denoiser rounded to float32: weights stay float64 and the draws are those of float64 but for rounding."""
    single = Denoiser(lambda x, t: WORLD.posterior[WORLD.index(x)].float(), Subs(3), time_invariant=True)
    tilt = WORLD.tilt(value=PosteriorMean())
    rounded = replace(tilt, diffusion=replace(tilt.diffusion, denoiser=single))
    one, two = (method.sample(t, 100, generator=generator(0)) for t in (tilt, rounded))
    assert two.log_weight.dtype == two.reward.dtype == torch.float64
    assert float((one.x == two.x).all(1).double().mean()) > 0.98


# --- cost -----------------------------------------------------------------------------------------------------------


def ordinary(time_invariant=False, count=12):
    """20 sites over 4 tokens in 12 ancestral steps, with a network that is asked every time unless told otherwise."""
    mix = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(lambda x, t: mix[x].cumsum(1) / 3, Subs(4), time_invariant=time_invariant)
    return Diffusion(Masked(4), denoiser, (20,), steps=count)


def share(x):
    return (x == 2).double().mean(1)


@pytest.mark.parametrize("value", [PosteriorMean(), Completions(1)], ids=str)
@pytest.mark.parametrize("time_invariant", [True, False])
def test_cost_of_a_step_of_svdd(value, time_invariant, generator):
    """At most B (1 + M) forward rows and B M reward calls; nothing is hidden from the meter."""
    batch, candidates = 6, 5
    tilt = Tilt(ordinary(time_invariant), share, 0.1, value=value)
    calls, rows = [0], [0]
    with Meter() as meter:
        for state in steps(SVDD(candidates), tilt, batch, generator=generator(0)):
            rows.append(state.cost.forward_rows)
            calls.append(state.cost.reward_calls)
            assert rows[-1] - rows[-2] <= batch * (1 + candidates)
            assert calls[-1] - calls[-2] <= batch * candidates
    assert meter.cost.forward_rows == rows[-1] == state.cost.forward_rows
    assert rows[-1] <= 1 + 11 * batch * candidates  # one row at the start, none at the end
    if time_invariant:
        assert rows[-1] < 0.95 * 11 * batch * candidates
    assert calls[-1] > 10 * batch


def test_cost_of_smc_and_of_n_draws(generator):
    tilt = Tilt(ordinary(), share, 0.1, value=PosteriorMean())
    looks = SMC(4, interval=3).sample(tilt, 5, generator=generator(0)).cost
    assert looks.forward_rows <= 1 + 11 * 20
    assert looks.reward_calls <= 3 * 20 + 20
    for method in (BestOfN(4), ImportanceResampling(4)):
        cost = method.sample(tilt, 5, generator=generator(0)).cost
        assert cost.reward_calls <= 20
        assert cost.forward_rows <= 1 + 11 * 20
        assert cost.backward_rows == cost.reward_failures == 0
        assert cost.seconds > 0


def test_equal_samples_are_rewarded_once(generator):
    seen = []

    def reward(x):
        seen.append(x.clone())
        return SMALL.reward(x)

    cost = BestOfN(50).sample(replace(SMALL.tilt(), reward_function=reward), 20, generator=generator(0)).cost
    asked = torch.cat(seen)
    assert len(asked) == cost.reward_calls <= 27
    assert len(asked.unique(dim=0)) == len(asked)


def test_a_reward_cannot_change_the_samples(generator):
    def vandal(x):
        r = SMALL.reward(x)
        x.zero_()
        return r

    for method in (SVDD(3), SMC(3), BestOfN(3)):
        tilt = SMALL.tilt(value=Completions(1))
        honest = method.sample(tilt, 30, generator=generator(0))
        assert torch.equal(method.sample(replace(tilt, reward_function=vandal), 30, generator=generator(0)).x, honest.x)


# --- rewards that break their contract ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "word"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: "high", "str"),
        (lambda x: {"reward": 1.0}, "dict"),
        (lambda x: object(), "object"),
        (lambda x: 0.5, r"shape \(\)"),
        (lambda x: torch.tensor(0.5), r"shape \(\)"),
        (lambda x: torch.zeros(len(x), 1), "squeeze"),
        (lambda x: torch.zeros(len(x), 2), "one per sample"),
        (lambda x: torch.zeros(len(x) + 1), "one per sample"),
        (lambda x: [0.0] * (len(x) - 1), "one per sample"),
        (lambda x: torch.zeros(0), "one per sample"),
        (lambda x: torch.zeros(len(x), dtype=torch.bool), "bool"),
        (lambda x: torch.zeros(len(x), dtype=torch.complex64), "complex"),
        (lambda x: np.array(["a"] * len(x)), "ndarray"),
        (lambda x: torch.full((len(x),), INF), r"\+inf"),
        (lambda x: torch.full((len(x),), math.nan), "NaN for"),
    ],
)
def test_a_reward_that_is_not_one_number_a_sample(returned, word, generator):
    tilt = Tilt(SMALL.diffusion, returned, 0.5)
    for call in (lambda: tilt.reward(SMALL.sequences), lambda: SVDD(3).sample(tilt, 4, generator=generator(0))):
        with pytest.raises(RewardError, match=word):
            call()


@pytest.mark.parametrize(
    "returned",
    [
        lambda r: r.tolist(),
        lambda r: tuple(r.tolist()),
        lambda r: r.numpy(),
        lambda r: r.float().numpy().astype(np.float32),
        lambda r: r.half(),
        list,
        lambda r: torch.nn.Parameter(r) * 1,
        lambda r: (r * 10).round().int(),
        lambda r: torch.full_like(r, -INF),
    ],
)
def test_numbers_in_any_clothes(returned):
    rewards = Tilt(SMALL.diffusion, lambda x: returned(SMALL.reward(x)), 0.5).reward(SMALL.sequences).detach()
    assert rewards.dtype == torch.float64
    with torch.no_grad():
        expected = [float(v) for v in returned(SMALL.rewards)]
    assert rewards.tolist() == pytest.approx(expected)


def test_an_error_inside_a_reward_comes_through(generator):
    def broken(x):
        raise ZeroDivisionError("in the reward")

    with pytest.raises(ZeroDivisionError, match="in the reward"):
        SMC(4).sample(Tilt(SMALL.diffusion, broken, 0.5), 2, generator=generator(0))


def half_nan(x):
    r = SMALL.reward(x)
    return torch.where(SMALL.outcome(x) % 2 == 0, torch.nan, r)


@pytest.mark.parametrize(
    "method", [SVDD(4), SVDD(4, selection="argmax"), SMC(4), ImportanceResampling(4), BestOfN(4)], ids=str
)
def test_nan_raises_or_is_excluded_and_counted(method, generator):
    """argmax picks NaN, and systematic resampling copies particle 0 for ever: neither may ever see one."""
    raising = Tilt(SMALL.diffusion, half_nan, 0.5, value=Completions(1))
    with pytest.raises(RewardError, match="failures='exclude'"):
        method.sample(raising, 50, generator=generator(0))
    excluding = replace(raising, failures="exclude")
    samples = method.sample(excluding, 400, generator=generator(0))
    assert samples.cost.reward_failures > 0
    failed = SMALL.outcome(samples.x) % 2 == 0
    assert not bool(samples.reward.isnan().any())
    assert not bool(samples.log_weight.isnan().any())
    assert torch.equal(failed, samples.reward == -INF)
    alone = float(SMALL.p[::2].sum()) ** 4  # four failures in a row have no alternative
    assert float(failed.double().mean()) < alone + 0.1


@pytest.mark.parametrize("method", [SVDD(4), SMC(4, threshold=1.0), ImportanceResampling(4), BestOfN(4)], ids=str)
def test_when_every_reward_fails_there_are_samples_without_weight(method, generator):
    tilt = Tilt(SMALL.diffusion, lambda x: [math.nan] * len(x), 0.5, failures="exclude", value=Completions(2))
    samples = method.sample(tilt, 30, generator=generator(0))
    assert samples.reward.tolist() == [-INF] * 30
    assert bool((samples.x < 3).all())
    if not isinstance(method, BestOfN):
        assert samples.log_weight.tolist() == [-INF] * 30
        assert samples.log_z == -INF


# --- hyper-parameters that are refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, INF, True, "0.5", None])
def test_alpha_is_a_positive_number(alpha):
    with pytest.raises((ValueError, TypeError)):
        Tilt(SMALL.diffusion, SMALL.reward, alpha)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: SVDD(0), "candidates is 0"),
        (lambda: SVDD(-1), "candidates is -1"),
        (lambda: SVDD(2.0), "candidates is 2.0"),
        (lambda: SVDD(True), "candidates is True"),
        (lambda: SVDD(4, selection="best"), "'argmax', 'softmax'"),
        (lambda: BestOfN(0), "candidates is 0"),
        (lambda: ImportanceResampling("4"), "candidates is '4'"),
        (lambda: SMC(0), "particles is 0"),
        (lambda: SMC(4, "product"), "'difference', 'max' or 'sum'"),
        (lambda: SMC(4, interval=0), "interval is 0"),
        (lambda: SMC(4, threshold=1.5), "threshold is 1.5"),
        (lambda: SMC(4, threshold=math.nan), "threshold is nan"),
        (lambda: SMC(4, resampling="killing"), "systematic"),
        (lambda: SMC(4, tempering=-1.0), "tempering is -1"),
        (lambda: SMC(4, tempering=math.nan), "tempering is nan"),
        (lambda: Tilt(SMALL.diffusion, SMALL.reward, 0.5, failures="ignore"), "'raise' or 'exclude'"),
    ],
)
def test_hyper_parameters_are_checked(build, word):
    with pytest.raises(ValueError, match=word):
        build()


@pytest.mark.parametrize("n", [0, -2, 1.0, True, None])
def test_numbers_of_samples_are_checked(n):
    for method in (SVDD(2), SMC(2), BestOfN(2)):
        with pytest.raises(ValueError, match="n is"):
            method.sample(SMALL.tilt(), n)


def test_a_tilt_is_checked():
    with pytest.raises(TypeError, match="expected a Diffusion"):
        Tilt(lambda x, t: x, SMALL.reward, 0.5)
    with pytest.raises(TypeError, match="expected a callable"):
        Tilt(SMALL.diffusion, torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="differentiable"):
        SMALL.tilt().require("differentiable", "backprop")


# --- the driver and its observers -----------------------------------------------------------------------------------


def test_a_user_can_step_and_interleave(generator):
    """The generator is a screenful: the caller owns logging and early stop."""
    method, tilt, seen = SVDD(candidates=3), SMALL.tilt(), []
    for state in steps(method, tilt, 20, generator=generator(0)):
        seen.append((state.index, state.t, int((state.x == 3).sum())))
    samples = method.sample(tilt, 20, generator=generator(0))
    assert torch.equal(state.x, samples.x)
    assert torch.equal(state.value, samples.reward)
    assert [index for index, _, _ in seen] == [1, 2, 3]
    assert [masks for _, _, masks in seen] == [40, 20, 0]
    assert seen[-1][1] == 0


def test_leaving_the_loop_leaves_no_meter_open(generator):
    from tiltflow.core.cost import open_meters

    for state in steps(SMC(3), SMALL.tilt(), 5, generator=generator(0)):
        assert open_meters() == ()
        if state.index == 2:
            break
    assert open_meters() == ()


@pytest.mark.parametrize("method", [SVDD(4), SMC(4), BestOfN(4)], ids=str)
def test_a_trace_has_a_row_for_every_step(method, generator):
    tilt = WORLD.tilt(value=PosteriorMean())
    samples = method.sample(tilt, 10, generator=generator(0), observe=[Trace()])
    trace = samples.trace
    assert {len(column) for column in trace.values()} == {4}
    torch.testing.assert_close(trace["t"], tilt.diffusion.times[1:])
    shares = trace["ess"]
    assert bool((shares.isnan() if method.group == 1 else (shares > 0) & (shares <= 1 + 1e-9)).all())
    assert bool((trace["value_q10"] <= trace["value_median"]).all())
    assert bool((trace["value_median"] <= trace["value_q90"]).all())
    assert bool((trace["forward_rows"].diff() >= 0).all())
    assert float(trace["reward_calls"][-1]) == samples.cost.reward_calls
    assert method.sample(tilt, 3, generator=generator(0)).trace is None


def test_a_trace_of_values_that_are_all_impossible(generator):
    tilt = Tilt(SMALL.diffusion, lambda x: [-INF] * len(x), 0.5, value=PosteriorMean())
    trace = SVDD(2).sample(tilt, 3, generator=generator(0), observe=[Trace()]).trace
    assert bool(trace["value_median"].isnan().all())


def test_observers_do_not_change_the_samples(generator):
    quiet, watched = (
        SMC(4).sample(SMALL.tilt(), 30, generator=generator(0), observe=observe)
        for observe in ((), [Trace(), StopWhen(lambda state: False), lambda state: None])
    )
    assert torch.equal(quiet.x, watched.x)
    assert quiet.stopped is watched.stopped is None


def test_stopping_at_once_and_at_the_end(generator):
    tilt = WORLD.tilt(value=PosteriorMean())
    first = SVDD(4).sample(tilt, 20, generator=generator(0), observe=[StopWhen(lambda state: True), Trace()])
    assert first.stopped == 1
    assert bool((first.x < 3).all())
    assert len(first.trace["t"]) == 1
    last = SVDD(4).sample(tilt, 20, generator=generator(0), observe=[StopWhen(lambda state: state.t <= 0)])
    assert last.stopped is None


@pytest.mark.parametrize("method", [SVDD(4, selection="argmax"), BestOfN(4)], ids=str)
def test_methods_with_a_law_of_their_own_give_no_weights(method, generator):
    """Nor after an early stop, where the unguided rest has a terminal correction."""
    for observe in ([], [StopWhen(lambda state: state.index >= 1)]):
        samples = method.sample(WORLD.tilt(), 20, generator=generator(0), observe=observe)
        assert samples.log_weight.tolist() == [0] * 20


def test_a_selection_of_ones_own(generator):
    def worst(log_h, generator):
        return log_h.argmin(-1)

    tilt = SMALL.tilt()
    low, high = (SVDD(8, selection=rule).sample(tilt, 200, generator=generator(0)) for rule in (worst, "argmax"))
    assert float(low.reward.mean()) < float(SMALL.p @ SMALL.rewards) < float(high.reward.mean())
    assert low.log_weight.tolist() == [0] * 200


class Recorder:
    def __init__(self, error=None):
        self.closed, self.error = 0, error

    def __call__(self, state):
        if self.error:
            raise self.error

    def close(self):
        self.closed += 1


def test_observers_are_closed_whatever_happens(generator):
    tilt = SMALL.tilt(value=Completions(1))
    done, stopped, failed, own = Recorder(), Recorder(), Recorder(), Recorder(KeyboardInterrupt())
    SVDD(2).sample(tilt, 3, generator=generator(0), observe=[done])
    SVDD(2).sample(tilt, 3, generator=generator(0), observe=[stopped, StopWhen(lambda state: True)])
    with pytest.raises(RewardError):
        SVDD(2).sample(replace(tilt, reward_function=lambda x: None), 3, generator=generator(0), observe=[failed])
    with pytest.raises(KeyboardInterrupt):
        SVDD(2).sample(tilt, 3, generator=generator(0), observe=[own])
    assert [r.closed for r in (done, stopped, failed, own)] == [1, 1, 1, 1]


def test_the_progress_bar_is_taken_down(generator, capsys):
    bars = [Progress("one"), Progress("two")]
    SVDD(2).sample(SMALL.tilt(), 3, generator=generator(0), observe=[bars[0]])
    SVDD(2).sample(SMALL.tilt(), 3, generator=generator(0), observe=[bars[1], StopWhen(lambda state: True)])
    assert all(bar._bar is None for bar in bars)
    assert "one" in capsys.readouterr().out


def test_samples(generator):
    samples = SMC(4).sample(SMALL.tilt(), 30, generator=generator(0))
    assert len(samples) == 30
    assert torch.equal(samples.reward, SMALL.reward(samples.x))
    assert float(samples.reward[samples.best]) == float(samples.reward.max())
    assert samples.log_z == pytest.approx(math.log(float(samples.log_weight.exp().mean())))
    assert not samples.x.requires_grad


def test_rollout_values_steer(generator):
    """The costly value end to end; its samples are better than unguided ones."""
    tilt = SMALL.tilt(value=Rollout(4))
    samples = SVDD(8).sample(tilt, 300, generator=generator(0))
    assert float(samples.reward.mean()) > float(SMALL.p @ SMALL.rewards) + 0.5
