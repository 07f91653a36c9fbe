"""Ridge regression on k-mer counts: the plain, closed-form judge of designs that another model was optimised for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ..core.storage import save_tensors
from ..dna import ALPHABET, DnaError
from .labelled import Labelled, Predicted, head, labelled

STRENGTHS = (30.0, 100.0, 300.0, 1000.0, 3000.0)
_FOLDS = 3


class KmerRidge(nn.Module):
    """Linear in the counts of all words of the lengths `ks`; int64 `[B, L]` -> float64 `[B, heads]`, any L >= max(ks).

    Stored as one table per k: the prediction of a sequence is the sum of the entries of its words.

    Args:
        tables: for each k a float `[4^k, heads]`; offset: `[heads]`; names: of the heads; facts: JSON-ready, kept in files.
    """

    kind: ClassVar[str] = "k-mer ridge"
    takes: ClassVar[str] = "tokens"
    differentiable: ClassVar[bool] = False
    alphabet: ClassVar[str | None] = ALPHABET

    def __init__(
        self, tables: Mapping[int, Tensor], offset: Tensor, names: Sequence[str], facts: Mapping[str, Any] | None = None
    ):
        super().__init__()
        self.ks, self.names, self.facts = tuple(sorted(tables)), tuple(names), dict(facts or {})
        for k in self.ks:
            self.register_buffer(f"words{k}", tables[k].float())
        self.register_buffer("offset", offset.double())

    offset: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Raises DnaError for input that is not int64 `[B, L]` over 0..3 (it cannot read relaxed sequences)."""
        if x.is_floating_point() or x.dim() != 2 or bool(((x < 0) | (x >= 4)).any()):
            raise DnaError(
                f"{x.dtype} tensor of shape {list(x.shape)}: a k-mer ridge reads finished sequences, int64 [B, L] over 0..3"
            )
        if x.shape[1] < self.ks[-1]:
            raise DnaError(f"sequences of length {x.shape[1]}: a ridge on {self.ks[-1]}-mers needs that many letters")
        words = sum(self.get_buffer(f"words{k}")[kmers(x, k)].double().sum(1) for k in self.ks)
        return self.offset + words

    def reward(self, name: str | None = None) -> Predicted:
        """One head as a reward."""
        return head(self, name)

    def save(self, path: str | Path) -> None:
        """Write safetensors with the names, ks and facts in the header."""
        save_tensors(path, self.state_dict(), {"kind": self.kind, "names": list(self.names), "facts": self.facts})

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> KmerRidge:
        """From what `save` wrote. Raises KeyError or ValueError where something is missing or does not fit."""
        tables = {int(name.removeprefix("words")): table for name, table in tensors.items() if name != "offset"}
        offset, names = tensors["offset"], metadata["names"]
        if not tables or any(table.shape != (4**k, len(names)) for k, table in tables.items()):
            raise ValueError("tables of another shape than [4^k, heads]")
        if offset.shape != (len(names),):
            raise ValueError(f"{list(offset.shape)} offsets for {len(names)} heads")
        return cls(tables, offset, names, metadata.get("facts", {}))


def kmers(x: Tensor, k: int) -> Tensor:
    """Number in base 4 of the word of k letters at each position: int64 `[B, L] -> [B, L - k + 1]`."""
    base = 4 ** torch.arange(k - 1, -1, -1, device=x.device)
    return (x.unfold(1, k, 1) * base).sum(-1)


def kmer_counts(x: Tensor, ks: Sequence[int]) -> Tensor:
    """How often each word occurs: float32 `[B, sum of 4^k]`, blocks in the order of `ks`."""
    blocks = []
    for k in ks:
        words = kmers(x, k)
        blocks.append(torch.zeros(len(x), 4**k).scatter_add_(1, words, torch.ones(words.shape)))
    return torch.cat(blocks, 1)


def fit_kmer_ridge(
    tokens: Tensor,
    labels: ArrayLike | Tensor,
    ks: Sequence[int] = (5, 6),
    *,
    names: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    weights: ArrayLike | Tensor | None = None,
    groups: ArrayLike | None = None,
    generator: torch.Generator,
) -> KmerRidge:
    """Least squares on k-mer counts with an L2 penalty, each head by itself on the rows that have its label.

    The penalty is the one of `strengths` with the least squared error over 3 folds that keep `groups` together. Counts
    are held whole: 20 kB a row for 5- and 6-mers, so up to about 50 000 rows.

    Args:
        tokens: int64 `[N, L]`; labels: `[N]` or `[N, heads]`, NaN where missing; names, weights, groups: see `labelled`.

    Raises:
        DnaError, ValueError: see `labelled`; or a k longer than the sequences, above 8, or given twice.
    """
    data = labelled(tokens, labels, names, weights, groups)
    if not ks or len(set(ks)) != len(ks) or not all(1 <= k <= min(8, data.tokens.shape[1]) for k in ks):
        raise ValueError(f"ks={tuple(ks)}: expected distinct word lengths between 1 and {min(8, data.tokens.shape[1])}")
    counts, folds = kmer_counts(data.tokens, ks), data.folds(_FOLDS, generator)
    fits = [_fit_head(counts, data, column, folds, strengths) for column in range(len(data.names))]
    coefficients = torch.stack([fit[0] for fit in fits], 1)
    tables = dict(zip(ks, coefficients.split([4**k for k in ks]), strict=True))
    facts = {"penalty": {name: fit[2] for name, fit in zip(data.names, fits, strict=True)}}
    return KmerRidge(tables, torch.stack([fit[1] for fit in fits]), data.names, facts)


def _fit_head(
    counts: Tensor, data: Labelled, column: int, folds: np.ndarray, strengths: Sequence[float]
) -> tuple[Tensor, Tensor, float]:
    """Coefficients `[P]`, offset [] and penalty of one head."""
    label = data.labels[:, column]
    known = ~label.isnan()
    errors = torch.zeros(len(strengths), dtype=torch.float64)
    for fold in range(_FOLDS):
        away = torch.from_numpy(folds == fold)
        train, test = known & ~away, known & away
        coefficients, offsets = _solve(counts[train], label[train], data.weights[train], strengths)
        missed = counts[test].double() @ coefficients + offsets - label[test, None]
        errors += (data.weights[test, None] * missed**2).sum(0)
    best = strengths[int(errors.argmin())]
    coefficients, offsets = _solve(counts[known], label[known], data.weights[known], [best])
    return coefficients[:, 0], offsets[0], best


def _solve(counts: Tensor, label: Tensor, weight: Tensor, strengths: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Ridge with a free offset: coefficients float64 `[P, S]` and offsets `[S]`, by the smaller of the two normal equations.

    Raises ValueError when a fold has no weight.
    """
    if not float(weight.sum()) > 0:
        raise ValueError("a fold without labelled rows of positive weight: give more rows or fewer large groups")
    share = weight / weight.sum()
    centre, level = share @ counts.double(), share @ label
    root = weight.sqrt()
    features, target = (counts - centre.float()) * root.float()[:, None], root * (label - level)
    wide = features.shape[0] < features.shape[1]
    gram = (features @ features.T if wide else features.T @ features).double()
    right = target if wide else features.double().T @ target
    columns = []
    for strength in strengths:
        shifted = gram.clone()
        shifted.diagonal().add_(strength)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if bool(failed):
            raise ValueError(
                f"strength {strength} is too small for these counts (singular equations): give a larger one"
            )
        solution = torch.cholesky_solve(right[:, None], factor)
        columns.append((features.double().T @ solution if wide else solution)[:, 0])
    coefficients = torch.stack(columns, 1)
    return coefficients, level - centre @ coefficients
