"""The conditions that a model is trained under, and sets of samples with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from ..diffusion import check_count
from ..states import index_tree, match_rows, rows_of


@dataclass(frozen=True, repr=False)
class Conditions:
    """A table that training draws conditions from, evenly, with replacement.

    Args:
        table: dict of tensors `[N, ...]`, such as prompts' embeddings, or the labels of a data set.
        share: consecutive samples of a micro-batch with the same condition: 1, or the group of a policy gradient.

    Raises:
        ValueError: an empty table, or columns of different lengths.
    """

    table: Mapping[str, Tensor]
    share: int = 1

    def __post_init__(self) -> None:
        check_count("share", self.share)
        lengths = {name: len(column) for name, column in self.table.items()}
        if not lengths or len(set(lengths.values())) > 1 or not len(self):
            raise ValueError(
                f"Conditions of lengths {lengths}; expected at least one column and row, and equal lengths."
            )

    def __len__(self) -> int:
        return len(next(iter(self.table.values())))

    def draw(self, batch: int, cond: Any, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        """Conditions of `batch` samples, a row for each `share` of them, beside the dict `cond` of others.

        Raises:
            ValueError: `share` does not divide the batch, or `cond` is no dict.
        """
        if batch % self.share:
            raise ValueError(f"batch={batch} samples cannot have conditions for {self.share} each.")
        if cond is not None and not isinstance(cond, Mapping):
            raise ValueError(
                f"The tilt's condition is a {type(cond).__name__}; expected a dict, to which others are added."
            )
        count = batch // self.share
        rows = torch.randint(len(self), (count,), generator=generator)
        drawn = {name: column[rows.to(column.device)].to(device) for name, column in self.table.items()}
        return {**match_rows(dict(cond or {}), max(count, rows_of(cond))), **drawn}

    def __repr__(self) -> str:
        """Names the content, so that a run is not resumed on other conditions."""
        return f"Conditions({len(self)}, {digest(self.table)}, share={self.share})"


@dataclass(frozen=True, repr=False)
class Labelled:
    """N samples and what is known of each: the offline set of CTRL.

    Args:
        x: clean samples `[N, *shape]`.
        labels: dict of columns `[N, ...]`: int64 classes, or numbers.
        groups: `[N]`, samples that belong together (relatives), which no split may part; None: each its own.

    Raises:
        ValueError: columns of other lengths than x.
    """

    x: Tensor
    labels: Mapping[str, Tensor]
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        columns = {**self.labels, **({} if self.groups is None else {"groups": self.groups})}
        wrong = {name: len(column) for name, column in columns.items() if len(column) != len(self.x)}
        if wrong or not self.labels or not len(self.x):
            raise ValueError(f"{len(self.x)} samples with columns of {wrong}; expected labels, as many as samples.")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        """Names the content, so that a run is not resumed on other samples."""
        return f"Labelled({len(self)}, {digest({'x': self.x, **self.labels})})"

    def rows(self, index: Tensor) -> Labelled:
        """Some of the samples, by indices or a mask `[N]`."""
        groups = None if self.groups is None else self.groups[index]
        return Labelled(self.x[index], index_tree(dict(self.labels), index), groups)

    def split(self, shares: tuple[float, ...], generator: torch.Generator) -> list[Labelled]:
        """Parts of about these shares, at random, groups undivided."""
        ids = torch.arange(len(self)) if self.groups is None else self.groups
        groups, member = ids.unique(return_inverse=True)
        place = torch.randperm(len(groups), generator=generator).double().add(0.5).div(len(groups))[member]
        edges = torch.tensor([0.0, *shares], dtype=torch.float64).cumsum(0)
        parts = [(place >= low) & (place < high) for low, high in pairwise(edges)]
        if not all(bool(part.any()) for part in parts):
            raise ValueError(f"{len(groups)} groups of samples cannot be split into parts of {shares}: one is empty.")
        return [self.rows(part) for part in parts]


def digest(tree: Any) -> str:
    """A fingerprint of the tensors in a tree."""
    found = hashlib.blake2b(digest_size=8)

    def add(leaf: Tensor) -> None:
        found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    apply_to_collection(tree, Tensor, add)
    return found.hexdigest()
