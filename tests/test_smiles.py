"""Text that is a molecule, and text that is none: every refusal has a reason."""

from __future__ import annotations

import random
import re
import string
import subprocess
import sys

import pytest
from rdkit import Chem, rdBase
from tiltflow.rewards import molecules as rewards
from tiltflow.smiles import MoleculeError, canonical, check, molecule, parse, pattern, problem, reference

# Letters that SMILES are made of, so that more than a few of the texts come close to one.
LETTERS = "CNOSPFIclnos()[]=#-+123456789%@/\\.HBr*:$"
PATHOLOGICAL = [
    "",
    " ",
    "C" * 14_000,
    "C1" + "C" * 1_500 + "1",
    "(" * 1_000 + "C" + ")" * 1_000,
    "[" * 500,
    "C(" * 400 + "C" + ")" * 400,
    "C%99" * 300,
    "C1CC",
    "c1cccc1",
    "C(C)(C)(C)(C)C",
    "[Xx]",
    "[H][H]",
    ">>",
    "C>>N",
    "CC\0C",
    "C\nC",
    "🙂",
    "[C@@@]",
    "*",
    "[999C]",
    "[C+99]",
    "N#N.N#N." * 60 + "N",
]


def noise(count: int, seed: int) -> list[str]:
    """Random texts: half of printable characters, half of SMILES letters."""
    draw = random.Random(seed)
    alphabets = (string.printable, LETTERS)
    return ["".join(draw.choices(alphabets[n % 2], k=draw.randint(0, 60))) for n in range(count)]


def assert_molecule_or_reason(texts: list[str]) -> int:
    """How many are molecules."""
    good = 0
    for text in texts:
        reason = problem(text)
        if reason is None:
            assert parse(text).GetNumHeavyAtoms() >= 1
            good += 1
        else:
            assert len(reason) > 10
            assert rewards.canonical(text) == ""
    return good


def test_a_molecule_is_read_and_written_canonically() -> None:
    assert parse("OCC").GetNumHeavyAtoms() == 3
    assert canonical("OCC") == canonical("C(O)C") == "CCO"
    assert problem("OCC") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty text"),
        ("C" * 14_000, "14000 characters; at most 2000 are read"),
        ("C" * 201, "201 heavy atoms: expected 1 to 200"),
        ("[H][H]", "0 heavy atoms"),
        ("hello", "'hello' is not SMILES: check brackets"),
        ("C(C)(C)(C)(C)C", "no possible molecule: Explicit valence for atom # 0 C, 5"),
        ("c1cccc1", "no possible molecule: Can't kekulize"),
        ("CC\0C", "'\\x00' at position 3; expected SMILES only"),
        ("CCO ethanol", "' ' at position 4"),
    ],
)
def test_what_is_no_molecule_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(MoleculeError, match=re.escape(message)):
        parse(text)
    assert message in str(problem(text))


def test_the_largest_molecule_is_a_choice() -> None:
    assert problem("C" * 30, max_atoms=30) is None
    assert "31 heavy atoms: expected 1 to 30" in str(problem("C" * 31, max_atoms=30))


@pytest.mark.parametrize("text", PATHOLOGICAL)
def test_pathological_text_gives_a_molecule_or_a_reason(text: str) -> None:
    assert_molecule_or_reason([text])


def test_random_text_gives_a_molecule_or_a_reason() -> None:
    assert 3 < assert_molecule_or_reason(noise(2_000, seed=0)) < 1_000


@pytest.mark.slow
def test_a_hundred_thousand_random_texts() -> None:
    assert assert_molecule_or_reason(noise(100_000, seed=1)) > 200


def test_broken_records_of_an_sd_file_are_refused_and_the_others_read() -> None:
    good = Chem.MolToMolBlock(parse("CCO"))
    records = [good, good.replace("  3  2", "  9  2", 1), "nonsense\n\n\n", good.replace("V2000", "V9999"), "", good]
    supplier = Chem.SDMolSupplier()
    with rdBase.BlockLogs():
        supplier.SetData("".join(f"{record}\n$$$$\n" for record in records))
        read = list(supplier)
    kept, refused = [], []
    for mol in read:
        try:
            kept.append(Chem.MolToSmiles(check(mol)))
        except MoleculeError as error:
            refused.append(str(error))
    assert kept[0] == kept[-1] == "CCO"
    assert refused
    assert all("rdkit could not read it" in reason or "0 heavy atoms" in reason for reason in refused)


def test_references_and_patterns_name_what_is_wrong() -> None:
    assert reference("CCO") is reference("CCO")
    with pytest.raises(MoleculeError, match="reference molecule 'nonsense': 'nonsense' is not SMILES"):
        reference("nonsense")
    with pytest.raises(MoleculeError, match=r"'\[#6' is not a SMARTS pattern"):
        pattern("[#6")
    with pytest.raises(MoleculeError, match="'' is not a SMARTS"):
        pattern("")


def test_hydrogens_that_are_written_are_part_of_their_atoms() -> None:
    assert canonical("[H]OC([H])([H])[H]") == "CO"
    assert molecule("[H][H]").GetNumAtoms() == 2


def test_what_reads_and_scores_molecules_loads_no_torch() -> None:
    """Worker processes start with it."""
    code = """
import sys
from tiltflow.rewards.molecules import Alerts, Descriptor, Part, Profile, Similarity
from tiltflow.rewards.molecules.scoring import Scoring
scorer = Profile([Part(Descriptor("qed")), Part(Similarity("CCO"))], rules=[Alerts(hard=True)])
print(Scoring(scorer, 50)("CCCO"), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    value, loaded = done.stdout.split()
    assert 0 < float(value) < 1
    assert loaded == "False"
