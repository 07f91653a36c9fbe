"""How designed molecules compare with natural ones: functions of SMILES, the same numbers every time.

What is not defined (the diversity of one molecule) is NaN, and `evaluate` writes NaN as None, which is `null` in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...molecules import PAD, decode
from ..summaries import SCORES, summarise
from . import fcd
from .properties import ALERTS, DESCRIPTORS, Properties, properties, similarities

if TYPE_CHECKING:
    from .reference import Reference

CIRCLE = 0.75  # Tanimoto distance that molecules of `circles` keep from one another (Xie et al. 2023)

#: What each key of `evaluate` means, with its unit.
METRICS: dict[str, str] = {
    "n": "designs evaluated (count)",
    "validity": "share of the designs that rdkit accepts and that are not empty (0 to 1)",
    "unique": "distinct designs by canonical SMILES, all that are not valid counting as one (count)",
    "uniqueness": "distinct among the valid designs (0 to 1)",
    "novelty": "share of the distinct valid designs that the prior was not trained on (0 to 1), by a Bloom filter, which takes "
    "a new molecule for a known one about 3 times in 1000",
    "diversity": "mean Tanimoto distance of two distinct designs by Morgan fingerprints of radius 2, 2048 bits (0 to 1)",
    "scaffolds": "distinct Bemis-Murcko scaffolds (count)",
    "circles": f"largest set, found greedily, of designs that are all {CIRCLE} or more apart by Tanimoto distance (count)",
    "alert_free": "share of the distinct valid designs in which neither PAINS nor BRENK finds a structural alert (0 to 1)",
    **{f"{name.lower()}_free": f"the same for {name} alone" for name in ALERTS},
    "words_median": "median number of SELFIES words of a design (count)",
    **{f"{name}_median": f"median over the valid designs: {meaning}" for name, meaning in DESCRIPTORS.items()},
    **{
        f"{name}_distance": f"distance of the distribution of {name} from that of natural molecules: Wasserstein-1 in natural "
        "standard deviations"
        for name in DESCRIPTORS
    },
    "fcd": "Frechet ChemNet distance of the valid designs from natural molecules (Preuer et al. 2018; 0: the same), if "
    "tiltflow[fcd] is installed; it falls with the number of designs, so compare sets of one size",
    "descriptor_distance": f"mean of these over the {len(DESCRIPTORS)} descriptors (natural standard deviations)",
    **SCORES,
}


def evaluate(
    tokens: Tensor,
    reference: Reference,
    reward: Tensor | None = None,
    heldout: Tensor | None = None,
    nelbo: Tensor | None = None,
) -> dict[str, float | int | None]:
    """Everything about designs `tokens` int64 [B, L], flat, ready for JSON; `METRICS` tells what each key means.

    `reward`, `heldout` [B] in the oracles' own units, `nelbo` [B] in nats per token; what is not given has no keys.

    Raises:
        MoleculeError: unfinished molecules. ValueError: a score that is not [B].
    """
    scores = summarise(len(tokens), reward, heldout, nelbo)
    smiles = decode(tokens)
    valid = [text for text in smiles if text]
    distinct = list(dict.fromkeys(valid))
    found = {text: properties(text) for text in distinct}
    report: dict[str, float | int] = {
        "n": len(smiles),
        "validity": len(valid) / max(1, len(smiles)),
        "unique": len(set(smiles)),
        "uniqueness": len(distinct) / len(valid) if valid else math.nan,
        "novelty": novelty(distinct, reference),
        "words_median": float((tokens != PAD).sum(1).double().quantile(0.5)) if len(tokens) else math.nan,
    }
    report |= _variety(list(found.values())) | _alerts(list(found.values()))
    report |= _descriptors([found[text] for text in valid], reference) | _chemnet(valid, reference) | scores
    return {key: value if math.isfinite(value) else None for key, value in report.items()}


def _chemnet(valid: Sequence[str], reference: Reference) -> dict[str, float]:
    """The Frechet ChemNet distance, where what it needs is installed."""
    return {"fcd": fcd.distance(valid, reference.chemnet)} if fcd.available() else {}


def novelty(distinct: Sequence[str], reference: Reference) -> float:
    """Share of canonical SMILES that are not among the training molecules; NaN where these are not known."""
    if reference.known is None or not distinct:
        return math.nan
    return sum(text not in reference.known for text in distinct) / len(distinct)


def diversity(molecules: Sequence[Properties]) -> float:
    """Mean Tanimoto distance over pairs; NaN for fewer than two molecules."""
    n = len(molecules)
    if n < 2:
        return math.nan
    return 1 - float((similarities(molecules, molecules).sum() - n) / (n * (n - 1)))


def circles(molecules: Sequence[Properties], apart: float = CIRCLE) -> int:
    """#Circles (Xie et al. 2023): molecules, in their order, that are at least `apart` from all that were taken before.

    A greedy count, which is a lower bound of the largest such set.
    """
    alike = similarities(molecules, molecules)
    taken: list[int] = []
    for row in range(len(molecules)):
        if not (1 - alike[row, taken] < apart).any():
            taken.append(row)
    return len(taken)


def wasserstein(ours: NDArray[np.float64], natural: NDArray[np.float64]) -> float:
    """Wasserstein-1 distance of two samples [A] and [B]: the area between their distribution functions."""
    every = np.sort(np.concatenate([ours, natural]))
    below = [np.searchsorted(np.sort(each), every[:-1], side="right") / len(each) for each in (ours, natural)]
    return float(np.sum(np.abs(below[0] - below[1]) * np.diff(every)))


def _variety(molecules: Sequence[Properties]) -> dict[str, float | int]:
    return {
        "diversity": diversity(molecules),
        "scaffolds": len({each.scaffold for each in molecules if each.scaffold}),
        "circles": circles(molecules),
    }


def _alerts(molecules: Sequence[Properties]) -> dict[str, float | int]:
    if not molecules:
        return {}
    free = {f"{name.lower()}_free": sum(name not in each.alerts for each in molecules) for name in ALERTS}
    free["alert_free"] = sum(not each.alerts for each in molecules)
    return {name: count / len(molecules) for name, count in free.items()}


def _descriptors(molecules: Sequence[Properties], reference: Reference) -> dict[str, float | int]:
    if not molecules:
        return {}
    ours, natural = np.stack([each.descriptors for each in molecules]), reference.descriptors.double().numpy()
    report: dict[str, float | int] = {}
    for column, name in enumerate(DESCRIPTORS):
        spread = float(natural[:, column].std()) or 1.0
        report[f"{name}_median"] = float(np.median(ours[:, column]))
        report[f"{name}_distance"] = wasserstein(ours[:, column], natural[:, column]) / spread
    report["descriptor_distance"] = sum(report[f"{name}_distance"] for name in DESCRIPTORS) / len(DESCRIPTORS)
    return report
