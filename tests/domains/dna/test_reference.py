"""The reference: what it holds, that a file gives back the same, and what foreign files get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiltflow.core.storage import StorageError, save_tensors
from tiltflow.dna import Pwm, encode, motif_counts
from tiltflow.domains.dna.data import gene_families, load_promoters, split_by_gene
from tiltflow.domains.dna.reference import Reference, build_reference
from tiltflow.domains.dna.statistics import kmer_spectrum

MOTIFS = [Pwm.from_consensus("TATA"), Pwm.from_consensus("GCN")]


def tokens_of(*texts: str) -> torch.Tensor:
    return torch.stack([encode(text) for text in texts])


ALLELES = tokens_of("TATATTCA", "TATACTCA", "TATATTCC", "GCGGGCAT", "ACGTACGT")
GENES = ["b", "b", "b", "a", "c"]


@pytest.fixture
def reference() -> Reference:
    return Reference.build(ALLELES, GENES, MOTIFS, torch.tensor([1, 7, 7, 2, 1]), p_value=0.05, info={"from": "here"})


@pytest.mark.parametrize("k", [1, 3, 6])
def test_every_gene_counts_alike(reference: Reference, k: int) -> None:
    each = torch.stack([kmer_spectrum(ALLELES[i : i + 1], k) for i in range(5)])
    expected = (each[:3].mean(0) + each[3] + each[4]) / 3
    torch.testing.assert_close(reference.spectrum(k), expected, rtol=0, atol=1e-15)
    hits = motif_counts(ALLELES, MOTIFS, 0.05).double()
    assert hits.sum() > 0
    torch.testing.assert_close(reference.motif_rate, (hits[:3].mean(0) + hits[3] + hits[4]) / 3, rtol=0, atol=1e-12)


def test_the_commonest_allele_stands_for_its_gene(reference: Reference) -> None:
    assert reference.genes == ("a", "b", "c")
    assert torch.equal(reference.tokens, ALLELES[[3, 1, 4]])
    assert torch.equal(Reference.build(ALLELES, GENES).tokens, ALLELES[[3, 0, 4]])


def test_info_says_what_it_was_made_of(reference: Reference) -> None:
    assert reference.info == {"sequences": 5, "genes": 3, "length": 8, "motifs": 2, "from": "here"}


@pytest.mark.parametrize("length", [4, 5, 6, 7, 8])
def test_a_file_gives_back_the_same(tmp_path: Path, length: int) -> None:
    tokens = torch.randint(4, (30, length), generator=torch.Generator().manual_seed(0))
    made = Reference.build(tokens, [f"g{i}" for i in range(30)], [*MOTIFS, Pwm.from_counts("x", torch.eye(4) + 0.1)])
    made.save(tmp_path / "reference.safetensors")
    read = Reference.load(tmp_path / "reference.safetensors")
    assert torch.equal(read.tokens, made.tokens)
    assert (read.genes, read.p_value, read.info) == (made.genes, made.p_value, made.info)
    assert read.spectra.keys() == made.spectra.keys() == {k for k in (1, 3, 6) if k <= length}
    assert all(torch.equal(read.spectra[k], made.spectra[k]) for k in made.spectra)
    assert torch.equal(read.motif_rate, made.motif_rate)
    for a, b in zip(read.motifs, made.motifs, strict=True):
        assert torch.equal(a.log_odds, b.log_odds)
        assert (a.name, a.background, a.pseudocount) == (b.name, b.background, b.pseudocount)
    assert [path.name for path in tmp_path.iterdir()] == ["reference.safetensors"]


def test_a_reference_without_motifs_is_kept_too(tmp_path: Path) -> None:
    Reference.build(ALLELES, GENES).save(tmp_path / "plain.safetensors")
    read = Reference.load(tmp_path / "plain.safetensors")
    assert read.motifs == ()
    assert read.motif_hits(ALLELES).shape == (5, 0)


def test_numbers_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="5 sequences, 4 groups, 5 isolates"):
        Reference.build(ALLELES, GENES[:4])
    with pytest.raises(ValueError, match="5 sequences, 5 groups, 1 isolates"):
        Reference.build(ALLELES, GENES, isolates=torch.ones(1))


def test_a_spectrum_that_was_not_counted_is_refused(reference: Reference) -> None:
    with pytest.raises(ValueError, match=r"k in \[1, 3, 6\], not for 4"):
        reference.spectrum(4)


def test_foreign_and_damaged_files_are_refused(tmp_path: Path, reference: Reference) -> None:
    path = tmp_path / "reference.safetensors"
    reference.save(path)
    whole = path.read_bytes()
    for content in (b"", b"not tensors", whole[:100], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"reference\.safetensors"):
            Reference.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(StorageError, match="not written by tiltflow"):
        Reference.load(path)
    save_tensors(path, {"a": torch.zeros(1)}, {"kind": "prior"})
    with pytest.raises(StorageError, match="expected 'dna reference'"):
        Reference.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Reference.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": ["a"]}, "disagree"),
        ({"length": 80}, "do not hold 80 bases"),
        ({"motifs": []}, "disagree"),
        ({"genes": None}, "TypeError"),
        ({"motifs": [["x", 3, [0.25] * 4, 0.8], ["y", 99, [0.25] * 4, 0.8]]}, "RuntimeError"),
        ({"p_value": None, "info": None, "length": "8"}, "TypeError"),
    ],
)
def test_metadata_that_contradict_the_tensors_are_refused(
    tmp_path: Path, reference: Reference, change: dict[str, object], message: str
) -> None:
    tensors = {"sequences": torch.zeros(3, 2, dtype=torch.uint8), "motif_rate": torch.zeros(2)}
    tensors |= {"spectrum_1": torch.zeros(4), "motif_log_odds": torch.zeros(7, 4)}
    save_tensors(tmp_path / "odd.safetensors", tensors, reference._metadata() | change)
    with pytest.raises(StorageError, match=f"not a whole reference.*{message}"):
        Reference.load(tmp_path / "odd.safetensors")
    save_tensors(tmp_path / "sound.safetensors", tensors, reference._metadata())
    assert Reference.load(tmp_path / "sound.safetensors").genes == reference.genes
    save_tensors(tmp_path / "short.safetensors", tensors | {"spectrum_1": torch.zeros(3)}, reference._metadata())
    with pytest.raises(StorageError, match="a spectrum has the wrong length"):
        Reference.load(tmp_path / "short.safetensors")


def test_the_shipped_reference_is_of_yeast_promoters() -> None:
    shipped = Reference.load()
    assert {key: shipped.info[key] for key in ("sequences", "genes", "length", "motifs", "held_out", "seed")} == {
        "sequences": 55_989, "genes": 4_997, "length": 80, "motifs": 179, "held_out": 0.1, "seed": 0,
    }  # fmt: skip
    assert shipped.tokens.shape == (4_997, 80)
    assert len(set(shipped.genes)) == 4_997
    # Yeast promoters are AT-rich, and the strand that is read has more T than A.
    a, c, g, t = shipped.spectrum(1).tolist()
    assert t > a > c > g
    assert a + t == pytest.approx(0.63, abs=0.005)
    for k in (1, 3, 6):
        assert float(shipped.spectrum(k).sum()) == pytest.approx(1, abs=1e-12)
    own = kmer_spectrum(shipped.tokens, 3)
    torch.testing.assert_close(own, shipped.spectrum(3), rtol=0, atol=3e-4)
    rates = dict(zip((motif.name for motif in shipped.motifs), shipped.motif_rate.tolist(), strict=True))
    reb1 = next(rate for name, rate in rates.items() if name.endswith(".REB1"))
    assert 0.01 < reb1 < 0.5  # a common general regulatory factor: in a few per cent of the promoters


def test_no_held_out_gene_is_in_the_shipped_reference(data_dir: Path) -> None:
    promoters = load_promoters(data_dir)
    _, away = split_by_gene(gene_families(promoters))
    held_out = {gene for gene, out in zip(promoters.genes, away.tolist(), strict=True) if out}
    assert len(held_out) == 572
    assert not held_out & set(Reference.load().genes)


@pytest.mark.slow
def test_the_public_files_give_the_shipped_reference(data_dir: Path) -> None:
    made, shipped = build_reference(data_dir), Reference.load()
    assert made.genes == shipped.genes
    assert made.info == shipped.info
    assert torch.equal(made.tokens, shipped.tokens)
    for k in (1, 3, 6):
        torch.testing.assert_close(made.spectrum(k), shipped.spectrum(k), rtol=0, atol=1e-12)
    torch.testing.assert_close(made.motif_rate, shipped.motif_rate, rtol=0, atol=1e-12)
