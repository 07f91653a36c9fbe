from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core.schedules import (
    GRIDS,
    SCHEDULES,
    Cosine,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
    check_grid,
    cosine_grid,
    power_grid,
    uniform_grid,
)

ALL = [
    *(schedule() for schedule in SCHEDULES.values()),
    Polynomial(0.5),
    Polynomial(1.0),
    LogLinear(0.0),
    Geometric(1e-3, 5.0),
]


@pytest.fixture(params=ALL, ids=str)
def schedule(request):
    return request.param


def test_runs_down_from_exactly_one(schedule, dtype):
    t = torch.linspace(0, 1, 1001, dtype=dtype)
    alpha = schedule.alpha(t)
    assert alpha.dtype == dtype
    assert float(alpha[0]) == 1
    assert bool((alpha[1:] < alpha[:-1]).all())
    assert float(alpha[-1]) == pytest.approx(getattr(schedule, "eps", 0.0), abs=1e-6)


def test_derivative_is_that_of_alpha(schedule):
    t = torch.linspace(0.001, 0.999, 333, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.derivative(t.detach()), slope, rtol=1e-10, atol=1e-12)


def test_derivative_is_never_positive(schedule, dtype):
    assert bool((schedule.derivative(torch.linspace(1e-3, 1, 100, dtype=dtype)) <= 0).all())


def test_inverse_of_alpha_is_the_time(schedule):
    t = torch.linspace(1e-3, 1 - 1e-3, 999, dtype=torch.float64)
    assert float((schedule.inverse(schedule.alpha(t)) - t).abs().max()) < 1e-10


def test_inverse_in_float32(schedule):
    alpha = torch.linspace(0.05, 0.95, 200)
    torch.testing.assert_close(schedule.alpha(schedule.inverse(alpha)), alpha, rtol=0, atol=2e-5)


def test_alpha_is_differentiable_through_the_inverse(schedule):
    alpha = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    t = schedule.inverse(alpha)
    (slope,) = torch.autograd.grad(t.sum(), alpha)
    torch.testing.assert_close(slope * schedule.derivative(t.detach()), torch.ones(3).double(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_grids_descend_between_exact_ends(grid, steps):
    times = grid(steps)
    assert times.dtype == torch.float64
    assert len(times) == steps + 1
    assert (float(times[0]), float(times[-1])) == (1, 0)
    assert bool((times[1:] < times[:-1]).all())
    assert torch.equal(check_grid(times), times)


def test_grids_have_their_formulas():
    torch.testing.assert_close(uniform_grid(4), torch.tensor([1, 0.75, 0.5, 0.25, 0]).double())
    torch.testing.assert_close(power_grid(2, 3.0), torch.tensor([1, 0.125, 0]).double())
    expected = torch.tensor([1, (1 - math.cos(math.pi * 2 / 3)) / 2, (1 - math.cos(math.pi / 3)) / 2, 0]).double()
    torch.testing.assert_close(cosine_grid(3), expected)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "3", None])
def test_a_number_of_steps_is_an_integer_of_at_least_one(steps):
    with pytest.raises(ValueError, match="steps is"):
        uniform_grid(steps)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LogLinear(1.0), "eps"),
        (lambda: LogLinear(-0.1), "eps"),
        (lambda: LogLinear(math.nan), "eps"),
        (lambda: Polynomial(0.0), "power"),
        (lambda: Polynomial(math.inf), "power"),
        (lambda: Polynomial(math.nan), "power"),
        (lambda: Geometric(0.0, 1.0), "sigma_min"),
        (lambda: Geometric(2.0, 1.0), "below"),
        (lambda: power_grid(4, -1.0), "power"),
    ],
)
def test_bad_parameters_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize(
    "grid",
    [
        [1.0],
        [[1.0, 0.0]],
        [0.0, 1.0],
        [1.0, 1.0, 0.0],
        [1.1, 0.0],
        [1.0, -0.1],
        [1.0, math.nan, 0.0],
        [1.0, 0.5, 0.1],  # ends in the noise: the last state would hold masks, and no reward would ever be asked
    ],
)
def test_bad_grids_are_refused(grid):
    with pytest.raises(ValueError, match="grid"):
        check_grid(torch.tensor(grid))


def test_linear_is_the_default_of_the_masked_process():
    from tiltflow.core.processes import Masked

    assert Masked(4).schedule == Linear()
    assert Cosine().alpha(torch.tensor(0.5)).item() == pytest.approx(1 - math.cos(math.pi / 4))
