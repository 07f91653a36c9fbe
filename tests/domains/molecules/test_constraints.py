"""Templates and scaffolds: what is fixed, and that every molecule really contains the scaffold."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcNumRings
from tiltflow.domains.molecules.constraints import TemplateError, grow_from, link, parse, passes_on
from tiltflow.molecules import ALPHABET, LENGTH, MASK, PAD, decode


def contains(smiles, scaffold):
    """Whether a molecule has the scaffold; atoms that a new ring made aromatic count, as does their new bond."""
    core = Chem.DeleteSubstructs(Chem.MolFromSmiles(scaffold), Chem.MolFromSmarts("[#0]"))
    found = Chem.MolFromSmiles(smiles)
    if found.HasSubstructMatch(core, useChirality=True):
        return True
    for bond in core.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
    loose = Chem.AdjustQueryParameters.NoAdjustments()
    loose.makeBondsGeneric = loose.makeAtomsGeneric = True
    more_rings = CalcNumRings(found) > CalcNumRings(Chem.MolFromSmiles(scaffold))
    return more_rings and found.HasSubstructMatch(Chem.AdjustQueryProperties(core, loose))


def rows(template, n, seed=0):
    """n random rows that keep to a template."""
    weights = template.allowed.double()
    x = torch.multinomial(weights, n, replacement=True, generator=torch.Generator().manual_seed(seed)).T
    assert bool(template.fits(x).all())
    return x


def test_a_template_fixes_symbols_at_their_places_in_as_few_words_as_there_are():
    template = parse("[C][=Branch1][C][=O] *2 [N]", length=8)
    fixed = template.allowed.sum(1) == 1
    assert fixed.tolist() == [True, False, False, True, False, False, False, False]
    words = ("[C][=Branch1][C][=O]", "[N]")
    assert template.allowed[[0, 3]].long().argmax(1).tolist() == [ALPHABET.index(word) for word in words]
    x = rows(template, 20)
    x[3, 3] = ALPHABET.index("[O]")
    assert template.fits(x).tolist() == [True] * 3 + [False] + [True] * 16
    assert template.words == "template [C][=Branch1][C][=O] *2 [N]"


@pytest.mark.parametrize(
    "scaffold",
    ["*c1ccc2[nH]ccc2c1", "*C(=O)c1ccccc1", "*c1ccccc1", "CC(*)(F)C", "*C1CCC(C)CC1", "O=S(=O)(*)c1ccc(Cl)cc1",
     "*[N+](C)(C)C", "*C#N", "*c1ccc([C@@H](N)C(=O)O)cc1", "*C", "c1ccc2c(c1)CC(*)C2"],
)  # fmt: skip
def test_every_molecule_contains_the_scaffold_and_grows(scaffold):
    size = Chem.MolFromSmiles(scaffold).GetNumAtoms() - 1
    for smiles in decode(rows(grow_from(scaffold), 100)):
        assert contains(smiles, scaffold), smiles
        assert Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() > size


def test_a_scaffold_without_growth_is_itself():
    template = grow_from("*C1CCC(C)CC1")
    x = rows(template, 1)
    first = int((template.allowed.sum(1) == 1).sum())
    x[:, first:] = 0
    x[:, first] = ALPHABET.index("[Br]")
    assert decode(x) == ["CC1CCC(Br)CC1"]


@pytest.mark.parametrize(
    ("word", "passes"),
    [
        ("[C]", True),
        ("[C][=C][C][=C][C][=C][Ring1][=Branch1]", True),  # a phenyl: the last atom has a hydrogen to give
        ("[C][=Branch1][C][=O]", True),
        ("[F]", False),  # ends here
        ("[=O]", False),
        ("[nop]", False),
        ("[Ring1][=Branch1]", False),  # a ring into what stands before
        ("[C][=C][Ring1][=Branch1]", False),
        ("[Branch1][Branch2]", False),  # a branch that goes on behind the word
        ("[C][Branch1]", False),
        ("[C][#N]", False),
    ],
)
def test_words_that_pass_on(word, passes):
    assert passes_on(word) is passes


def test_most_words_of_the_alphabet_are_settled_one_way_or_the_other():
    assert 150 < sum(map(passes_on, ALPHABET)) < 350


@pytest.mark.parametrize("words", [1, 3, 6])
@pytest.mark.parametrize(
    "fragments",
    ["*c1ccccc1.*N1CCOCC1", "*C(=O)c1ccncc1.*c1ccc2[nH]ccc2c1", "*C.*N", "*S(=O)(=O)c1ccccc1.*CC[C@@H](C)C(=O)O"],
)  # fmt: skip
def test_linked_fragments_are_both_there_and_in_one_piece(fragments, words):
    template = link(fragments, words)
    x = rows(template, 150)
    for smiles in decode(x):
        assert "." not in smiles
        for each in fragments.split("."):
            assert contains(smiles, each), (smiles, each)
    assert bool((x[:, int((template.allowed[:, PAD] & (template.allowed.sum(1) == 1)).int().argmax()) :] == PAD).all())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: parse("[C][Xx]"), r"'\[Xx\]' is no symbol of the alphabet"),
        (lambda: parse("CCO"), "'C' is neither a symbol in brackets nor"),
        (lambda: parse("*5"), "nothing is fixed"),
        (lambda: parse("[C] *0"), r"'\*0'"),
        (lambda: parse("*24 [C]"), "25 sites; the molecules have 24"),
        (lambda: grow_from("CCO"), r"0 '\*'; expected one"),
        (lambda: grow_from("*CC*"), r"2 '\*'; expected one; .*tiltflow\.domains\.molecules\.grow"),
        (lambda: grow_from("C*C"), r"each '\*' in .* must be bound to one atom, which grows"),
        (lambda: grow_from("*=C"), "a single bond there"),
        (lambda: grow_from("*[C@H](F)Cl"), "no stereochemistry"),
        (lambda: grow_from("*B(O)O"), r"needs \[B\]"),
        (lambda: grow_from("*CC("), "scaffold: .* is not SMILES"),
        (lambda: grow_from("*" + "C" * 150), "takes 34 words of 24"),
        (lambda: link("*C"), "1 fragments; expected two"),
        (lambda: link("*C.*N", 0), "0 words; expected at least 1"),
        (lambda: link("*C.*N", 30), "takes 32 words; the molecules have 24"),
        (lambda: link("*C.N"), r"0 '\*'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(make, why):
    with pytest.raises(TemplateError, match=why):
        make()


def test_free_sites_allow_everything():
    assert parse("[C]").allowed[1:].all()
    assert parse("[C]").allowed.shape == (LENGTH, MASK)
