"""Crossover and mutation: whatever comes out is another molecule that keeps the rules, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from tiltflow.domains.molecules.optimise import crossover, mutate
from tiltflow.domains.molecules.optimise.crossover import _children, _cut_bond, _cut_ring
from tiltflow.domains.molecules.optimise.graphs import closed, opened
from tiltflow.domains.molecules.optimise.mutation import ELEMENTS, MUTATIONS, add_ring, delete_atom, delete_cyclic_bond
from tiltflow.domains.molecules.reference import Reference
from tiltflow.molecules import decode
from tiltflow.smiles import canonical

ODD = [
    "C",
    "CC",
    "[Na+].[Cl-]",
    "c1ccccc1",
    "C1CCCCCCCCC1",
    "O=[N+]([O-])c1ccc2[nH]ccc2c1",
    "C[S@](=O)c1ccccc1",
    "F/C=C/F",
    "C1CC2(C1)CC2",
    "P(=O)(OC)(OC)OC",
    "[NH3+]C(C)C(=O)[O-]",
]


@pytest.fixture(scope="module")
def zinc() -> list[str]:
    return [smiles for smiles in decode(Reference.load().tokens[:150]) if smiles]


def check(smiles: str, parents: tuple[str, ...]) -> None:
    """A molecule that is not a parent, canonical, in one piece, without radicals, and within the rules."""
    found = Chem.MolFromSmiles(smiles)
    assert found is not None
    assert smiles == canonical(smiles) == Chem.MolToSmiles(found)
    assert smiles not in parents
    assert "." not in smiles
    assert not any(atom.GetNumRadicalElectrons() for atom in found.GetAtoms())
    assert 6 <= found.GetNumAtoms() <= 60
    assert max((len(ring) for ring in found.GetRingInfo().AtomRings()), default=0) <= 6
    assert not found.HasSubstructMatch(Chem.MolFromSmarts("[R]=[R]=[R]"))


@pytest.mark.parametrize("seed", range(4))
def test_mutations_are_molecules_or_nothing(zinc: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = [zinc[index] for index in rng.integers(len(zinc), size=100)] + ODD
    born = [(parent, mutate(parent, rng)) for parent in chosen]
    for parent, child in born:
        if child is not None:
            check(child, (parent,))
    assert sum(child is not None for _, child in born[:100]) >= 95


@pytest.mark.parametrize("seed", range(4))
def test_crossovers_are_molecules_or_nothing(zinc: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = [(zinc[a], zinc[b]) for a, b in rng.integers(len(zinc), size=(60, 2))]
    chosen += [(ODD[a], ODD[b]) for a, b in rng.integers(len(ODD), size=(30, 2))]
    born = [(pair, crossover(pair, rng)) for pair in chosen]
    for pair, child in born:
        if child is not None:
            check(child, pair)
    assert sum(child is not None for _, child in born[:60]) >= 55


def test_what_is_no_molecule_has_no_child(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    assert mutate("no molecule", rng) is None
    assert mutate("", rng) is None
    assert crossover(("CCO", "c1"), rng) is None
    assert mutate("C(C)(C)(C)(C)C", rng) is None
    assert capfd.readouterr() == ("", "")


def test_the_same_seed_gives_the_same_children(zinc: list[str]) -> None:
    def family(seed: int) -> list[str | None]:
        rng = np.random.default_rng(seed)
        return [mutate(zinc[0], rng) for _ in range(10)] + [crossover(zinc[:2], rng) for _ in range(10)]

    assert family(3) == family(3)
    assert family(3) != family(4)
    assert len(set(family(3))) > 10


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_each_mutation_changes_what_its_name_says(mutation, zinc: list[str]) -> None:
    """Atoms and rings (bonds less atoms plus one) before and after; elements that come are of the list."""
    rng = np.random.default_rng(0)
    atoms = {"append_atom": 1, "insert_atom": 1, "delete_atom": -1}.get(mutation.__name__, 0)
    rings = {"delete_cyclic_bond": -1, "add_ring": 1}.get(mutation.__name__, 0)
    done = 0
    for parent in zinc[:60]:
        before = Chem.MolFromSmiles(parent)
        changed = mutation(opened(parent), rng)
        child = None if changed is None else closed(changed, 60.0)
        if child is None:
            continue
        after = Chem.MolFromSmiles(child)
        done += 1
        assert after.GetNumAtoms() - before.GetNumAtoms() == atoms
        if mutation is not delete_atom:  # the neighbours of an atom in two rings may be neighbours already
            assert _rings(after) - _rings(before) == rings
        new = {atom.GetSymbol() for atom in after.GetAtoms()} - {atom.GetSymbol() for atom in before.GetAtoms()}
        assert new <= set(ELEMENTS)
    assert done >= 15


def _rings(molecule) -> int:
    return molecule.GetNumBonds() - molecule.GetNumAtoms() + 1


def test_mutations_that_find_no_place_give_none() -> None:
    rng = np.random.default_rng(0)
    assert all(add_ring(opened("c1ccccc1"), rng) is None for _ in range(20))
    assert delete_cyclic_bond(opened("CCCCCCC"), rng) is None
    assert delete_atom(opened("C"), rng) is None


def test_all_children_of_one_cut_by_hand() -> None:
    """Ethanol-like and amine-like chains, cut at their only cuttable bonds: four ways to join, those of 6 atoms or more."""
    graphs = [opened("CCCCCO"), opened("CCCCCN")]
    cuts = [((((4, 5),), ((4,), (5,)))), ((((4, 5),), ((4,), (5,))))]
    found = set(_children(graphs, cuts, 60.0, np.random.default_rng(0)))
    assert found == {"CCCCCCCCCC", "CCCCCN", "CCCCCO"}  # NO is too small


def test_cuts_are_where_they_should_be() -> None:
    rng = np.random.default_rng(0)
    graph = opened("CC1CCCCC1")
    for _ in range(20):
        (bonds, sides) = _cut_bond(graph, rng)
        assert set(bonds[0]) == {0, 1}
        assert len(sides[0]) == len(sides[1]) == 1
    for _ in range(20):
        found = _cut_ring(graph, rng)
        assert found is not None
        assert all(graph.GetBondBetweenAtoms(a, b).IsInRing() for a, b in found[0])
    assert _cut_bond(opened("C1CCCCC1"), rng) is None
    assert _cut_ring(opened("CCCCC"), rng) is None


def test_hydrogens_follow_the_bonds() -> None:
    """Pyrrole's N-H and a stereo centre open without leftovers: what is closed again unchanged is the same molecule."""
    for smiles in ("Cc1ccc[nH]1CCC", "C[C@H](N)C(=O)NCC", "c1ccc2[nH]ccc2c1", "CC[N+](=O)[O-]CCC"):
        found = Chem.MolFromSmiles(smiles)
        if found is not None:
            assert closed(opened(smiles), 60.0) == canonical(smiles)
