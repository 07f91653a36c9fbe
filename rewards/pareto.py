"""What several objectives can reach together: the Pareto front, and the volume that it dominates. More is better in each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ROWS = 1024  # points at a time against all others


def pareto_front(values: Tensor) -> Tensor:
    """Which points no other one beats: bool `[N]`.

    A point is beaten by one that is at least as good in every objective and better in one; equal points stay together.

    Args:
        values: `[N, M]`, larger is better; a row with NaN is never in the front and beats nothing.
    """
    points = _points(values)
    whole = ~points.isnan().any(1)
    rivals = points[whole]
    front = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    kept = [_unbeaten(part, rivals) for part in rivals.split(_ROWS)]
    front[whole] = torch.cat(kept) if kept else front[whole]
    return front


def _unbeaten(part: Tensor, rivals: Tensor) -> Tensor:
    """Which of `part` `[n, M]` none of `rivals` `[N, M]` beats: `[n]`."""
    as_good = torch.ones(len(part), len(rivals), dtype=torch.bool, device=part.device)
    better = torch.zeros_like(as_good)
    for objective in range(part.shape[1]):
        mine, theirs = part[:, None, objective], rivals[None, :, objective]
        as_good &= theirs >= mine
        better |= theirs > mine
    return ~(as_good & better).any(1)


def hypervolume(values: Tensor, reference: Sequence[float] | Tensor) -> float:
    """Volume of the region that the points dominate above `reference`, exact.

    The measure of Zitzler and Thiele (IEEE Transactions on Evolutionary Computation 3:257, 1999): of all that is at least
    `reference` and at most some point, in every objective. In two dimensions the area under a staircase; in more the sum
    over slices between the levels of the last objective of the volume that the points above a slice span in the others.
    Time grows as the size of the front to the power M - 1: a second for 100 points in four dimensions.

    Args:
        values: `[N, M]`, M at least 2, larger is better; points not above `reference` everywhere, or with NaN, add nothing.
        reference: `[M]`, in the units of the objectives.

    Raises:
        ValueError: another number of objectives, or infinite points above the reference.
    """
    points = _points(values).cpu()
    corner = torch.as_tensor(reference, dtype=torch.float64)
    if corner.shape != (points.shape[1],) or not bool(corner.isfinite().all()):
        raise ValueError(
            f"reference {corner.tolist()}: expected {points.shape[1]} finite numbers, one for each objective"
        )
    if points.shape[1] < 2:
        raise ValueError("one objective: its volume is no more than the best value; expected 2 or more")
    above = (points - corner)[(points > corner).all(1)]
    if not bool(above.isfinite().all()):
        raise ValueError("an infinite value: expected finite objectives, or a finite cap on them first")
    return _volume(above)


def _area(points: Tensor) -> float:
    """Area of the union of the boxes [0, x] x [0, y] of points `[N, 2]` > 0."""
    ordered = points[points[:, 0].argsort(descending=True)]
    tops = torch.cat(
        [torch.zeros(1, dtype=points.dtype), ordered[:, 1].cummax(0).values if len(ordered) else ordered[:, 1]]
    )
    return float((ordered[:, 0] * tops.diff()).sum())


def _volume(points: Tensor) -> float:
    """Volume of the union of the boxes of points `[N, M]` > 0, slice by slice from the top of the last objective."""
    front = points[pareto_front(points)]
    if points.shape[1] == 2:
        return _area(front)
    ordered = front[front[:, -1].argsort(descending=True)]
    below = torch.cat([ordered[1:, -1], ordered.new_zeros(1)]) if len(ordered) else ordered[:, -1]
    heights = ordered[:, -1] - below
    return sum(float(height) * _volume(ordered[: n + 1, :-1]) for n, height in enumerate(heights) if height > 0)


def _points(values: Tensor) -> Tensor:
    """float64 `[N, M]`, checked."""
    points = torch.as_tensor(values)
    if points.dim() != 2 or points.shape[1] < 1:
        raise ValueError(f"values of shape {list(points.shape)}: expected [N, M], a row for each point")
    return points.double()
