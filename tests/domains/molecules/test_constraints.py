"""Templates and scaffolds: what is fixed, and that every molecule really contains the scaffold."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem
from tiltflow.domains.molecules.constraints import TemplateError, grow_from, parse
from tiltflow.molecules import ALPHABET, LENGTH, MASK, decode


def rows(template, n, seed=0):
    """n random rows that keep to a template."""
    weights = template.allowed.double()
    x = torch.multinomial(weights, n, replacement=True, generator=torch.Generator().manual_seed(seed)).T
    assert bool(template.fits(x).all())
    return x


def test_a_template_fixes_symbols_at_their_places():
    template = parse("[C][=O] *2 [N]", length=8)
    fixed = template.allowed.sum(1) == 1
    assert fixed.tolist() == [True, True, False, False, True, False, False, False]
    assert template.allowed[[0, 1, 4]].long().argmax(1).tolist() == [ALPHABET.index(s) for s in ("[C]", "[=O]", "[N]")]
    x = rows(template, 20)
    x[3, 4] = ALPHABET.index("[O]")
    assert template.fits(x).tolist() == [True] * 3 + [False] + [True] * 16
    assert template.words == "template [C][=O] *2 [N]"


@pytest.mark.parametrize(
    "scaffold",
    ["*c1ccc2[nH]ccc2c1", "*C(=O)c1ccccc1", "*c1ccccc1", "CC(*)(F)C", "*C1CCC(C)CC1", "O=S(=O)(*)c1ccc(Cl)cc1",
     "*[N+](C)(C)C", "*C#N", "*c1ccc([C@@H](N)C(=O)O)cc1", "*C", "c1ccc2c(c1)CC(*)C2"],
)  # fmt: skip
def test_every_molecule_contains_the_scaffold_and_grows(scaffold):
    core = Chem.DeleteSubstructs(Chem.MolFromSmiles(scaffold), Chem.MolFromSmarts("[#0]"))
    for smiles in decode(rows(grow_from(scaffold), 100)):
        found = Chem.MolFromSmiles(smiles)
        assert found.HasSubstructMatch(core, useChirality=True), smiles
        assert found.GetNumHeavyAtoms() > core.GetNumAtoms()


def test_a_scaffold_without_growth_is_itself():
    template = grow_from("*C1CCC(C)CC1")
    x = rows(template, 1)
    first = int((template.allowed.sum(1) == 1).sum())
    x[:, first:] = 0
    x[:, first] = ALPHABET.index("[Br]")
    assert decode(x) == ["CC1CCC(Br)CC1"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: parse("[C][Xx]"), r"'\[Xx\]' is no symbol of the alphabet"),
        (lambda: parse("CCO"), "'C' is neither a symbol in brackets nor"),
        (lambda: parse("*5"), "nothing is fixed"),
        (lambda: parse("[C] *0"), r"'\*0'"),
        (lambda: parse("*72 [C]"), "73 sites; the molecules have 72"),
        (lambda: grow_from("CCO"), r"0 '\*'; expected one"),
        (lambda: grow_from("*CC*"), r"2 '\*'; expected one"),
        (lambda: grow_from("C*C"), r"1 '\*'; expected one, bound to the atom that grows"),
        (lambda: grow_from("*=C"), "a single bond there"),
        (lambda: grow_from("*[C@H](F)Cl"), "no stereochemistry"),
        (lambda: grow_from("*B(O)O"), r"needs \[B\]"),
        (lambda: grow_from("*CC("), "scaffold: .* is not SMILES"),
        (lambda: grow_from("*" + "C" * 73), "takes 76 symbols of 72"),
    ],
)
def test_what_cannot_be_honoured_is_refused(make, why):
    with pytest.raises(TemplateError, match=why):
        make()


def test_free_sites_allow_everything():
    assert parse("[C]").allowed[1:].all()
    assert parse("[C]").allowed.shape == (LENGTH, MASK)
