"""Molecules as graphs that can be cut and changed: opening a SMILES, and closing a changed graph into one if it may be.

The rules for what may be are those of Jensen (Chemical Science 10:3567, 2019), as used in the PMO benchmark: more than 5
heavy atoms, and fewer than a size drawn from a normal law of mean 39.15 and deviation 3.50; no ring of more than 6 atoms, no
allene in a ring, no double bond in a ring of 3 or 4.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rdkit.Chem import Mol, RWMol

SMALLEST, MEAN_SIZE, SIZE_DEVIATION = 6, 39.15, 3.50  # heavy atoms
LARGEST_RING = 6
_STRAINED = ("[R]=[R]=[R]", "[r3,r4]=[r3,r4]")


def opened(smiles: str) -> RWMol | None:
    """The Kekule graph of a SMILES, whose atoms take up and give off hydrogens as bonds change; None for no molecule."""
    from rdkit import Chem

    found = Chem.MolFromSmiles(smiles)
    if found is None or not found.GetNumAtoms():
        return None
    graph = Chem.RWMol(found)
    Chem.Kekulize(graph, clearAromaticFlags=True)
    for atom in graph.GetAtoms():
        if not atom.GetNumRadicalElectrons():
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
    graph.UpdatePropertyCache(strict=False)
    return graph


def closed(graph: Any, limit: float) -> str | None:
    """The canonical SMILES of a changed graph of fewer than `limit` heavy atoms, or None where it may not be."""
    from rdkit import Chem

    if not SMALLEST <= graph.GetNumAtoms() < limit:
        return None
    if Chem.SanitizeMol(graph, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return None
    # Read again: what is left of chirality may mean something else to the new neighbours, and canonical is what stays.
    again = Chem.MolFromSmiles(Chem.MolToSmiles(graph))
    if again is None or len(Chem.GetMolFrags(again)) != 1 or not _rings_allowed(again):
        return None
    if any(atom.GetNumRadicalElectrons() for atom in again.GetAtoms()):
        return None
    return str(Chem.MolToSmiles(again))


def size_limit(rng: np.random.Generator) -> float:
    """How many heavy atoms a new molecule must stay below."""
    return float(rng.normal(MEAN_SIZE, SIZE_DEVIATION))


@lru_cache(maxsize=64)
def query(smarts: str) -> Mol:
    """A SMARTS pattern, read once."""
    from rdkit import Chem

    return Chem.MolFromSmarts(smarts)


def _rings_allowed(mol: Any) -> bool:
    rings = mol.GetRingInfo().AtomRings()
    if max(map(len, rings), default=0) > LARGEST_RING:
        return False
    return not any(mol.HasSubstructMatch(query(smarts)) for smarts in _STRAINED)
