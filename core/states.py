"""Small facts about state tensors that many parts need: discrete int64 `[B, L]`, relaxed float `[B, L, K + 1]`."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

T = TypeVar("T")


def one_hot(x: Tensor, classes: int, dtype: torch.dtype | None = None) -> Tensor:
    """int64 `[..., L]` -> float `[..., L, classes]` (the default dtype unless given)."""
    return torch.nn.functional.one_hot(x, classes).to(dtype or torch.get_default_dtype())


def safe_log(probs: Tensor) -> Tensor:
    """log of probabilities, -inf at 0 with a gradient of zero there (that of a plain log is NaN)."""
    positive = probs > 0
    return torch.where(positive, probs, 1.0).log().masked_fill(~positive, -math.inf)


def log_normalise(logits: Tensor) -> Tensor:
    """log softmax over the last dimension.

    The kernel is several times slower along a last dimension of a few entries than along the first, so short alphabets
    are turned round for it.
    """
    if logits.shape[-1] > 16:
        return logits.log_softmax(-1)
    return logits.movedim(-1, 0).contiguous().log_softmax(0).movedim(0, -1).contiguous()


def is_discrete(x: Tensor) -> bool:
    """Integer tokens rather than a relaxed or continuous state."""
    return not x.dtype.is_floating_point


def per_sample(t: float | Tensor, x: Tensor) -> Tensor:
    """Time as a float `[B]` tensor on x's device, from a number, a 0-d tensor or `[B]`.

    Raises:
        ValueError: a time tensor whose shape is neither [] nor [B].
    """
    dtype = x.dtype if x.dtype.is_floating_point else torch.get_default_dtype()
    time = torch.as_tensor(t, dtype=dtype, device=x.device)
    if time.ndim == 0:
        return time.expand(len(x))
    if time.shape != x.shape[:1]:
        raise ValueError(f"Time has shape {tuple(time.shape)}; expected a number or [{len(x)}], one per sample.")
    return time


def to_sites(values: Tensor, x: Tensor) -> Tensor:
    """`[B]` -> `[B, 1, ...]`, broadcastable over the sites of x."""
    return values.reshape(-1, *([1] * (x.ndim - 1)))


def index_tree(tree: T, index: Tensor | slice) -> T:
    """Index the leading dimension of every tensor in a tree (dict, tuple, dataclass or None)."""
    return apply_to_collection(tree, Tensor, lambda leaf: leaf[index])


def rows_of(cond: Any) -> int:
    """The largest leading dimension in a tree of tensors; 1 for None."""
    rows: list[int] = [1]
    apply_to_collection(cond, Tensor, lambda leaf: rows.append(len(leaf)))
    return max(rows)


def match_rows(cond: Any, rows: int) -> Any:
    """Expand or repeat the condition so that every leaf has `rows` leading entries.

    A leaf with 1 row is shared; one with n rows, n dividing `rows`, gives row i to the i-th block of rows / n samples.

    Raises:
        ValueError: the number of rows of a leaf does not divide `rows`.
    """

    def fit(leaf: Tensor) -> Tensor:
        if leaf.ndim == 0 or rows % len(leaf):
            raise ValueError(
                f"A condition has shape {tuple(leaf.shape)}; its first dimension must divide {rows} samples."
            )
        return leaf.repeat_interleave(rows // len(leaf), dim=0)

    return apply_to_collection(cond, Tensor, fit)


def unique_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows of a discrete state.

    Args:
        x: int64 `[B, L]`.

    Returns:
        first: `[U]`, the index of one representative of each distinct row, and
        inverse: `[B]`, so that `x[first][inverse]` equals x.
    """
    # A random linear hash makes this one 1-D sort; a lexicographic sort of rows is many times slower. The result is
    # verified, so that a collision (odds 2^-64 a pair) costs time and never correctness.
    keys = (x * _hash_weights(x.shape[1]).to(x.device)).sum(1)
    values, inverse = torch.unique(keys, return_inverse=True)
    first = _first_of(inverse, len(values))
    if not torch.equal(x[first][inverse], x):
        rows, inverse = torch.unique(x, dim=0, return_inverse=True)
        first = _first_of(inverse, len(rows))
    return first, inverse


@lru_cache(maxsize=16)
def _hash_weights(length: int) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (length,), generator=torch.Generator().manual_seed(0))


def _first_of(inverse: Tensor, groups: int) -> Tensor:
    positions = torch.arange(len(inverse), device=inverse.device)
    return torch.full((groups,), len(inverse), device=inverse.device).scatter_reduce(0, inverse, positions, "amin")
