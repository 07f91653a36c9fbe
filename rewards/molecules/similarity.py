"""Likeness to known molecules: Tanimoto coefficients of fingerprints.

For counts, sum_i min(a_i, b_i) / sum_i max(a_i, b_i); for bits, the same of 0 and 1 (Willett et al. 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from ...smiles import reference

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Fingerprint = Literal["ecfp4", "ecfp6", "fcfp4", "ap", "pharmacophore"]
FINGERPRINTS: dict[str, str] = {
    "ecfp4": "circular, radius 2, atoms by element, degree, charge (Rogers and Hahn 2010)",
    "ecfp6": "the same, radius 3",
    "fcfp4": "circular, radius 2, atoms by pharmacophoric feature",
    "ap": "atom pairs up to 10 bonds apart (Carhart et al. 1985)",
    "pharmacophore": "2-D pharmacophores (Gobbi and Poppinger 1998); bits, and slow: 0.1 to 1 s a molecule",
}
_BITS = 2048


@dataclass(frozen=True)
class Similarity:
    """Tanimoto similarity to leads, 0 to 1; with several, to the nearest ("max"), on average, or to the farthest ("min").

    Args:
        leads: SMILES, one or several.
        fingerprint: see `FINGERPRINTS`.
        counts: compare how often each feature occurs, unfolded; otherwise 2 048 bits.
        reduce: how similarities to several leads become one number.

    Raises:
        MoleculeError: a lead that is no molecule.
        ValueError: no lead, or an unknown fingerprint or `reduce`.
    """

    leads: str | Sequence[str]
    fingerprint: Fingerprint = "ecfp4"
    counts: bool = True
    reduce: Literal["max", "mean", "min"] = "max"

    def __post_init__(self) -> None:
        leads = (self.leads,) if isinstance(self.leads, str) else tuple(self.leads)
        object.__setattr__(self, "leads", leads)
        if not leads:
            raise ValueError("no lead given; expected SMILES, such as leads=[CC(=O)Oc1ccccc1C(=O)O]")
        if self.fingerprint not in FINGERPRINTS:
            raise ValueError(f"fingerprint {self.fingerprint!r}: choose one of {', '.join(FINGERPRINTS)}")
        if self.reduce not in _REDUCE:
            raise ValueError(f"reduce {self.reduce!r}: expected 'max', 'mean' or 'min'")
        for lead in leads:
            reference(lead)

    def __call__(self, mol: Mol) -> float:
        from rdkit.DataStructs import TanimotoSimilarity

        own = fingerprint(mol, self.fingerprint, self.counts)
        theirs = (_lead(lead, self.fingerprint, self.counts) for lead in self.leads)
        return _REDUCE[self.reduce]([TanimotoSimilarity(own, their) for their in theirs])

    @property
    def name(self) -> str:
        """In reports."""
        return f"{self.fingerprint} similarity"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


_REDUCE: dict[str, Callable[[list[float]], float]] = {"max": max, "mean": _mean, "min": min}


def fingerprint(mol: Mol, kind: str, counts: bool = True) -> Any:
    """rdkit fingerprint of a molecule: sparse counts, or bits."""
    if kind == "pharmacophore":
        return _pharmacophores(mol)
    generator = _generator(kind)
    return generator.GetSparseCountFingerprint(mol) if counts else generator.GetFingerprint(mol)


@lru_cache(maxsize=256)
def _lead(smiles: str, kind: str, counts: bool) -> Any:
    return fingerprint(reference(smiles), kind, counts)


@cache
def _generator(kind: str) -> Any:
    from rdkit.Chem import rdFingerprintGenerator as made

    if kind == "ap":
        return made.GetAtomPairGenerator(maxDistance=10, fpSize=_BITS)
    features = {"atomInvariantsGenerator": made.GetMorganFeatureAtomInvGen()} if kind == "fcfp4" else {}
    return made.GetMorganGenerator(radius=3 if kind == "ecfp6" else 2, fpSize=_BITS, **features)


def _pharmacophores(mol: Mol) -> Any:
    from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

    return Generate.Gen2DFingerprint(mol, Gobbi_Pharm2D.factory)
