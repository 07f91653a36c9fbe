"""How designs compare with natural promoters: pure functions on tokens, vectorised, the same numbers every time.

Spectra are float64 frequencies, distances are counts of bases. What is not defined (the diversity of one sequence, the
correlation with a constant) is NaN, and `evaluate` writes NaN as None, which is `null` in JSON.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...dna import one_hot, reverse_complement
from ..summaries import SCORES, summarise
from .statistics import checked, kmer_spectrum, pearson, reverse_complement_spectrum, spearman

if TYPE_CHECKING:
    from .reference import Reference

#: What each key of `evaluate` means, with its unit. Correlations and ceilings are pure numbers up to 1.
METRICS: dict[str, str] = {
    "n": "designs evaluated (count)",
    "unique": "distinct designs (count)",
    "diversity": "mean fraction of sites in which two designs differ (0 to 1)",
    "site_entropy_bits": "mean over sites of the entropy of the base (bits, at most 2)",
    "gc_median": "median fraction of G and C in a design (0 to 1)",
    "kmer3_correlation": "Pearson correlation of 3-mer frequencies with natural promoters, on the strand given",
    "kmer6_correlation": "the same for 6-mers",
    "kmer3_both_strands_correlation": "the same for 3-mers, each design counted on both strands",
    "kmer6_both_strands_correlation": "the same for 6-mers, each design counted on both strands",
    "motif_correlation": "Spearman correlation of mean JASPAR motif counts with natural promoters",
    "kmer3_ceiling": "kmer3_correlation of as many natural promoters: what n designs can be expected to reach",
    "kmer6_ceiling": "kmer6_correlation of as many natural promoters",
    "kmer3_both_strands_ceiling": "kmer3_both_strands_correlation of as many natural promoters",
    "kmer6_both_strands_ceiling": "kmer6_both_strands_correlation of as many natural promoters",
    "motif_ceiling": "motif_correlation of as many natural promoters",
    "nearest_hamming_median": "median distance to the nearest natural promoter, either strand; 0 for those themselves (bases)",
    "nearest_hamming_min": "smallest such distance (bases); 0 means that a natural promoter was copied",
    "nearest_identity_median": "median fraction of bases shared with the nearest natural promoter (0 to 1)",
    **SCORES,
}


class Neighbours(NamedTuple):
    """The nearest natural promoter of each design."""

    distance: Tensor  # int64 [B], Hamming distance in bases
    identity: Tensor  # float64 [B], 1 - distance / L
    row: Tensor  # int64 [B], row of `reference.tokens` and of `reference.genes`


def kmer_correlation(tokens: Tensor, reference: Reference, k: int = 3, both_strands: bool = False) -> float:
    """Pearson correlation of the k-mer frequencies of `tokens` int64 [B, L] with natural ones (as in DRAKES, 2024).

    `both_strands`: compare spectra in which every sequence counts on both strands. A model trained on reverse
    complements too draws either strand: the one-stranded correlation then stops at about 0.94 however good the model.
    Raises: ValueError for a k that the reference has no spectrum of.
    """
    natural, ours = reference.spectrum(k), kmer_spectrum(tokens, k)
    if both_strands:
        natural, ours = (s + reverse_complement_spectrum(s) for s in (natural, ours))
    return pearson(ours, natural)


def motif_correlation(tokens: Tensor, reference: Reference) -> float:
    """Spearman correlation over motifs of the mean hits per sequence in `tokens` int64 [B, L] with natural promoters.

    NaN where the reference holds no motifs or the designs hold none of them.
    """
    return _motif_correlation(reference.motif_hits(checked(tokens)), reference)


def _motif_correlation(hits: Tensor, reference: Reference) -> float:
    """The same from hits int64 [B, M]."""
    return spearman(hits.double().mean(0), reference.motif_rate) if reference.motifs else math.nan


def nearest_neighbour(tokens: Tensor, reference: Reference, chunk: int = 1024) -> Neighbours:
    """The natural promoter with the fewest differences from each of `tokens` int64 [B, L], read on either strand.

    No shifts: position against position. One matrix product of one-hot rows per `chunk` of designs counts the matches.
    Raises: ValueError if L is not the length of the reference.
    """
    tokens = checked(tokens)
    length = tokens.shape[1]
    if length != reference.tokens.shape[1]:
        raise ValueError(
            f"designs have {length} bases, the reference {reference.tokens.shape[1]}: build one with Reference.build"
        )
    strands = torch.cat([reference.tokens, reverse_complement(reference.tokens)])
    bank = _flat(strands).T
    matches, rows = zip(*((_flat(part) @ bank).max(1) for part in tokens.split(chunk)), strict=True)
    distance = length - torch.cat(matches).round().long()
    return Neighbours(distance, 1 - distance.double() / length, torch.cat(rows) % len(reference.tokens))


def _flat(tokens: Tensor) -> Tensor:
    """One-hot float32 [B, 4 L]: a product of two such rows counts matches, exactly."""
    return one_hot(tokens, torch.float32).flatten(1)


def site_counts(tokens: Tensor) -> Tensor:
    """How many sequences have each base at each site: float64 [L, 4]."""
    return one_hot(checked(tokens), torch.float64).sum(0)


def diversity(tokens: Tensor) -> float:
    """Mean over pairs of the fraction of sites that differ, of `tokens` int64 [B, L]; NaN for one sequence.

    Counted per site, so it costs O(B L): a site with n_a copies of base a agrees in sum_a n_a (n_a - 1) ordered pairs.
    """
    n, counts = len(tokens), site_counts(tokens)
    if n < 2:
        return math.nan
    agree = (counts * (counts - 1)).sum(1) / (n * (n - 1))
    return float(1 - agree.mean())


def unique_count(tokens: Tensor) -> int:
    """Distinct sequences among `tokens` int64 [B, L]."""
    return len(checked(tokens).unique(dim=0))


def gc_content(tokens: Tensor) -> Tensor:
    """Fraction of G and C, float64 [B], of `tokens` int64 [B, L]."""
    tokens = checked(tokens)
    return ((tokens == 1) | (tokens == 2)).double().mean(1)


def site_entropy(tokens: Tensor) -> Tensor:
    """Entropy of the base at each site, float64 [L] in bits (0: fixed, 2: uniform)."""
    return torch.special.entr(site_counts(tokens) / len(tokens)).sum(1) / math.log(2)


def correlations(tokens: Tensor, reference: Reference) -> dict[str, float]:
    """All correlations of `tokens` int64 [B, L] with natural promoters; NaN for k-mers longer than a sequence."""
    return _correlations(checked(tokens), reference.motif_hits(tokens), reference)


@lru_cache(maxsize=16)
def ceilings(n: int, reference: Reference) -> dict[str, float]:
    """`correlations` that `n` >= 1 natural promoters reach themselves: few sequences cannot fill 4^6 bins evenly.

    Mean over up to 16 draws of n genes from the reference by a fixed seed; all genes where n is larger than that.
    """
    draws, generator = max(1, min(16, 512 // n)), torch.Generator().manual_seed(0)
    rows = [torch.randperm(len(reference.genes), generator=generator)[:n] for _ in range(draws)]
    natural = reference.tokens[torch.cat(rows)]
    parts = zip(natural.chunk(draws), reference.motif_hits(natural).chunk(draws), strict=True)
    found = [_correlations(tokens, hits, reference) for tokens, hits in parts]
    return {name: sum(each[name] for each in found) / draws for name in found[0]}


def _correlations(tokens: Tensor, hits: Tensor, reference: Reference) -> dict[str, float]:
    found = {"motif": _motif_correlation(hits, reference)}
    for k in (3, 6):
        known = k <= min(tokens.shape[1], reference.tokens.shape[1])
        for name, both in (("", False), ("_both_strands", True)):
            found[f"kmer{k}{name}"] = kmer_correlation(tokens, reference, k, both) if known else math.nan
    return found


def evaluate(
    tokens: Tensor,
    reference: Reference,
    reward: Tensor | None = None,
    heldout: Tensor | None = None,
    nelbo: Tensor | None = None,
) -> dict[str, float | int | None]:
    """Everything about designs `tokens` int64 [B, L], flat, ready for JSON; `METRICS` tells what each key means.

    `reward`, `heldout` [B] in the oracles' own units, `nelbo` [B] in nats per base; what is not given has no keys.
    Undefined numbers are None: neighbours for another length than the reference's, k-mers longer than a design.
    Raises: DnaError for unfinished sequences; ValueError for a score that is not [B].
    """
    scores = summarise(len(tokens), reward, heldout, nelbo)
    report: dict[str, float | int] = _composition(tokens) | _nearest(tokens, reference)
    report |= {f"{name}_correlation": value for name, value in correlations(tokens, reference).items()}
    report |= {f"{name}_ceiling": value for name, value in ceilings(len(tokens), reference).items()}
    report |= scores
    return {key: value if math.isfinite(value) else None for key, value in report.items()}


def _composition(tokens: Tensor) -> dict[str, float | int]:
    return {
        "n": len(checked(tokens)),
        "unique": unique_count(tokens),
        "diversity": diversity(tokens),
        "site_entropy_bits": float(site_entropy(tokens).mean()),
        "gc_median": float(gc_content(tokens).quantile(0.5)),
    }


def _nearest(tokens: Tensor, reference: Reference) -> dict[str, float | int]:
    if tokens.shape[1] != reference.tokens.shape[1]:
        return dict.fromkeys(("nearest_hamming_median", "nearest_hamming_min", "nearest_identity_median"), math.nan)
    near = nearest_neighbour(tokens, reference)
    return {
        "nearest_hamming_median": float(near.distance.double().quantile(0.5)),
        "nearest_hamming_min": int(near.distance.min()),
        "nearest_identity_median": float(near.identity.quantile(0.5)),
    }
