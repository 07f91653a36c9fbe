"""Reading and writing molecules: SMILES, tables and SD files, and messages that name file, place and reason."""

from __future__ import annotations

import gzip

import pytest
import torch
from rdkit import Chem
from tiltflow.domains.molecules import CodecError, MoleculeCodec
from tiltflow.molecules import LENGTH, encode

CODEC = MoleculeCodec()
SMILES = ["CCO", "c1ccccc1", "C[C@H](N)C(=O)O"]


@pytest.fixture
def write(tmp_path):
    def make(name: str, text: str):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return make


@pytest.mark.parametrize("name", ["a.smi", "a.txt", "a.smi.gz"])
def test_smiles_files(write, name):
    read = CODEC.read(
        write(name, "smiles name\nOCC ethanol, pure\n\n# a comment\nC1=CC=CC=C1\r\nC[C@H](N)C(=O)O\tL-ala\n")
    )
    assert read.smiles == tuple(SMILES)
    assert read.names == ("ethanol, pure", "mol5", "L-ala")
    assert torch.equal(read.tokens, encode(SMILES))
    assert len(read) == read.report.kept == read.report.found == 3


def test_tables_with_labels(write):
    path = write("t.csv", "id,smiles,activity\na,CCO,1.5\nb,C1=CC=CC=C1,\nc,C[C@H](N)C(=O)O,-2\n")
    read = CODEC.read_csv(path, labels="activity", names="id")
    assert (read.smiles, read.names) == (tuple(SMILES), ("a", "b", "c"))
    assert read.labels["activity"].tolist() == pytest.approx([1.5, float("nan"), -2], nan_ok=True)
    other = write("t.tsv", "Drug\tY\nCCO\t1\n")
    assert CODEC.read(other, "Drug").smiles == ("CCO",)


def test_sd_files_come_back_with_names_and_properties(tmp_path):
    path = tmp_path / "out.sdf"
    tokens = torch.cat([encode(SMILES), torch.zeros(1, LENGTH, dtype=torch.int64)])
    CODEC.write_sdf(path, tokens, {"reward": torch.tensor([0.5, 1.0, -1.0, 0.0])}, ["a", "b", "c", "empty"])
    read = CODEC.read(path)
    assert read.smiles == tuple(SMILES)  # the empty one has no place in the format
    assert read.names == ("a", "b", "c")
    (first, *_) = Chem.SDMolSupplier(str(path))
    assert first.GetPropsAsDict() == {"smiles": "CCO", "reward": 0.5}
    assert max(abs(x) for x in first.GetConformer().GetPositions().flatten()) > 0.5  # it can be looked at


def test_stereochemistry_of_coordinates_in_space_is_read(write):
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    assert CODEC.read(write("x.sdf", f"{Chem.MolToMolBlock(molecule)}$$$$\n")).smiles == ("C[C@H](N)C(=O)O",)


def test_smiles_and_tables_are_written(tmp_path):
    samples = encode(SMILES)
    CODEC.write_smiles(tmp_path / "a.smi.gz", samples, ["x", "y", "z"])
    assert CODEC.read(tmp_path / "a.smi.gz").names == ("x", "y", "z")
    CODEC.write_csv(
        tmp_path / "a.csv", {"smiles": samples, "score": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)}
    )
    again = CODEC.read_csv(tmp_path / "a.csv", labels=["score"])
    assert again.smiles == tuple(SMILES)
    assert again.labels["score"].tolist() == [0.1, 0.2, 0.3]


def test_duplicates_are_kept_once_and_counted(write):
    read = CODEC.read(write("d.smi", "OCC\nCCO\nc1ccccc1\nC1C=CC=CC=1\n"))
    assert read.smiles == ("CCO", "c1ccccc1")
    assert read.report.duplicates == 2
    assert str(read.report).endswith("d.smi: 2 of 4 molecules kept; 2 the same as one before, left out")


def test_all_problems_of_a_file_are_named_with_their_lines(write):
    path = write("bad.smi", "CCO\nc1ccc x\nCC.O\nCB(O)O\n")
    with pytest.raises(CodecError) as error:
        CODEC.read(path)
    text = str(error.value)
    assert "bad.smi: 3 problems" in text
    assert "line 2: 'c1ccc' is not SMILES" in text
    assert "line 3: 'CC.O' has 2 fragments; expected one, such as 'CC'" in text
    assert "line 4: 'CB(O)O' needs [B]" in text
    assert "unreadable='skip'" in text
    report = CODEC.read(path, unreadable="skip").report
    assert (report.found, report.kept) == (4, 1)
    assert report.refused == {
        "no possible molecule": 1,
        "several fragments": 1,
        "symbols that the alphabet does not have": 1,
    }
    assert len(report.skipped) == 3


def test_records_of_an_sd_file_are_named(write):
    good = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    broken = good.replace("  3  2  0", " 99  2  0")
    with pytest.raises(CodecError, match=r"record 2 \(line 12\): no molecule can be read from this block"):
        CODEC.read(write("b.sdf", f"{good}$$$$\n{broken}$$$$\n"))
    carbon = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    with pytest.raises(CodecError, match=r"record 1 \(line 1\): no possible molecule: Explicit valence"):
        CODEC.read(write("c.sdf", f"{Chem.MolToMolBlock(carbon, kekulize=False)}$$$$\n"))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("e.smi", "", "empty file"),
        ("e.smi", "xyz\nabc\n", "2 problems"),
        ("e.smi", "C\0C", "line 1: binary data"),
        ("e.csv", "name,smile\na,CCO\n", "no column 'smiles'; did you mean 'smile'"),
        ("e.csv", "smiles,y\nCCO,1,2\n", "line 2: 3 cells, the header has 2"),
        ("e.smi", "# only a comment\n", "0 molecules, none of which can be used"),
    ],
)
def test_files_that_cannot_be_read(write, name, text, why):
    with pytest.raises(CodecError, match=why):
        CODEC.read(write(name, text))


def test_odd_arguments(tmp_path):
    with pytest.raises(CodecError, match="no such file"):
        CODEC.read(tmp_path / "none.smi")
    (tmp_path / "a.smi").write_text("CCO\n")
    with pytest.raises(CodecError, match="unreadable='drop'; expected 'error' or 'skip'"):
        CODEC.read(tmp_path / "a.smi", unreadable="drop")
    with pytest.raises(CodecError, match="exists"):
        CODEC.write_smiles(tmp_path / "a.smi", encode(["C"]))
    with pytest.raises(CodecError, match="different lengths: a 1, b 2"):
        CODEC.write_csv(tmp_path / "b.csv", {"a": [1], "b": [1, 2]})
    with pytest.raises(CodecError, match="samples: str; expected tokens"):
        CODEC.write_smiles(tmp_path / "c.smi", "CCO")
