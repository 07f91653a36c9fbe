"""A molecule of two: one piece of each parent, cut at a bond between rings or out of a ring, and joined.

The crossover of Jensen (Chemical Science 10:3567, 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ....smiles import quiet
from .graphs import closed, opened, query, size_limit

if TYPE_CHECKING:
    from rdkit.Chem import RWMol

TRIES = 10  # cuts of a pair of parents
RING_SHARE = 0.5  # of cuts that go through a ring

Bond = tuple[int, int]
# The bonds that are cut, and the two sides: on each, the atoms that lost a bond, one for every bond cut.
Cut = tuple[tuple[Bond, ...], tuple[tuple[int, ...], tuple[int, ...]]]


def crossover(parents: Sequence[str], rng: np.random.Generator) -> str | None:
    """A child of two molecules, as canonical SMILES; None where no cut was found that gives another molecule than they are.

    Args:
        parents: two SMILES.
    """
    with quiet():
        graphs = [graph for graph in map(opened, parents) if graph is not None]
        if len(graphs) != 2:
            return None
        limit = size_limit(rng)
        for _ in range(TRIES):
            cut = _cut_ring if rng.random() < RING_SHARE else _cut_bond
            cuts = [cut(graph, rng) for graph in graphs]
            found = next((c for c in _children(graphs, cuts, limit, rng) if c not in parents), None)
            if found is not None:
                return found
    return None


def _cut_bond(graph: Any, rng: np.random.Generator) -> Cut | None:
    """A single bond that is in no ring."""
    bonds = graph.GetSubstructMatches(query("[*]-;!@[*]"))
    if not bonds:
        return None
    a, b = bonds[rng.integers(len(bonds))]
    return ((a, b),), ((a,), (b,))


def _cut_ring(graph: Any, rng: np.random.Generator) -> Cut | None:
    """Two bonds of a ring: those beside one branching atom of it, or beside two neighbours."""
    smarts = "[R]@[R;!D2]@[R]" if rng.random() < 0.5 else "[R]@[R]@[R]@[R]"
    paths = graph.GetSubstructMatches(query(smarts), maxMatches=10_000)
    if not paths:
        return None
    path = paths[rng.integers(len(paths))]
    first, last = (path[0], path[1]), (path[-2], path[-1])
    return (first, last), ((first[0], last[1]), (first[1], last[0]))


def _children(
    graphs: Sequence[RWMol], cuts: Sequence[Cut | None], limit: float, rng: np.random.Generator
) -> Iterator[str]:
    """All molecules that the pieces make, in random order."""
    one, other = cuts
    if one is None or other is None:
        return
    bonds = len(one[0])
    orders = [(1,)] if bonds == 1 else list(product((1, 2), repeat=2))
    ways = [(i, j, swap, order) for i in (0, 1) for j in (0, 1) for swap in range(bonds) for order in orders]
    for index in rng.permutation(len(ways)):
        i, j, swap, order = ways[index]
        partners = other[1][j][::-1] if swap else other[1][j]
        child = _joined(graphs, (one[0], other[0]), list(zip(one[1][i], partners, order, strict=True)))
        smiles = None if child is None else closed(child, limit)
        if smiles is not None:
            yield smiles


def _joined(
    graphs: Sequence[RWMol], cuts: Sequence[tuple[Bond, ...]], bonds: Sequence[tuple[int, int, int]]
) -> RWMol | None:
    """The piece of the first molecule and that of the second, with new bonds (atom of one, atom of the other, order)."""
    from rdkit import Chem

    shift = graphs[0].GetNumAtoms()
    both = Chem.RWMol(Chem.CombineMols(*graphs))
    for offset, cut in zip((0, shift), cuts, strict=True):
        for a, b in cut:
            both.RemoveBond(a + offset, b + offset)
    for a, b, order in bonds:
        if both.GetBondBetweenAtoms(a, b + shift) is not None:
            return None
        both.AddBond(a, b + shift, (Chem.BondType.SINGLE, Chem.BondType.DOUBLE)[order - 1])
    piece = next(atoms for atoms in Chem.GetMolFrags(both) if bonds[0][0] in atoms)
    both.BeginBatchEdit()
    for atom in set(range(both.GetNumAtoms())).difference(piece):
        both.RemoveAtom(atom)
    both.CommitBatchEdit()
    return both
