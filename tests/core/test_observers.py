"""Observers on states made by hand: what a trace records, when it starts anew, and one median for all."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core import Progress, Trace
from tiltflow.core.observers import quantiles
from tiltflow.core.particles import Particles


def state(index, value, groups=1, log_weights=None):
    value = torch.tensor(value, dtype=torch.float64)
    zeros = torch.zeros(len(value), dtype=torch.float64)
    weights = zeros if log_weights is None else torch.tensor(log_weights, dtype=torch.float64)
    return Particles(
        x=zeros.long().unsqueeze(1),
        value=value,
        log_weights=weights,
        log_potential=zeros,
        log_z=zeros[:groups],
        t=1 - index / 4,
        total=4,
        index=index,
    )


def test_the_effective_sample_size_is_that_of_a_group():
    trace = Trace()
    trace(state(1, [1.0, 2, 3, 4], groups=2, log_weights=[0.0, 0.0, 0.0, -math.inf]))
    trace(state(2, [1.0, 2, 3, 4], groups=4, log_weights=[0.0, 5.0, 0.0, 0.0]))
    assert trace.table()["ess"][0] == pytest.approx((1 + 0.5) / 2)  # one group even, one with half of its particles
    assert bool(trace.table()["ess"][1].isnan())  # a particle alone competes with none


def test_a_trace_starts_anew_with_every_run():
    trace = Trace()
    for index in (1, 2, 3):
        trace(state(index, [1.0]))
    first = trace.rows
    for index in (1, 2):
        trace(state(index, [2.0]))
    assert trace.table()["value_median"].tolist() == [2, 2]
    assert [row["value_median"] for row in first] == [1, 1, 1]


def test_medians_lie_between_the_middle_two_and_skip_what_is_impossible(capsys):
    values = [1.0, 2.0, 4.0, 8.0, -math.inf, math.nan]
    assert quantiles(torch.tensor(values), (0.0, 0.5, 1.0)) == [1, 3, 8]
    assert all(math.isnan(value) for value in quantiles(torch.full((3,), -math.inf), (0.5, 0.9)))
    trace, progress = Trace(), Progress()
    for observer in (trace, progress):
        observer(state(1, values))
    progress.close()
    assert trace.table()["value_median"].tolist() == [3]
    assert "median value 3.00" in capsys.readouterr().out
