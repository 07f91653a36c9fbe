"""Molecules to learn from: public sets, what is left out, splits by scaffold, and the set of known ones."""

from __future__ import annotations

import io
import tarfile

import pytest
import torch
from tiltflow.domains.molecules.bloom import Bloom
from tiltflow.domains.molecules.data import DataError, prepare, read_set, scaffolds, split_by_scaffold
from tiltflow.molecules import decode


def test_the_molecules_in_rdkit_need_no_file():
    found = read_set("rdkit")
    assert len(found) == 14_999
    assert found[0] == "CC1=CC(=O)C=CC1=O"  # quinone, NCI's first
    assert found[-1].count("(") > 0


def test_a_library_counts_what_it_leaves_out():
    library = prepare(["OCC", "CCO", "CB(O)O", "CC.O", "xyz", "c1ccccc1"])
    assert library.smiles == ("CCO", "c1ccccc1")
    assert library.tokens.dtype == torch.int16
    assert decode(library.tokens.long()) == ["CCO", "c1ccccc1"]
    assert str(library) == (
        "2 distinct molecules; 1 duplicates; 1 left out: symbols that the alphabet does not have; "
        "1 left out: several fragments; 1 left out: no possible molecule"
    )


def test_public_files_are_read_and_missing_ones_say_where_they_are_published(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No zinc250k.tar.gz or .*wenhao-gao/mol_opt"):
        read_set("zinc", tmp_path)
    content = b"CCO\nCCN\n"
    with tarfile.open(tmp_path / "zinc250k.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("zinc.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    assert read_set("zinc", tmp_path) == ["CCO", "CCN"]
    (tmp_path / "molecules").mkdir()
    (tmp_path / "molecules" / "qm9_smiles.txt").write_text("idx,smiles\n1,C\n2,N\n")
    assert read_set("qm9", tmp_path) == ["C", "N"]
    (tmp_path / "molecules" / "qm9_smiles.txt").write_text("C\nN\n")
    with pytest.raises(DataError, match=r"line 1: columns \['C'\]; expected idx,smiles"):
        read_set("qm9", tmp_path)
    (tmp_path / "zinc250k.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a whole tar archive"):
        read_set("zinc", tmp_path)
    with pytest.raises(DataError, match="no set 'moses'; expected zinc, qm9, rdkit"):
        read_set("moses", tmp_path)
    with pytest.raises(DataError, match="needs data_dir"):
        read_set("zinc")


def test_scaffolds_are_rings_and_what_links_them():
    assert scaffolds(["Cc1ccccc1CC1CCNC1", "CCO", "C[C@@H]1CCCO1"]) == ["c1ccc(CC2CCNC2)cc1", "", "C1CCOC1"]


def test_molecules_of_one_scaffold_stay_together():
    ring = [f"{'C' * n}c1ccccc1" for n in range(1, 30)]
    chains = [f"{'C' * n}O" for n in range(1, 60)]
    away = split_by_scaffold([*ring, *chains], held_out=0.3, seed=0)
    assert len(set(away[: len(ring)].tolist())) == 1
    assert 8 <= int(away[len(ring) :].sum()) <= 28  # chains go one by one
    assert torch.equal(away, split_by_scaffold([*ring, *chains], held_out=0.3, seed=0))
    assert not torch.equal(away, split_by_scaffold([*ring, *chains], held_out=0.3, seed=1))
    with pytest.raises(ValueError, match=r"held_out=1\.5"):
        split_by_scaffold(ring, held_out=1.5)


def test_a_bloom_filter_finds_all_that_is_in_it_and_little_else():
    bloom = Bloom.build((f"in{i}" for i in range(2000)), bits=12)
    assert all(f"in{i}" in bloom for i in range(2000))
    wrong = sum(f"out{i}" in bloom for i in range(20_000)) / 20_000
    assert bloom.error == pytest.approx(0.0031, abs=1e-4)  # (1 - e^(-8/12))^8
    assert wrong == pytest.approx(bloom.error, abs=0.002)
    assert (bloom.hashes, len(bloom.table)) == (8, 3000)
