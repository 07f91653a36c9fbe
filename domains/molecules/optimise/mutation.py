"""A molecule changed at one place: an atom appended, inserted, deleted or replaced, a bond order changed, a ring opened or
closed.

The seven mutations of Jensen (Chemical Science 10:3567, 2019) and how often each is taken. A ring is closed between two
atoms that are in none; those between them may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ....smiles import quiet
from .graphs import closed, opened, query, size_limit

if TYPE_CHECKING:
    from rdkit.Chem import RWMol

TRIES = 10  # places, each with a mutation of its own
ELEMENTS = {"C": 0.15, "N": 0.15, "O": 0.14, "F": 0.14, "S": 0.14, "Cl": 0.14, "Br": 0.14}
ORDERS = {1: 0.6, 2: 0.35, 3: 0.05}  # of the bond to a new atom
APPENDED = {1: ("C", "N", "O", "F", "S", "Cl", "Br"), 2: ("C", "N", "O"), 3: ("C", "N")}
INSERTED = {1: ("C", "N", "O", "S"), 2: ("C", "N"), 3: ("C",)}
RINGS = {3: 0.05, 4: 0.05, 5: 0.45, 6: 0.45}  # sizes of new rings
_NUMBERS = {"C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17, "Br": 35}

T = TypeVar("T")


def mutate(smiles: str, rng: np.random.Generator) -> str | None:
    """A molecule that differs from `smiles` at one place, as canonical SMILES; None where none was found in a few tries."""
    with quiet():
        graph = opened(smiles)
        if graph is None:
            return None
        limit = size_limit(rng)
        for _ in range(TRIES):
            changed = _choice(MUTATIONS, rng)(type(graph)(graph), rng)
            found = None if changed is None else closed(changed, limit)
            if found is not None and found != smiles:
                return found
    return None


def append_atom(graph: RWMol, rng: np.random.Generator) -> RWMol | None:
    """A new atom on one that has hydrogens enough."""
    order = _choice(ORDERS, rng)
    sites = [atom.GetIdx() for atom in graph.GetAtoms() if atom.GetTotalNumHs() >= order]
    if not sites:
        return None
    graph.AddBond(_pick(sites, rng), _new(graph, _pick(APPENDED[order], rng)), _bond(order))
    return graph


def insert_atom(graph: RWMol, rng: np.random.Generator) -> RWMol | None:
    """A new atom into a bond, by a single bond on one side and one of any order on the other."""
    order = _choice(ORDERS, rng)
    sites = [(a, b) for a, b, k in _directed(graph) if _hydrogens(graph, a) >= order - k and not _ring(graph, a, order)]
    if not sites:
        return None
    a, b = _pick(sites, rng)
    middle = _new(graph, _pick(INSERTED[order], rng))
    graph.RemoveBond(a, b)
    graph.AddBond(a, middle, _bond(order))
    graph.AddBond(middle, b, _bond(1))
    return graph


def delete_atom(graph: RWMol, rng: np.random.Generator) -> RWMol | None:
    """An atom gone, its neighbours joined to a chain in random order."""
    degree = int(rng.integers(1, 5))
    sites = [atom.GetIdx() for atom in graph.GetAtoms() if atom.GetDegree() == degree]
    if not sites:
        return None
    gone = _pick(sites, rng)
    around = [atom.GetIdx() for atom in graph.GetAtomWithIdx(gone).GetNeighbors()]
    chain = [around[index] for index in rng.permutation(degree)]
    for a, b in pairwise(chain):
        if graph.GetBondBetweenAtoms(a, b) is None:
            graph.AddBond(a, b, _bond(1))
    graph.RemoveAtom(gone)
    return graph


def change_atom(graph: RWMol, rng: np.random.Generator) -> RWMol | None:
    """Another element in the place of an atom."""
    elements = [atom.GetSymbol() for atom in graph.GetAtoms()]
    there = {element: share for element, share in ELEMENTS.items() if element in elements}
    if not there:
        return None
    old = _choice(there, rng)
    new = _choice({element: share for element, share in ELEMENTS.items() if element != old}, rng)
    atom = graph.GetAtomWithIdx(_pick([index for index, element in enumerate(elements) if element == old], rng))
    atom.SetAtomicNum(_NUMBERS[new])
    atom.SetFormalCharge(0)
    return graph


def change_bond_order(graph: RWMol, rng: np.random.Generator) -> RWMol | None:
    """A bond made single, a single one double, a triple one double, or one outside of rings triple."""
    kind = _choice({"single": 0.45, "double": 0.45, "lower": 0.05, "triple": 0.05}, rng)
    free = {atom.GetIdx(): atom.GetTotalNumHs() for atom in graph.GetAtoms()}
    rules: dict[str, Callable[[int, int, int], bool]] = {
        "single": lambda a, b, k: k > 1,
        "double": lambda a, b, k: k == 1 and min(free[a], free[b]) >= 1,
        "lower": lambda a, b, k: k == 3,
        "triple": lambda a, b, k: k < 3 and min(free[a], free[b]) >= 3 - k and not _ring(graph, a, 3),
    }
    sites = [(a, b) for a, b, k in _directed(graph) if rules[kind](a, b, k)]
    if not sites:
        return None
    graph.GetBondBetweenAtoms(*_pick(sites, rng)).SetBondType(_bond({"single": 1, "triple": 3}.get(kind, 2)))
    return graph


def delete_cyclic_bond(graph: RWMol, rng: np.random.Generator) -> RWMol | None:
    """A ring opened."""
    sites = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in graph.GetBonds() if bond.IsInRing()]
    if not sites:
        return None
    graph.RemoveBond(*_pick(sites, rng))
    return graph


def add_ring(graph: RWMol, rng: np.random.Generator) -> RWMol | None:
    """A ring closed between the ends of a path."""
    size = _choice(RINGS, rng)
    end = "[*;!R;!H0]"
    paths = graph.GetSubstructMatches(query("~".join([end, *["[*]"] * (size - 2), end])))
    if not paths:
        return None
    path = _pick(paths, rng)
    graph.AddBond(path[0], path[-1], _bond(1))
    return graph


#: Each mutation and how often it is taken.
MUTATIONS: dict[Callable[[RWMol, np.random.Generator], RWMol | None], float] = {
    append_atom: 0.15,
    insert_atom: 0.15,
    delete_atom: 0.14,
    change_atom: 0.14,
    change_bond_order: 0.14,
    delete_cyclic_bond: 0.14,
    add_ring: 0.14,
}


def _new(graph: Any, element: str) -> int:
    from rdkit import Chem

    return int(graph.AddAtom(Chem.Atom(element)))


def _bond(order: int) -> Any:
    from rdkit import Chem

    return {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}[order]


def _directed(graph: Any) -> list[tuple[int, int, int]]:
    """Every bond both ways: atom, atom, order."""
    ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in graph.GetBonds()]
    return ends + [(b, a, k) for a, b, k in ends]


def _hydrogens(graph: Any, atom: int) -> int:
    return int(graph.GetAtomWithIdx(atom).GetTotalNumHs())


def _ring(graph: Any, atom: int, order: int) -> bool:
    """Whether a bond of this order would be a triple bond at a ring atom."""
    return order == 3 and bool(graph.GetAtomWithIdx(atom).IsInRing())


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]


def _choice(shares: dict[T, float], rng: np.random.Generator) -> T:
    """One of the keys, in proportion to their values."""
    point = rng.random() * sum(shares.values())
    for key, share in shares.items():
        point -= share
        if point < 0:
            return key
    return key
