"""Credit: every comparison stays within the samples of one condition."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core.tuning.credit import (
    LeaveOneOut,
    Normalised,
    Ranks,
    best_weights,
    group_size,
    softmax_weights,
)

REWARD = torch.tensor([1.0, 2.0, 3.0, 6.0, -4.0, 0.0, 0.0, 0.0], dtype=torch.float64)


def test_normalised_is_the_formula():
    group = REWARD[:4]
    expected = (group - group.mean()) / (group.var(correction=0).sqrt() + 1e-4)
    assert torch.allclose(Normalised()(REWARD, 4)[:4], expected, atol=1e-12)
    assert torch.allclose(Normalised(limit=0.5)(REWARD, 4)[:4], expected.clamp(-0.5, 0.5), atol=1e-12)


def test_leave_one_out_subtracts_the_mean_of_the_others():
    found = LeaveOneOut()(REWARD, 4)
    assert torch.allclose(found[0], REWARD[0] - REWARD[1:4].mean(), atol=1e-12)
    assert torch.allclose(found[4], REWARD[4] - REWARD[5:].mean(), atol=1e-12)


def test_ranks_run_from_minus_one_to_one_and_ties_share():
    assert torch.allclose(Ranks()(REWARD, 4)[:4], torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0], dtype=torch.float64))
    assert torch.allclose(Ranks()(REWARD, 4)[4:], torch.tensor([-1.0, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize("credit", [Normalised(), LeaveOneOut(), Ranks()])
def test_conditions_are_never_compared(credit):
    """A constant added to one condition changes nothing, and each group has mean 0 (over the batch: published fault)."""
    shifted = REWARD + torch.tensor([0.0] * 4 + [100.0] * 4, dtype=torch.float64)
    assert torch.allclose(credit(shifted, 4), credit(REWARD, 4), atol=1e-9)
    assert torch.allclose(credit(REWARD, 4).reshape(2, 4).mean(1), torch.zeros(2, dtype=torch.float64), atol=1e-12)


def test_the_unit_is_the_scale_against_the_unbiased_advantages():
    """Leave-one-out advantages give the policy gradient itself, so alpha is weighed by what others scale it with."""
    expected = LeaveOneOut()(REWARD, 4) * Normalised().unit(REWARD, 4)
    assert torch.allclose(Normalised()(REWARD, 4), expected, atol=1e-12)
    assert torch.equal(LeaveOneOut().unit(REWARD, 4), torch.ones(8, dtype=torch.float64))
    with pytest.raises(ValueError, match="no unit"):
        Ranks().unit(REWARD, 4)


def test_leading_dimensions_are_kept():
    table = torch.stack([REWARD, 2 * REWARD])
    assert torch.equal(LeaveOneOut()(table, 4)[1], LeaveOneOut()(2 * REWARD, 4))


def test_never_counts_as_the_worst_of_its_group():
    reward = torch.tensor([1.0, 3.0, -math.inf, 2.0], dtype=torch.float64)
    found = Normalised()(reward, 4)
    assert bool(found.isfinite().all())
    assert found[2] == found[0]
    assert torch.equal(Normalised()(torch.full((4,), -math.inf), 4), torch.zeros(4))
    assert softmax_weights(reward, 4)[2] == 0
    assert best_weights(reward, 4, 4)[2] == 0


def test_weights_have_mean_one_in_each_group():
    weights = softmax_weights(REWARD / 0.5, 4)
    assert torch.allclose(weights.reshape(2, 4).mean(1), torch.ones(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(weights[3] / weights[2], torch.tensor(3 / 0.5, dtype=torch.float64).exp(), atol=1e-8)
    assert best_weights(REWARD, 4, 1).tolist()[:4] == [0, 0, 0, 4]


def test_groups_follow_the_conditions():
    cond = {"a": torch.zeros(3, 2), "b": torch.zeros(1, 5)}
    assert [group_size(12, cond, None, "X"), group_size(12, cond, 2, "X"), group_size(8, None, None, "X")] == [4, 2, 8]
    for batch, size in ((10, None), (12, 3), (3, None), (12, 1)):
        with pytest.raises(ValueError, match="one condition"):
            group_size(batch, cond, size, "X")
