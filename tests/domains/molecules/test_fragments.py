"""Scaffolds that grow at several points, and linkers of several lengths: what every molecule must have, by other means."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from rdkit import Chem
from tiltflow.core import SMC, SVDD, Tilt
from tiltflow.domains.molecules import GrowthError, TemplateError, grow, links, load
from tiltflow.domains.molecules.constraints import grow_from
from tiltflow.domains.molecules.fragments import _is_grown
from tiltflow.molecules import LENGTH, MASK, PAD, decode, encode, structures


@pytest.fixture(scope="module")
def domain(tiny):
    return load(tiny, steps=24)


def core_of(scaffold):
    """The scaffold as a pattern in which each atom has exactly the bonds that it has there, a `*` counting as one."""
    found = Chem.MolFromSmiles(scaffold)
    pattern = Chem.RWMol(found)
    for atom in pattern.GetAtoms():
        if atom.GetAtomicNum():
            query = Chem.AtomFromSmarts(f"[#{atom.GetAtomicNum()}X{atom.GetTotalDegree()}D{atom.GetDegree()}]")
            pattern.ReplaceAtom(atom.GetIdx(), query, preserveProps=True)
        else:
            pattern.ReplaceAtom(atom.GetIdx(), Chem.AtomFromSmarts("[!#1]"))
    return pattern


def pieces(smiles, scaffold):
    """How many pieces are left of a molecule without the scaffold, where it lies on it; None where it does nowhere."""
    found, pattern = Chem.MolFromSmiles(smiles), core_of(scaffold)
    counts = []
    for places in found.GetSubstructMatches(pattern, uniquify=False):
        rest = Chem.RWMol(found)
        for atom, place in zip(pattern.GetAtoms(), places, strict=True):
            if "!" not in atom.GetSmarts():
                rest.GetAtomWithIdx(place).SetAtomicNum(0)
        gone = sorted((atom.GetIdx() for atom in rest.GetAtoms() if atom.GetAtomicNum() == 0), reverse=True)
        for place in gone:
            rest.RemoveAtom(place)
        counts.append(len(Chem.GetMolFrags(rest)))
    return max(counts, default=None)


@pytest.mark.parametrize(
    "scaffold",
    ["*c1ccc(*)cc1", "*c1ccc(C(*)=O)cc1", "*N1CCN(*)CC1", "*c1nc(*)nc(*)n1", "CC(*)(*)N", "*c1ccc2[nH]c(*)cc2c1",
     "*n1cccc1", "*[N+](*)(C)C", "*CC*", "*C1CC1*", "*c1ccccc1*"],
)  # fmt: skip
def test_every_molecule_has_the_scaffold_and_one_substituent_at_each_star(domain, scaffold, generator):
    points = scaffold.count("*")
    x = grow(domain, scaffold, 12, generator=generator(0), tries=60)
    assert x.shape == (12, LENGTH)
    assert x.dtype == torch.int64
    for smiles in decode(x):
        assert pieces(smiles, scaffold) == points, smiles


def test_the_two_points_of_a_symmetric_scaffold_are_told_apart(domain, generator):
    """Of 1,4-disubstituted benzene both ends grow, never one of them twice, and never another pair of places."""
    found = decode(grow(domain, "*c1ccc(*)cc1", 24, generator=generator(1), tries=60))
    para = Chem.MolFromSmarts("[!#1]!@c1[cH][cH]c([!#1])[cH][cH]1")
    assert all(Chem.MolFromSmiles(smiles).HasSubstructMatch(para) for smiles in found)
    assert len(set(found)) == 24


def test_stereochemistry_of_a_scaffold_stays(domain, generator):
    scaffold = "*c1ccc(C[C@H](N*)C(=O)O)cc1"
    query = Chem.MolFromSmiles("c1ccc(C[C@H](N)C(=O)O)cc1")
    found = decode(grow(domain, scaffold, 8, generator=generator(0), tries=80, words=(1, 3)))
    assert all(Chem.MolFromSmiles(smiles).HasSubstructMatch(query, useChirality=True) for smiles in found)


def test_without_a_star_it_grows_anywhere(domain, generator):
    found = decode(grow(domain, "c1ccc2[nH]ccc2c1", 40, generator=generator(0), tries=40))
    indole, where = Chem.MolFromSmiles("c1ccc2[nH]ccc2c1"), set()
    for smiles in found:
        molecule = Chem.MolFromSmiles(smiles)
        assert molecule.GetNumHeavyAtoms() > 9
        (places,) = molecule.GetSubstructMatches(indole, maxMatches=1)
        degrees = [molecule.GetAtomWithIdx(place).GetDegree() for place in places]
        where |= {
            atom.GetIdx() for atom, degree in zip(indole.GetAtoms(), degrees, strict=True) if degree > atom.GetDegree()
        }
    assert len(where) >= 5  # of seven atoms with a hydrogen


def test_substituents_have_as_many_words_as_was_asked(domain, generator):
    one = grow(domain, "*c1ccc(*)cc1", 20, generator=generator(0), words=(1, 1), tries=60)
    any_size = grow(domain, "*c1ccc(*)cc1", 20, generator=generator(0), tries=60)
    heavy = [sum(m.GetNumHeavyAtoms() for m in structures(x)) for x in (one, any_size)]
    assert heavy[0] < heavy[1] / 2


def test_what_grows_at_one_point_follows_the_law_of_the_model_by_rejection(domain, generator):
    """Against rows of the same template, drawn without any of the machinery and kept where the scaffold is whole."""
    scaffold, n = "*c1ccncc1", 250
    grown = grow(domain, scaffold, n, generator=generator(0), words=(2, 2))
    words = int((grow_from(scaffold).allowed.sum(1) == 1).sum())
    start = torch.full((LENGTH,), PAD)
    start[:words] = grow_from(scaffold).allowed[:words].int().argmax(1)
    start[words : words + 2] = MASK
    plain = domain.diffusion.infill(start).sample(1500, generator=generator(1))
    found = decode(grown)
    kept = [smiles for smiles in decode(plain) if smiles and pieces(smiles, scaffold) == 1]
    sizes = [torch.tensor([Chem.MolFromSmiles(s).GetNumHeavyAtoms() for s in each]).double() for each in (found, kept)]
    error = sum(float(each.var()) / len(each) for each in sizes) ** 0.5
    assert abs(float(sizes[0].mean() - sizes[1].mean())) < 3 * error
    assert error < 0.4


@pytest.mark.parametrize("method", [SVDD(candidates=3), SMC(particles=3)])
def test_a_method_may_draw_instead_and_steers(domain, method, generator):
    def heavy(x):
        return torch.tensor([0 if m is None else m.GetNumHeavyAtoms() for m in structures(x)]).double()

    def draw(law):
        return method.sample(Tilt(law, heavy, alpha=3.0), 10, generator=source).x

    source = generator(0)
    x = grow(domain, "*c1ccc(*)cc1", 10, generator=source, draw=draw, tries=60, words=(2, 4))
    plain = grow(domain, "*c1ccc(*)cc1", 10, generator=generator(0), tries=60, words=(2, 4))
    assert all(pieces(smiles, "*c1ccc(*)cc1") == 2 for smiles in decode(x))
    assert float(heavy(x).mean()) > float(heavy(plain).mean()) + 2


@pytest.mark.parametrize(
    ("before", "after", "grown"),
    [
        ("c1ccccc1", "c19ccccc1.C9", True),
        ("c1ccccc1", "c1c9cccc1.C9", False),  # at another atom
        ("c1ccccc1", "c19c8cccc1.C9C8", False),  # and a ring to another atom
        ("CCN", "C9CN.C9", True),
        ("CCN", "CCN9.C9", False),
        ("CCN", "CNC9.C9", False),  # another molecule
        ("CCN", "C9CN9", False),  # a ring of its own atoms
        ("CCN", "C=9CN.C=9", False),  # a double bond
        ("CCN", "C98CN.C9.C8", False),  # twice
        ("C[C@H](N)F", "C9[C@H](N)F.C9", True),
        ("C[C@H](N)F", "C9[C@@H](N)F.C9", False),
        ("CCN", "CCN", False),  # not at all
        ("CC[NH3+]", "C9CN.C9", False),
    ],
)
def test_growth_is_told_from_other_changes(before, after, grown):
    """Each text has the atoms of the first molecule first."""
    assert _is_grown(Chem.MolFromSmiles(before), Chem.MolFromSmiles(after), False) is grown


def test_the_atoms_of_a_structure_stand_in_the_order_of_the_words():
    for scaffold in ("*c1ccc2[nH]ccc2c1", "*C1CCC(C)CC1"):
        template = grow_from(scaffold)
        fixed = template.allowed.sum(1) == 1
        first = int(fixed.sum())
        rows = torch.multinomial(template.allowed.double(), 20, True, generator=torch.Generator().manual_seed(0)).T
        alone = torch.where(fixed, rows[0], PAD)[None]
        (core,) = structures(alone)
        size = core.GetNumAtoms()
        for found in structures(rows):
            assert [found.GetAtomWithIdx(i).GetSymbol() for i in range(size)] == [
                a.GetSymbol() for a in core.GetAtoms()
            ]
        assert first < LENGTH
    assert [Chem.MolToSmiles(m) for m in structures(encode(["CCO"]))] == ["CCO"]
    assert structures(torch.zeros(1, 3, dtype=torch.int64)) == [None]


def test_linkers_of_every_length_are_drawn(domain, generator):
    fragments = "*c1ccncc1.*N1CCOCC1"
    found = decode(links(domain, fragments, 23, (1, 4), generator=generator(0)))
    assert len(found) == 23
    for smiles, part in product(found, fragments.split(".")):
        core = Chem.MolFromSmiles(part.replace("*", ""))
        assert Chem.MolFromSmiles(smiles).HasSubstructMatch(core), smiles
    sizes = torch.tensor([Chem.MolFromSmiles(s).GetNumHeavyAtoms() for s in found]).double()
    assert float(sizes[-6:].mean()) > float(sizes[:6].mean()) + 3


def test_lengths_that_leave_no_room_are_passed_over(domain, generator):
    long = f"*{'C' * 85}.*N1CCOCC1"
    assert len(links(domain, long, 4, (1, 20), generator=generator(0))) == 4
    with pytest.raises(TemplateError, match="linker: takes"):
        links(domain, long, 4, (15, 20), generator=generator(0))


@pytest.mark.parametrize(
    ("scaffold", "why"),
    [
        ("*=C", "single bond there"),
        ("*[C@H](F)Cl", "no stereochemistry"),
        ("**", "bound to no heavy atom"),
        ("C*C", "each '\\*' in 'C\\*C' must be bound to one atom"),
        ("*C.*N", r"several fragments; tiltflow\.domains\.molecules\.links"),
        ("*CC(", "is not SMILES"),
        ("*B(O)O", r"needs \[B\]"),
        ("*" + "C" * 120 + "*", "words of 24; there must be 2 for each point"),
        ("FC(F)(F)F", "no atom of .* can grow: none has a hydrogen"),
    ],
)
def test_scaffolds_that_cannot_grow_are_refused(domain, scaffold, why, generator):
    with pytest.raises(TemplateError, match=why):
        grow(domain, scaffold, 2, generator=generator(0))


def test_too_few_rounds_and_wrong_draws_are_told(domain, generator):
    options = {"generator": generator(0)}
    with pytest.raises(GrowthError, match=r"0 of 3 molecules grew from '\*C\*' in 1 rounds .* Give more tries"):
        grow(domain, "*C*", 3, tries=1, draw=lambda law: law.start.where(law.start != MASK, PAD), **options)
    with pytest.raises(ValueError, match="do not begin as its law does"):
        grow(domain, "*C*", 3, draw=lambda law: torch.zeros(3, LENGTH, dtype=torch.int64), **options)
    with pytest.raises(ValueError, match="draw returned 1 rows"):
        grow(domain, "*C*", 3, draw=lambda law: law.sample(1), **options)
    with pytest.raises(ValueError, match=r"draw returned list; expected int64 tokens \[M, 24\].* \.x"):
        grow(domain, "*C*", 3, draw=lambda law: [], **options)
    with pytest.raises(ValueError, match=r"words is \(3, 2\)"):
        grow(domain, "*C*", 3, words=(3, 2), **options)
