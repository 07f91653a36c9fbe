"""Credit: what each sample is worth to an objective, compared with the other samples of its own condition.

A group is K consecutive samples of one condition. Nothing here ever compares samples of different conditions (published
code centres over the whole gathered batch, which favours easy conditions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..states import rows_of


class Credit(Protocol):
    """Advantages of samples, of mean about 0 in each group."""

    def __call__(self, reward: Tensor, size: int) -> Tensor:
        """Advantages `[..., B]` of rewards `[..., B]`, in groups of `size` consecutive samples."""
        ...

    def unit(self, reward: Tensor, size: int) -> Tensor:
        """The factor by which advantages scale the mean policy gradient, `[..., B]`: a term in units of the reward needs it
        too, to keep its weight.

        Raises:
            ValueError: advantages have no unit.
        """
        ...


@dataclass(frozen=True)
class Normalised:
    """(R - mean) / (std + 1e-4) in the group, std that of the K rewards themselves (GRPO, Shao et al. 2024).

    Args:
        limit: advantages are cut off at +-limit.
    """

    limit: float = math.inf

    def __call__(self, reward: Tensor, size: int) -> Tensor:
        return (centred(reward, size) * self._scale(reward, size)).clamp(-self.limit, self.limit)

    def unit(self, reward: Tensor, size: int) -> Tensor:
        # The mean contains the sample itself, which takes 1 / K of its own gradient back.
        return self._scale(reward, size) * (size - 1) / size

    def _scale(self, reward: Tensor, size: int) -> Tensor:
        grouped = in_groups(reward, size)
        scale = 1 / (grouped.std(-1, correction=0, keepdim=True) + 1e-4)
        return scale.expand_as(grouped).reshape(reward.shape)


@dataclass(frozen=True)
class LeaveOneOut:
    """R minus the mean of the others in the group (Kool et al. 2019): an unbiased baseline, in units of the reward."""

    def __call__(self, reward: Tensor, size: int) -> Tensor:
        return centred(reward, size) * size / (size - 1)

    def unit(self, reward: Tensor, size: int) -> Tensor:
        return torch.ones_like(reward)


@dataclass(frozen=True)
class Ranks:
    """Ranks in the group, evenly from -1 (worst) to 1 (best), equal rewards sharing theirs: blind to outliers and units."""

    def __call__(self, reward: Tensor, size: int) -> Tensor:
        grouped = in_groups(reward, size)
        beats = (grouped.unsqueeze(-1) - grouped.unsqueeze(-2)).sign().sum(-1)  # wins minus losses
        return (beats / (size - 1)).reshape(reward.shape)

    def unit(self, reward: Tensor, size: int) -> Tensor:
        raise ValueError("Ranks have no unit that a divergence could be weighed in. Use Normalised or LeaveOneOut.")


def in_groups(reward: Tensor, size: int) -> Tensor:
    """`[..., B] -> [..., B / size, size]`. A reward of -inf (never) counts as the lowest finite one of its group, so that
    means exist; 0 where all are -inf.

    Raises:
        ValueError: groups of one, or B is no multiple of `size`.
    """
    if size < 2 or reward.shape[-1] % size:
        raise ValueError(f"{reward.shape[-1]} samples in groups of {size}: expected equal groups of at least 2.")
    grouped = reward.unflatten(-1, (-1, size))
    never = grouped == -math.inf
    lowest = torch.where(never, math.inf, grouped).amin(-1, keepdim=True)
    return torch.where(never, torch.where(lowest == math.inf, 0.0, lowest), grouped)


def centred(reward: Tensor, size: int) -> Tensor:
    """R minus the mean of its group, `[..., B]`."""
    grouped = in_groups(reward, size)
    return (grouped - grouped.mean(-1, keepdim=True)).reshape(reward.shape)


def softmax_weights(score: Tensor, size: int) -> Tensor:
    """exp(score) over its mean in the group, `[..., B]`: self-normalised weights of mean 1. -inf gets none, and where all
    are -inf all weights are 0."""
    weights = score.unflatten(-1, (-1, size)).softmax(-1).nan_to_num(0.0) * size
    return weights.reshape(score.shape)


def best_weights(reward: Tensor, size: int, keep: int) -> Tensor:
    """size / keep for the `keep` best of each group and 0 for others, `[..., B]`: of mean 1."""
    grouped = reward.unflatten(-1, (-1, size))
    kept = torch.zeros_like(grouped).scatter(-1, grouped.topk(keep, -1).indices, size / keep)
    return torch.where(grouped == -math.inf, 0.0, kept).reshape(reward.shape)


def group_size(batch: int, cond: Any, size: int | None, name: str) -> int:
    """Samples a group: `size`, or all samples of a condition. Conditions serve equal blocks of consecutive samples.

    Raises:
        ValueError: samples, conditions and groups do not divide each other, or groups of one.
    """
    conditions = rows_of(cond)
    each = batch // conditions
    size = each if size is None else size
    if batch % conditions or size < 2 or each % size:
        raise ValueError(
            f"{name} compares the samples of one condition: batch={batch} over {conditions} condition(s) cannot be split "
            f"into groups of {size}. Make batch a multiple of conditions x group, and group at least 2."
        )
    return size
