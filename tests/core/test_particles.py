"""Weights and resampling: expectations by integrating over the uniforms, without luck."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from tiltflow.core import particles
from tiltflow.core.particles import RESAMPLING, Particles, draw_index, ess, resample, soften, usable
from tiltflow.core.values import log_mean_exp

INF = math.inf
WEIGHTS = torch.tensor([[0.1, 0.25, 0.05, 0.6], [0.25, 0.25, 0.25, 0.25], [0.0, 0.7, 0.3, 0.0]], dtype=torch.float64)
LOG = WEIGHTS.log() + torch.tensor([[0.0], [500.0], [-500.0]])  # unnormalised, of very different size
EXTREMES = (0.0, 2.0**-53, 0.5, 1 - 2.0**-53)


@pytest.fixture
def choose(monkeypatch):
    """`choose(u)`: resampling takes its uniforms from `u`, expanded to the shape that it asks for."""

    def use(u):
        u = torch.as_tensor(u, dtype=torch.float64)
        monkeypatch.setattr(particles, "uniform", lambda shape, *_: u.expand(shape).clone())

    return use


def copies(index, count):
    """Times each particle was copied: `[n, N] -> [n, N]`."""
    return torch.nn.functional.one_hot(index, count).sum(1).double()


# --- resampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_expected_copies_are_the_weights(scheme, choose, midpoints):
    """E[copies of i] = N w_i. Every slot's point is integrated over its own uniform; the expectation is a sum over slots."""
    points, total = 2000, torch.zeros(3, 4, dtype=torch.float64)
    for u in midpoints(points):
        choose(u)
        total += copies(RESAMPLING[scheme](LOG, None), 4)
    torch.testing.assert_close(total / points, 4 * WEIGHTS, rtol=0, atol=4 / points)


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_uniforms_of_different_slots_are_different(scheme, generator):
    """The covariance tells the schemes apart: variance of the copies of one particle, exactly."""
    w, replicates = torch.tensor([0.15, 0.35, 0.2, 0.3], dtype=torch.float64), 40_000
    found = copies(RESAMPLING[scheme](w.log().expand(replicates, 4), generator(1)), 4)
    expected = 4 * w
    fraction = expected - expected.floor()
    variance = {
        "multinomial": expected * (1 - w),
        "systematic": fraction * (1 - fraction),
        "residual": fraction * (1 - fraction / fraction.sum()),  # multinomial with what the sure copies leave
        "stratified": _stratified_variance(w),
    }[scheme]
    error = (found - expected).square().std(0) / math.sqrt(replicates)
    z = (found.var(0) - variance) / error.clamp(min=1e-12)
    assert float(z.abs().max()) < 4.7
    assert float(((found.mean(0) - expected) / (variance / replicates).sqrt().clamp(min=1e-12)).abs().max()) < 4.7


def _stratified_variance(w):
    """Sum over strata of q (1 - q), q the part of the stratum that belongs to the particle."""
    edges = torch.cat([torch.zeros(1).double(), w.cumsum(0)])
    total = torch.zeros(4, dtype=torch.float64)
    for k in range(4):
        inside = (edges.clamp(k / 4, (k + 1) / 4).diff() * 4).clamp(0, 1)
        total += inside * (1 - inside)
    return total


def test_systematic_copies_are_the_floor_or_the_ceiling(choose, midpoints):
    log_weights = torch.randn(200, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    expected = 7 * log_weights.softmax(-1)
    for u in midpoints(50):
        choose(u)
        found = copies(RESAMPLING["systematic"](log_weights, None), 7)
        assert bool((found >= (expected - 1e-9).floor()).all())
        assert bool((found <= (expected + 1e-9).ceil()).all())


def test_residual_gives_the_sure_copies_first(generator):
    log_weights = torch.randn(200, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    sure = (7 * log_weights.softmax(-1)).floor()
    for seed in range(20):
        assert bool((copies(RESAMPLING["residual"](log_weights, generator(seed)), 7) >= sure).all())


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "residual"])
def test_equal_weights_copy_everyone_once(scheme, choose):
    for count in (1, 3, 10, 49):
        for u in (1e-9, 0.5, 1 - 1e-9):
            choose(u)
            index = RESAMPLING[scheme](torch.full((2, count), -3.7).double(), None)
            assert torch.equal(index, torch.arange(count).expand(2, -1)), (count, u)


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_impossible_particles_are_never_copied(scheme, choose):
    """At the ends of the uniforms too, where the last point of a comb rounds to 1."""
    for dead in ([0], [3], [0, 3], [1, 2], [0, 1, 2], [1, 2, 3], [2, 3]):
        log_weights = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        log_weights[:, dead] = -INF
        for u in EXTREMES:
            choose(u)
            index = RESAMPLING[scheme](log_weights, None)
            assert bool(((index >= 0) & (index < 4)).all()), (dead, u)
            assert not bool(torch.isin(index, torch.tensor(dead)).any()), (dead, u)


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_a_group_without_a_possible_particle_is_kept_whole(scheme, generator):
    log_weights = torch.full((2, 5), -INF).double()
    log_weights[1, 2] = -1e4
    index = RESAMPLING[scheme](log_weights, generator(0))
    assert bool(((index >= 0) & (index < 5)).all())
    assert index[1].tolist() == [2] * 5
    if scheme != "multinomial":
        assert index[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_a_single_particle_is_itself(scheme, generator):
    assert RESAMPLING[scheme](torch.tensor([[-5.0], [-INF]]).double(), generator(0)).tolist() == [[0], [0]]


# --- weights --------------------------------------------------------------------------------------------------------


def test_effective_sample_size():
    torch.testing.assert_close(ess(LOG), 1 / (WEIGHTS**2).sum(-1))
    assert ess(torch.full((1, 5), -INF)).item() == 0
    assert ess(torch.tensor([[1000.0, -INF, -INF]]).double()).item() == 1
    assert ess(torch.full((2, 8), 1e5).double()).tolist() == pytest.approx([8, 8])


def test_the_draw_of_one_particle(monkeypatch, midpoints):
    u = midpoints(1000)
    monkeypatch.setattr(particles, "uniform", lambda shape, *_: u)
    for row in range(3):
        drawn = draw_index(LOG[row].expand(1000, -1), None)
        torch.testing.assert_close(
            drawn.bincount(minlength=4) / 1000, WEIGHTS[row], rtol=0, atol=1e-3, check_dtype=False
        )
    assert set(draw_index(torch.full((1000, 4), -INF).double(), None).tolist()) == {0, 1, 2, 3}


def test_usable_changes_only_dead_groups():
    log_weights = torch.tensor([[-INF, -INF], [-INF, 1.0]]).double()
    assert usable(log_weights).tolist() == [[0, 0], [-INF, 1]]


def test_soften():
    previous = torch.full((4, 1), 7.0).double()
    log_h = torch.tensor([[1.0, -INF, 3.0], [-INF, -INF, -INF], [0.0, -1e5, 2.0], [-9.0, -INF, 2.0]]).double()
    assert soften(log_h, previous).tolist() == [[1, 0, 3], [7, 7, 7], [0, -1e5, 2], [-9, -9, 2]]


def test_log_mean_exp():
    x = torch.tensor([[0.0, math.log(3)], [-INF, -INF], [1e4, 1e4]]).double()
    assert log_mean_exp(x, 1).tolist() == pytest.approx([math.log(2), -INF, 1e4])


# --- the state ------------------------------------------------------------------------------------------------------

PER_ROW = {"x", "clean", "guided", "running", "value", "log_weights", "log_potential"}
OTHER = {"log_z", "t", "total", "index", "stopped", "cost"}


def state(groups=3, count=4, **changes):
    rows = groups * count
    column = torch.arange(rows, dtype=torch.float64)
    whole = {
        "x": torch.arange(rows * 2).reshape(rows, 2),
        "clean": torch.arange(rows * 6, dtype=torch.float64).reshape(rows, 2, 3),
        "guided": torch.arange(rows * 6, dtype=torch.float64).reshape(rows, 2, 3) + 0.5,
        "running": column + 0.3,
        "value": column + 0.1,
        "log_weights": LOG.flatten()[:rows].clone(),
        "log_potential": column + 0.2,
        "log_z": torch.tensor([0.5, -1.0, 2.0]).double()[:groups],
    }
    return Particles(**{**whole, "t": 0.5, "total": 9, **changes})


def test_every_field_is_known_to_be_gathered_or_not():
    """A new field of Particles must be put into one of these sets; one that goes by rows, into `gather` too."""
    assert {f.name for f in fields(Particles)} == PER_ROW | OTHER


def test_gather_takes_every_field_that_goes_by_rows():
    index = torch.tensor([11, 0, 0, 5])
    before = state()
    after = before.gather(index)
    rows = len(before.x)
    for f in fields(Particles):
        leaf, taken = getattr(before, f.name), getattr(after, f.name)
        if isinstance(leaf, torch.Tensor) and len(leaf) == rows:
            assert torch.equal(taken, leaf[index]), f.name
        else:
            assert taken is leaf, f.name
    assert state(clean=None).gather(index).clean is None


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_resampling_keeps_the_books(scheme, generator):
    """log_z + log mean weight of every group is what it was, bit for bit where nothing was resampled."""
    before = state()
    chosen = torch.tensor([True, False, True])
    after = resample(before, RESAMPLING[scheme], chosen, generator(0))

    def total(s):
        return s.log_z + log_mean_exp(s.grouped, -1)

    torch.testing.assert_close(total(after), total(before), rtol=0, atol=1e-12)
    assert torch.equal(after.grouped[1], before.grouped[1])
    assert torch.equal(after.x[4:8], before.x[4:8])
    assert float(after.log_z[1]) == float(before.log_z[1])
    assert after.grouped[[0, 2]].abs().max().item() == 0
    ancestor = after.x[:, 0] // 2
    assert torch.equal(ancestor // 4, torch.arange(3).repeat_interleave(4))  # never across groups
    for name in PER_ROW - {"log_weights"}:
        assert torch.equal(getattr(after, name), getattr(before, name)[ancestor]), name


def test_resampling_a_dead_group_leaves_it_dead(generator):
    before = state(log_weights=torch.full((12,), -INF).double())
    after = resample(before, RESAMPLING["systematic"], torch.tensor([True, False, False]), generator(0))
    assert float(after.log_z[0]) == -INF
    assert torch.equal(replace(after).x, before.x)
