"""Counting words in sequences and comparing the counts: what `reference` and `metrics` both stand on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...dna import MASK, DnaError


def checked(tokens: Tensor) -> Tensor:
    """`tokens` int64 [B, L] on the CPU, once it is sure to hold finished sequences.

    Raises: DnaError for another shape or dtype, no sequence at all, or a token that is not a base.
    """
    if tokens.ndim != 2 or tokens.dtype != torch.int64 or tokens.numel() == 0:
        raise DnaError(f"{tokens.dtype} {list(tokens.shape)}: expected int64 tokens [B, L], B and L at least 1")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= MASK:
        hint = "; 4 is the mask: metrics need finished sequences" if high == MASK else ""
        raise DnaError(f"tokens between {low} and {high}: expected 0 to 3 (ACGT){hint}")
    return tokens.cpu()


def kmer_spectrum(tokens: Tensor, k: int, weights: Tensor | None = None) -> Tensor:
    """Frequencies of all k-mers, float64 [4^k] summing to 1, of `tokens` int64 [B, L]; AA..A first, TT..T last.

    `weights` [B]: how much each sequence counts (default: all alike). Overlapping k-mers, on the strand given.
    Raises: ValueError for tokens that are not finished sequences, or shorter than k.
    """
    tokens = checked(tokens)
    length = tokens.shape[1]
    if not 1 <= k <= min(length, 12):
        raise ValueError(f"k must be between 1 and {min(length, 12)} for sequences of {length} bases, got {k}")
    windows = length - k + 1
    code = torch.zeros(len(tokens), windows, dtype=torch.int64)
    for offset in range(k):
        code = 4 * code + tokens[:, offset : offset + windows]
    each = torch.ones(len(tokens)) if weights is None else weights.cpu()
    spread = each.double()[:, None].expand(-1, windows).reshape(-1)
    counts = torch.bincount(code.reshape(-1), weights=spread, minlength=4**k)
    return counts / counts.sum()


def reverse_complement_spectrum(spectrum: Tensor) -> Tensor:
    """The spectrum [4^k] of the other strand, without looking at a sequence again."""
    k = round(math.log(len(spectrum), 4))
    letters = spectrum.reshape([4] * k)  # one axis per letter: complement each axis, then read them backwards
    return letters.flip(list(range(k))).permute(*reversed(range(k))).reshape(-1)


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two vectors [n]; NaN if either is constant or holds a NaN."""
    a, b = a.double().cpu(), b.double().cpu()
    # A constant vector may keep rounding dust after centring; a correlation with dust is no correlation.
    return math.nan if _dust(a) or _dust(b) else float(_centred(a) @ _centred(b))


def _dust(a: Tensor) -> bool:
    return bool((a - a.mean()).abs().max() <= 1e-12 * a.abs().max())


def _centred(a: Tensor) -> Tensor:
    """`a` minus its mean, at length 1."""
    return (a - a.mean()) / (a - a.mean()).norm()


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1, float64 [n], ties sharing their mean rank."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman correlation of two vectors [n] with mean ranks for ties; NaN if either is constant or holds a NaN."""
    if bool(a.isnan().any() or b.isnan().any()):
        return math.nan
    return pearson(ranks(a), ranks(b))
