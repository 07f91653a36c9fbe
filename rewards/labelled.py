"""What learned rewards share: checked labels, agreement with measurements, a predictor's head as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..dna import ALPHABET, DnaError

_FEWEST = 20  # labelled sequences per head: fewer cannot be fitted and checked


class Predictor(Protocol):
    """A fitted model: sequences to float64 `[B, heads]`, in the units of the labels."""

    names: tuple[str, ...]
    takes: ClassVar[str]
    differentiable: ClassVar[bool]

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Predicted:
    """A weighted sum of a predictor's heads as a reward: one head, or a difference of two.

    Args:
        model: the predictor.
        weights: one number per head, in the order of `model.names`.
    """

    model: Predictor
    weights: tuple[float, ...]

    alphabet: ClassVar[str | None] = ALPHABET

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.model.names):
            raise ValueError(f"{len(self.weights)} weights for the heads {', '.join(self.model.names)}: give one each")

    @property
    def takes(self) -> str:
        return self.model.takes

    @property
    def differentiable(self) -> bool:
        return self.model.differentiable

    def __call__(self, x: Tensor) -> Tensor:
        """Reward float64 `[B]`, in the units of the labels."""
        predicted = self.model(x)
        return predicted @ predicted.new_tensor(self.weights)


def head(model: Predictor, name: str | None = None) -> Predicted:
    """One head of a predictor as a reward; a predictor with a single head needs no name.

    Raises:
        ValueError: no such head, or a name is needed.
    """
    if name is None and len(model.names) == 1:
        name = model.names[0]
    if name not in model.names:
        raise ValueError(f"no head {name!r}; choose one of {', '.join(model.names)}")
    return Predicted(model, tuple(float(other == name) for other in model.names))


@dataclass(frozen=True)
class Labelled:
    """Checked labels.

    Attributes:
        tokens: int64 `[N, L]` over ACGT.
        labels: float64 `[N, heads]`, NaN where missing.
        weights: float64 `[N]`, mean 1.
        groups: int64 `[N]`; rows of one group (relatives) stay together when labels are set aside.
        names: of the heads.
    """

    tokens: Tensor
    labels: Tensor
    weights: Tensor
    groups: NDArray[np.int64]
    names: tuple[str, ...]

    def folds(self, count: int, generator: torch.Generator) -> NDArray[np.int64]:
        """A number 0 .. count - 1 for each row, equal within a group; groups are spread evenly."""
        _, group = np.unique(self.groups, return_inverse=True)
        order = torch.randperm(int(group.max()) + 1, generator=generator).numpy()
        return (order % count)[group]


def labelled(
    tokens: Tensor,
    labels: ArrayLike | Tensor,
    names: Sequence[str] | None = None,
    weights: ArrayLike | Tensor | None = None,
    groups: ArrayLike | None = None,
) -> Labelled:
    """Check labels before anything is fitted.

    Args:
        tokens: int64 `[N, L]` over ACGT; labels: `[N]` or `[N, heads]`, NaN where missing; names: of the heads.
        weights: `[N]`, how much each row counts, >= 0; groups: `[N]` integers, equal for relatives.

    Raises:
        DnaError: tokens that are not finished sequences.
        ValueError: shapes that do not fit, infinite labels, or fewer than 20 labels for a head.
    """
    if tokens.dim() != 2 or tokens.is_floating_point() or not bool(((tokens >= 0) & (tokens < 4)).all()):
        raise DnaError(f"{tokens.dtype} tokens of shape {list(tokens.shape)}: expected int64 [N, L] over 0..3 for ACGT")
    table = torch.as_tensor(labels, dtype=torch.float64)
    table = table.unsqueeze(1) if table.dim() == 1 else table
    if table.dim() != 2 or len(table) != len(tokens):
        raise ValueError(f"labels of shape {list(table.shape)} for {len(tokens)} sequences: expected [N] or [N, heads]")
    if bool(table.isinf().any()):
        raise ValueError("infinite labels: give finite numbers, NaN where nothing was measured")
    heads = tuple(names) if names is not None else tuple(f"head {i}" for i in range(table.shape[1]))
    if len(set(heads)) != table.shape[1]:
        raise ValueError(f"names {heads} for {table.shape[1]} columns of labels: give one distinct name each")
    for name, column in zip(heads, table.T, strict=True):
        known = int((~column.isnan()).sum())
        if known < _FEWEST:
            raise ValueError(f"{known} labels for {name}: too few to fit and check; give at least {_FEWEST}")
    return Labelled(tokens.long(), table, _weights(weights, len(tokens)), _groups(groups, len(tokens)), heads)


def _weights(weights: ArrayLike | Tensor | None, count: int) -> Tensor:
    given = torch.ones(count, dtype=torch.float64) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    if given.shape != (count,) or not bool((given >= 0).all()) or not 0 < float(given.sum()) < float("inf"):
        raise ValueError(f"weights of shape {list(given.shape)}: expected {count} finite numbers >= 0, not all 0")
    return given / given.mean()


def _groups(groups: ArrayLike | None, count: int) -> NDArray[np.int64]:
    given = np.arange(count) if groups is None else np.asarray(groups, dtype=np.int64)
    if given.shape != (count,) or len(np.unique(given)) < 2:
        raise ValueError(f"groups of shape {list(given.shape)}: expected {count} integers, at least two different ones")
    return given


def pearson(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson correlation of two `[N]` arrays; None for fewer than 3 pairs or where one does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Rank correlation of two `[N]` arrays, ties ranked at their mean; None as in `pearson`."""
    return pearson(_ranks(np.asarray(x)), _ranks(np.asarray(y)))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def agreement(
    predicted: ArrayLike | Tensor,
    measured: ArrayLike | Tensor,
    subset: Sequence[str] | NDArray[np.str_],
    names: Sequence[str],
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Pearson and Spearman correlation for each head, over all rows and within each subset.

    Args:
        predicted, measured: `[N, heads]`; rows where the measurement is NaN do not count.
        subset: N names; names: of the heads.

    Returns:
        {head: {"all" or subset: {"pearson", "spearman", "n"}}}.
    """
    ours, truth, part = np.asarray(predicted), np.asarray(measured), np.asarray(subset)
    table: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for column, name in enumerate(names):
        table[name] = {}
        for key in ("all", *sorted(set(part.tolist()))):
            rows = ~np.isnan(truth[:, column]) & ((part == key) | (key == "all"))
            x, y = ours[rows, column], truth[rows, column]
            table[name][key] = {"pearson": pearson(x, y), "spearman": spearman(x, y), "n": int(rows.sum())}
    return table
