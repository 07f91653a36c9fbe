"""The answer to a problem: samples that can be chosen from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiltflow.core import Cost, Samples


@pytest.fixture
def samples():
    x = torch.arange(15).reshape(5, 3)
    trace = {"t": torch.tensor([0.5, 0.0]).double()}
    reward = torch.arange(5).double()
    return Samples(x, reward, -reward, Cost(forward_rows=7), trace, stopped=1)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (torch.tensor([3, 1]), [3, 1]),
        (torch.tensor([3, 1], dtype=torch.uint8), [3, 1]),
        ([4, 4, -1], [4, 4, 4]),
        ([True, False, False, True, False], [0, 3]),
        (torch.tensor([False, True, False, False, False]), [1]),
        (np.array([2, 0]), [2, 0]),
        (slice(1, None, 2), [1, 3]),
        (slice(0, 0), []),
        ([], []),
    ],
)
def test_choosing_keeps_rows_together(samples, index, rows):
    chosen = samples[index]
    assert torch.equal(chosen.x, samples.x[rows])
    assert chosen.reward.tolist() == rows_of(samples.reward, rows)
    assert chosen.log_weight.tolist() == rows_of(samples.log_weight, rows)
    assert len(chosen) == len(rows)
    assert (chosen.cost, chosen.trace, chosen.stopped) == (samples.cost, samples.trace, samples.stopped)


def rows_of(values, rows):
    return [values.tolist()[row] for row in rows]


@pytest.mark.parametrize("index", [3, torch.tensor(3), [[0, 1]], [0.5, 1.0], "best", None])
def test_what_chooses_no_samples_is_refused(samples, index):
    with pytest.raises(TypeError, match="expected a bool mask"):
        samples[index]


@pytest.mark.parametrize("index", [[True, False], [5]])
def test_masks_and_indices_fit_the_number_of_samples(samples, index):
    with pytest.raises(IndexError):
        samples[index]


def test_samples_are_not_run_through_one_by_one(samples):
    """A loop would hand out single rows without their batch dimension."""
    with pytest.raises(TypeError, match=r"samples\[\[i\]\]"):
        list(samples)
