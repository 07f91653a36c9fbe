"""What is computed from one molecule: descriptors, fingerprint, scaffold, structural alerts. Remembered by SMILES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...smiles import molecule, quiet
from .data import scaffold_of

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: The descriptors in the order of `Properties.descriptors`: what each means, with its unit.
DESCRIPTORS: dict[str, str] = {
    "qed": "quantitative estimate of drug-likeness (Bickerton et al. 2012), 0 to 1",
    "logp": "octanol-water partition coefficient by Wildman & Crippen 1999 (log10)",
    "weight": "molecular weight (Da)",
    "tpsa": "topological polar surface area (square angstrom)",
    "donors": "hydrogen-bond donors (count)",
    "acceptors": "hydrogen-bond acceptors (count)",
    "rotatable": "rotatable bonds (count)",
    "rings": "rings (count)",
    "sp3": "fraction of carbons that are sp3 (0 to 1)",
}
ALERTS = ("PAINS", "BRENK")  # Baell & Holloway 2010; Brenk et al. 2008
BITS, RADIUS = 2048, 2  # of the Morgan fingerprint


@dataclass(frozen=True, eq=False)
class Properties:
    """One molecule.

    Attributes:
        descriptors: float64 `[D]`, in the order of `DESCRIPTORS`.
        fingerprint: uint8 `[BITS / 8]`, the packed Morgan fingerprint.
        scaffold: Bemis-Murcko scaffold; "" without rings.
        alerts: which of `ALERTS` find something in it.
    """

    descriptors: NDArray[np.float64]
    fingerprint: NDArray[np.uint8]
    scaffold: str
    alerts: tuple[str, ...]


@lru_cache(maxsize=20_000)
def properties(smiles: str) -> Properties:
    """All about one molecule; takes about twenty milliseconds, half of it for QED.

    Raises:
        MoleculeError: the SMILES is none.
    """
    with quiet():
        found = molecule(smiles)
        alerts = tuple(name for name in ALERTS if _catalog(name).HasMatch(found))
        return Properties(_descriptors(found), _fingerprint(found), scaffold_of(found), alerts)


def alert_names(smiles: str) -> list[str]:
    """Which structural alerts a molecule raises, such as "BRENK: michael_acceptor_1". Raises as `properties` does."""
    with quiet():
        found = molecule(smiles)
        return [f"{name}: {entry.GetDescription()}" for name in ALERTS for entry in _catalog(name).GetMatches(found)]


@lru_cache(maxsize=20_000)
def fingerprint(smiles: str) -> NDArray[np.uint8]:
    """uint8 `[BITS / 8]`, the packed Morgan fingerprint: what of `properties` takes no time. Raises as that does."""
    with quiet():
        return _fingerprint(molecule(smiles))


def _descriptors(found: Mol) -> NDArray[np.float64]:
    from rdkit.Chem import QED
    from rdkit.Chem import rdMolDescriptors as of

    values = (
        QED.qed(found),
        of.CalcCrippenDescriptors(found)[0],
        of._CalcMolWt(found),
        of.CalcTPSA(found),
        of.CalcNumHBD(found),
        of.CalcNumHBA(found),
        of.CalcNumRotatableBonds(found),
        of.CalcNumRings(found),
        of.CalcFractionCSP3(found),
    )
    return np.array(values, dtype=np.float64)


def _fingerprint(found: Mol) -> NDArray[np.uint8]:
    return np.packbits(_generator().GetFingerprintAsNumPy(found))


@cache
def _generator() -> Any:
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    return GetMorganGenerator(radius=RADIUS, fpSize=BITS)


@cache
def _catalog(name: str) -> Any:
    """rdkit's patterns of unwanted groups."""
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    chosen = FilterCatalogParams()
    chosen.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
    return FilterCatalog(chosen)


def similarities(first: Sequence[Properties], second: Sequence[Properties]) -> NDArray[np.float64]:
    """Tanimoto similarity of the Morgan fingerprints of every pair: `[A, B]`."""
    return tanimoto(_packed(first), _packed(second))


def tanimoto(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Tanimoto similarity of every pair of packed fingerprints `[A, BITS / 8]` and `[B, BITS / 8]`: `[A, B]`."""
    # Sums of up to 2048 ones are exact in float32.
    a, b = (np.unpackbits(each, axis=1).astype(np.float32) for each in (first, second))
    common = (a @ b.T).astype(np.float64)
    either = a.sum(1)[:, None] + b.sum(1)[None, :] - common
    return np.divide(common, either, out=np.ones_like(common), where=either > 0)


def _packed(molecules: Sequence[Properties]) -> NDArray[np.uint8]:
    """`[N, BITS / 8]`."""
    return np.stack([each.fingerprint for each in molecules]) if molecules else np.zeros((0, BITS // 8), np.uint8)
