"""What a molecule must or must not contain. As hard rules they give 0 where they hold and -inf, never, where not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ...smiles import MoleculeError, pattern, reference

if TYPE_CHECKING:
    from rdkit.Chem import Mol

CATALOGS = {
    "PAINS": "frequent hitters of assays (Baell and Holloway 2010)",
    "BRENK": "unwanted in screening libraries (Brenk et al. 2008)",
    "NIH": "reactive groups (Jadhav et al. 2010, Doveston et al. 2015)",
}


@dataclass(frozen=True)
class HasPattern:
    """1 where the molecule contains a SMARTS pattern, else 0."""

    smarts: str

    def __post_init__(self) -> None:
        pattern(self.smarts)

    def __call__(self, mol: Mol) -> float:
        return float(mol.HasSubstructMatch(pattern(self.smarts)))


@dataclass(frozen=True)
class Smarts:
    """0 where every pattern of `must` and none of `forbid` occurs, -inf elsewhere.

    Raises:
        MoleculeError: not a SMARTS pattern.
        ValueError: no pattern at all.
    """

    must: Sequence[str] = ()
    forbid: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("must", "forbid"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if not (self.must or self.forbid):
            raise ValueError("no pattern given; expected SMARTS in must=[...] or forbid=[...]")
        for smarts in (*self.must, *self.forbid):
            pattern(smarts)

    def __call__(self, mol: Mol) -> float:
        holds = all(mol.HasSubstructMatch(pattern(smarts)) for smarts in self.must)
        return _rule(holds and not any(mol.HasSubstructMatch(pattern(smarts)) for smarts in self.forbid))


@dataclass(frozen=True)
class ScaffoldLock:
    """0 where the Bemis-Murcko scaffold equals that of a lead, -inf elsewhere (Bemis and Murcko 1996).

    Args:
        lead: SMILES of a molecule with a ring; stereochemistry does not count.
        generic: compare with every atom made carbon and every bond single, that is, the shape of the rings alone.

    Raises:
        MoleculeError: no molecule, or one without rings.
    """

    lead: str
    generic: bool = False

    def __post_init__(self) -> None:
        if not scaffold(reference(self.lead), self.generic):
            raise MoleculeError(f"{self.lead!r} has no ring, and so no scaffold to lock; use Smarts(must=[...])")

    def __call__(self, mol: Mol) -> float:
        return _rule(scaffold(mol, self.generic) == scaffold(reference(self.lead), self.generic))


@dataclass(frozen=True)
class Alerts:
    """Number of structural alerts; as a rule (`hard`), 0 where there is none and -inf elsewhere.

    Args:
        catalogs: of `CATALOGS`, as rdkit ships them.
        hard: a rule instead of a count.

    Raises:
        ValueError: no or an unknown catalog.
    """

    catalogs: Sequence[str] = ("PAINS", "BRENK")
    hard: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "catalogs", (self.catalogs,) if isinstance(self.catalogs, str) else tuple(self.catalogs)
        )
        unknown = sorted(set(self.catalogs) - set(CATALOGS))
        if unknown or not self.catalogs:
            came = ", ".join(unknown) or "none"
            raise ValueError(f"catalogs {came}: choose of {', '.join(CATALOGS)}")

    def __call__(self, mol: Mol) -> float:
        found = len(self.names(mol))
        return _rule(found == 0) if self.hard else float(found)

    def names(self, mol: Mol) -> list[str]:
        """Which alerts a molecule raises, for reports."""
        return [
            f"{entry.GetProp('FilterSet')}: {entry.GetDescription()}"
            for entry in _filters(self.catalogs).GetMatches(mol)
        ]


@dataclass(frozen=True)
class Formula:
    """Number of atoms of an element, hydrogens included; "*" counts all atoms."""

    element: str

    def __call__(self, mol: Mol) -> float:
        hydrogens = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
        if self.element == "*":
            return float(mol.GetNumAtoms() + hydrogens)
        explicit = sum(atom.GetSymbol() == self.element for atom in mol.GetAtoms())
        return float(explicit + (hydrogens if self.element == "H" else 0))


def scaffold(mol: Mol, generic: bool = False) -> str:
    """Canonical SMILES of the Bemis-Murcko scaffold without stereochemistry; empty for a molecule without rings."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    core = MurckoScaffold.GetScaffoldForMol(mol)
    if generic:
        core = MurckoScaffold.MakeScaffoldGeneric(core)
    return str(Chem.MolToSmiles(core, isomericSmiles=False))


@cache
def _filters(catalogs: tuple[str, ...]) -> Any:
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    params = FilterCatalogParams()
    for name in catalogs:
        params.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
    return FilterCatalog(params)


def _rule(holds: bool) -> float:
    return 0.0 if holds else -math.inf
