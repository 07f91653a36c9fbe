"""Molecules as tokens: what comes back, what is refused and why, and that other code's settings do not matter."""

from __future__ import annotations

import hashlib
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem
from tiltflow.molecules import (
    ALPHABET,
    CAPACITY,
    LENGTH,
    MASK,
    PAD,
    SYMBOLS,
    WORDS,
    MoleculeError,
    decode,
    encode,
    segment,
    symbols,
)
from tiltflow.smiles import canonical

DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O",  # aspirin
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",  # caffeine
    "C[C@H](N)C(=O)O",  # L-alanine
    "C/C=C/C",
    "CC[NH+](CC)CC",
    "O=[N+]([O-])c1ccccc1",
)


def test_the_alphabet_is_what_models_and_files_were_made_with() -> None:
    assert ALPHABET[PAD] == "[nop]"
    assert MASK == len(ALPHABET) == len(set(ALPHABET)) == 512
    assert ALPHABET[1:] == (*SYMBOLS, *WORDS)
    assert len(SYMBOLS) == 54
    assert hashlib.sha256(" ".join(ALPHABET).encode()).hexdigest()[:16] == "52bf6726d2e8cfea"
    assert LENGTH == 24


def test_every_index_symbol_of_selfies_is_there() -> None:
    """Branch lengths and ring sizes are written in these: without one of them some sizes could not be written."""
    from selfies.constants import INDEX_ALPHABET

    assert set(INDEX_ALPHABET) <= set(SYMBOLS)


def test_capacities_are_the_defaults_of_selfies() -> None:
    from selfies import get_preset_constraints

    assert get_preset_constraints("default") == CAPACITY


@pytest.mark.parametrize("smiles", DRUGS)
def test_molecules_come_back(smiles: str) -> None:
    assert decode(encode([smiles])) == [smiles] == [canonical(smiles)]


def test_the_same_molecule_has_the_same_tokens() -> None:
    ways = ["OC(=O)c1ccccc1OC(C)=O", " O=C(O)C1=CC=CC=C1OC(=O)C\n", "CC(=O)Oc1ccccc1C(=O)O"]
    tokens = encode(ways)
    assert tokens.dtype == torch.int64
    assert tokens.shape == (3, LENGTH)
    assert bool((tokens == tokens[0]).all())


def test_symbols_are_written_in_the_longest_words_that_fit() -> None:
    written = symbols(encode(["OC(=O)c1ccccc1"]))[0]
    words = [ALPHABET[token] for token in segment(written)]
    assert "".join(words) == "".join(written)
    for start, word in enumerate(words):
        rest = "".join(words[start:])
        assert len(word) == max(len(other) for other in ALPHABET if rest.startswith(other))
    with pytest.raises(MoleculeError, match=r"needs \[Xx\]"):
        segment(["[C]", "[Xx]"])


def test_padding_stands_for_nothing_wherever_it_is() -> None:
    row = encode(["CCO"])[0]
    assert row[:2].tolist() == [ALPHABET.index("[C][C][O]"), PAD]
    assert bool((row[1:] == PAD).all())
    assert decode(row.flip(0)[None]) == ["CCO"]
    assert decode(torch.full((1, 9), PAD)) == [""]
    assert symbols(row[None]) == [["[C]", "[C]", "[O]"]]


@given(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=LENGTH))
def test_any_tokens_are_a_molecule_without_unpaired_electrons(tokens: list[int]) -> None:
    (smiles,) = decode(torch.tensor([tokens]))
    if smiles:  # "" for padding and symbols that stand for nothing alone
        assert canonical(smiles) == smiles
        assert not any(atom.GetNumRadicalElectrons() for atom in Chem.MolFromSmiles(smiles).GetAtoms())


def test_missing_bonds_are_filled_with_hydrogens() -> None:
    tokens = torch.tensor([[ALPHABET.index("[C]"), ALPHABET.index("[C@@]"), ALPHABET.index("[N-1]")]])
    assert decode(tokens) == ["CC[NH-]"]


@pytest.mark.parametrize(
    ("smiles", "why"),
    [
        ("", "empty text"),
        ("  ", "empty text"),
        (None, "a NoneType came"),
        ("CCO ethanol", "' ' at position 4; expected SMILES only"),
        ("C\0C", r"'\\x00' at position 2"),
        ("\N{GREEK SMALL LETTER ALPHA}", "at position 1"),
        ("C" * 14_000, "14000 characters; at most 2000"),
        ("C1" + "C" * 700 + "1", "701 heavy atoms; 24 tokens cannot hold them"),
        ("".join(f"C%{i}" for i in range(10, 99)) * 2, "takes .* words"),
        ("C" * 150 + "=O", "takes 31 words; at most 24 fit"),
        ("c1ccccc", "is not SMILES"),
        ("xyz", "is not SMILES"),
        ("C(C)(C)(C)(C)C", "no possible molecule: Explicit valence for atom # 0 C, 5"),
        ("cn1cccc1", "no possible molecule: non-ring atom 0 marked aromatic"),
        ("CCO.[Na+].[Cl-]", "3 fragments; expected one, such as"),
        ("CB(O)O", r"needs \[B\], which the alphabet does not have"),
        ("*C", "has no SELFIES"),
        ("F[I](F)F", "violates"),
        ("C[N-]", "unpaired electrons"),
    ],
)
def test_what_cannot_be_encoded_says_why(smiles: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MoleculeError, match=f"^molecule 2: .*{why}"):
        encode(["C", smiles])
    assert capfd.readouterr() == ("", "")  # rdkit's own messages are in the error, not on the terminal


def test_one_text_is_not_several() -> None:
    with pytest.raises(MoleculeError, match=r"'CCO'; expected several, so write \[text\]"):
        encode("CCO")


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (torch.zeros(3, dtype=torch.int64), r"shape \[3\]: expected int64 tokens \[B, L\]"),
        (torch.zeros(2, 3), "torch.float32"),
        (torch.tensor([[0, MASK]]), r"token 512 \(the mask: pass finished samples only\) in row 0, position 1"),
        (torch.tensor([[0], [-1]]), "token -1 in row 1, position 0: expected 0 to 511"),
    ],
)
def test_tokens_that_are_none_are_refused(tokens: torch.Tensor, why: str) -> None:
    with pytest.raises(MoleculeError, match=why):
        decode(tokens)


def test_other_codes_constraints_of_selfies_do_not_matter_and_stay() -> None:
    import selfies

    strict = {**CAPACITY, "S": 2, "N+1": 3}
    tokens = torch.tensor([[ALPHABET.index(s) for s in ("[C]", "[S]", "[=Branch1]", "[C]", "[=O]", "[=O]")]])
    selfies.set_semantic_constraints(strict)
    try:
        assert decode(tokens) == ["C[SH](=O)=O"]
        assert decode(encode(["C[N+](C)(C)C"])) == ["C[N+](C)(C)C"]
        assert selfies.get_semantic_constraints() == strict
    finally:
        selfies.set_semantic_constraints()


def test_without_selfies_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "selfies", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tiltflow\[molecules\]'"):
        encode(["CCO"])


@pytest.mark.slow
def test_public_molecules_come_back_and_few_are_refused(data_dir) -> None:
    from tiltflow.domains.molecules.data import read_set

    for name, allowed in (("zinc", 0.01), ("qm9", 0.0), ("rdkit", 0.05)):
        some = read_set(name, data_dir)[::50]
        refused = 0
        for smiles in some:
            try:
                assert decode(encode([smiles])) == [canonical(smiles)]
            except MoleculeError:
                refused += 1
        assert refused <= allowed * len(some)
