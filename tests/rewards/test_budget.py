"""How many calls there were, and the area under the best answers: by hand."""

from __future__ import annotations

import math

import pytest
from tiltflow.rewards import Budget, BudgetSpentError, top_auc


def test_each_text_counts_once() -> None:
    budget = Budget(3)
    assert budget.allowed(["a", "b", "a"]) == ["a", "b"]
    budget.record([("a", 1.0), ("b", 2.0), ("a", 1.0)])
    assert budget.left == 1
    assert budget.allowed(["c", "a", "d"]) == ["c", "a"]
    budget.record([("c", math.nan)])
    assert budget.allowed(["d", "b"]) == ["b"]
    assert [(call.number, call.text) for call in budget.calls] == [(1, "a"), (2, "b"), (3, "c")]
    assert sorted(call.seconds for call in budget.calls) == [call.seconds for call in budget.calls]
    with pytest.raises(BudgetSpentError, match="all 3 calls"):
        budget.record([("d", 1.0)])


def test_area_by_hand() -> None:
    # The best so far after 2 calls is 0.5, after 4 and 5 it is 1; straight lines, then level up to 10.
    assert top_auc([0.5, 0.25, 1.0, 0.0, 0.0], limit=10, top=1, every=2) == pytest.approx(
        (2 * 0.25 + 2 * 0.75 + 1 * 1 + 5 * 1) / 10
    )
    # Mean of the best two: (0.5 + 0.25) / 2 after 2 calls, (1 + 0.5) / 2 from 4 on.
    assert top_auc([0.5, 0.25, 1.0, 0.0], limit=4, top=2, every=2) == pytest.approx((2 * 0.1875 + 2 * 0.5625) / 4)


def test_a_constant_loses_the_first_triangle_only() -> None:
    assert top_auc([0.8] * 1000, limit=1000) == pytest.approx(0.8 * (1 - 50 / 1000))
    assert top_auc([1.0], limit=10_000) == pytest.approx(1 - 0.5 / 10_000)
    assert top_auc([math.nan, 1.0], limit=2, top=1, every=1) == pytest.approx((0 + 0.5) / 2)


@pytest.mark.parametrize(("values", "limit"), [([], 3), ([1.0] * 4, 3)])
def test_other_numbers_of_values_are_refused(values: list[float], limit: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to limit values"):
        top_auc(values, limit)


@pytest.mark.parametrize("limit", [0, 1.5, True])
def test_impossible_limits_are_refused(limit: object) -> None:
    with pytest.raises(ValueError, match="limit"):
        Budget(limit)  # type: ignore[arg-type]
