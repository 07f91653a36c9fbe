"""Loaders on small files written here, relatives on built cases, and the published files where they are at hand."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiltflow.dna import decode, reverse_complement
from tiltflow.domains.dna.data import (
    FLANKS,
    PROMOTER_FILES,
    DataError,
    Promoters,
    commonest,
    expression_families,
    expression_folds,
    gene_families,
    load_expression,
    load_motifs,
    load_promoters,
    split_by_gene,
)
from tiltflow.domains.dna.relatives import families, split_families
from tiltflow.domains.shares import assign

HEADER = "proName\tortho_seq\tnum_isolates\n"
A, B = "ACGT" * 20, "TTGAC" * 16


def random_tokens(rows: int, length: int = 80, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, (rows, length), generator=torch.Generator().manual_seed(seed))


def promoter_file(folder: Path, text: str, name: str = PROMOTER_FILES[0]) -> Path:
    with gzip.open(folder / name, "wt") as file:
        file.write(text)
    return folder


def measured_files(folder: Path, **rows: list[tuple[str, object]]) -> Path:
    """All six files; `Random_defined` with its other column name, as published."""
    for subset in ("Native", "Random", "SSWM"):
        for medium in ("complex", "defined"):
            name = f"{subset}_{medium}"
            column = "seq110" if name == "Random_defined" else "sequence"
            lines = [f",{column},Measured Expression"]
            lines += [f"{i},{x},{y}" for i, (x, y) in enumerate(rows.get(name, []))]
            (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def construct(insert: str) -> str:
    return (FLANKS[0] + insert + FLANKS[1]).rjust(110, "N")


# promoters


@pytest.mark.parametrize("name", PROMOTER_FILES)
@pytest.mark.parametrize("nested", [True, False])
def test_promoters_are_read_and_lines_with_n_counted(tmp_path: Path, name: str, nested: bool) -> None:
    folder = tmp_path / "dna" / "yeast" if nested else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{HEADER}YAL001C.2\t{A}\t3\nYAL001C.2\t{'N' + A[1:]}\t1\nYBR016W-A.2\t{B}\t1011\n"
    promoter_file(folder, text, name)
    promoters = load_promoters(tmp_path)
    assert decode(promoters.tokens) == [A, B]
    assert promoters.genes == ("YAL001C", "YBR016W-A")
    assert promoters.isolates.tolist() == [3, 1011]
    assert promoters.skipped == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"YAL001C.2\t{A}", "line 2"),
        (f"YAL001C.2\t{A[:79]}\t1", "line 2"),
        (f"YAL001C.2\t{A.lower()}\t1", "line 2"),
        (f"YAL001C.2\t{A}\tmany", "line 2"),
        (f"YAL001C.2\t{'N' * 80}\t1", "no promoter without N"),
    ],
)
def test_bad_promoter_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_promoters(promoter_file(tmp_path, HEADER + line + "\n"))


@pytest.mark.parametrize("damage", [b"plain text", None])
def test_damaged_gzip_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = promoter_file(tmp_path, HEADER + f"YAL001C.2\t{A}\t1\n" * 50) / PROMOTER_FILES[0]
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(DataError, match="not a whole gzip text file"):
        load_promoters(tmp_path)


@pytest.mark.parametrize("load", [load_promoters, load_expression, load_motifs])
def test_missing_files_say_where_they_are_published(tmp_path: Path, load: object) -> None:
    with pytest.raises(FileNotFoundError, match=r"set data_dir\. Public source"):
        load(tmp_path)  # type: ignore[operator]


def test_commonest_is_the_sequence_of_most_isolates() -> None:
    promoters = Promoters(random_tokens(4), ("a", "b", "a", "a"), torch.tensor([2, 1, 5, 5]), 0)
    assert commonest(promoters).tolist() == [2, 1]


def test_genes_never_cross_a_split_and_new_genes_move_none() -> None:
    genes = [f"gene{i // 3}" for i in range(3000)]
    train, away = split_by_gene(genes, 0.1, seed=4)
    assert torch.equal(train, ~away)
    assert all(len(set(away[i : i + 3].tolist())) == 1 for i in range(0, 3000, 3))
    assert 60 < int(away[::3].sum()) < 140  # 1 000 genes at 10 %: four standard deviations
    assert torch.equal(split_by_gene(genes[:900], 0.1, seed=4)[1], away[:900])
    assert not torch.equal(split_by_gene(genes, 0.1, seed=5)[1], away)


def test_the_hash_is_the_same_in_every_version() -> None:
    assert assign(["YAL001C", "YBR016W", "YCL066W", "YDR007W"], {"x": 0.5, "y": 0.5}).tolist() == ["y", "y", "y", "x"]


def test_shares_must_add_up() -> None:
    assert set(assign(["a", "b"], {"x": 1.0, "y": 0.0}).tolist()) == {"x"}
    with pytest.raises(ValueError, match="add up to 1"):
        assign(["a"], {"x": 0.5, "y": 0.4})
    with pytest.raises(ValueError, match="a fraction of the genes"):
        split_by_gene(["a"], 1.5)


def test_genes_that_share_sequence_are_one_family() -> None:
    tokens = random_tokens(5)
    tokens[1, :40] = tokens[0, 40:]  # neighbours whose windows overlap
    tokens[4, 10:45] = reverse_complement(tokens[2])[5:40]  # genes that face away from each other
    promoters = Promoters(tokens, ("b", "a", "d", "e", "c"), torch.ones(5), 0)
    assert gene_families(promoters) == ["a", "a", "c", "e", "c"]


# relatives


def test_families_are_linked_by_words_on_either_strand_and_through_others() -> None:
    tokens = random_tokens(6, 40)
    tokens[2, 5:25] = tokens[0, 15:35]
    tokens[5] = reverse_complement(tokens[2])
    tokens[3, 20:39] = tokens[1, 3:22]  # 19 letters: one short
    tokens[3, 19], tokens[3, 39] = (tokens[1, 2] + 1) % 4, (tokens[1, 22] + 1) % 4
    assert families(tokens, word=20).tolist() == [0, 1, 0, 3, 4, 0]
    assert families(tokens, word=19).tolist() == [0, 1, 0, 1, 4, 0]


def test_dense_substitutions_are_caught_by_alignment() -> None:
    tokens = random_tokens(4)
    tokens[3] = tokens[1]
    tokens[3, ::8] = (tokens[3, ::8] + 1) % 4  # 10 of 80, never 8 equal letters in a row
    assert families(tokens, word=20).tolist() == [0, 1, 2, 3]
    assert families(tokens, word=20, matches=70).tolist() == [0, 1, 2, 1]
    assert families(tokens, word=20, matches=71).tolist() == [0, 1, 2, 3]


def test_groups_are_tied_from_the_start() -> None:
    tokens = random_tokens(4)
    tokens[2] = tokens[0]
    assert families(tokens, word=20, group=[7, 3, 3, 5]).tolist() == [3, 3, 3, 5]


def test_long_chains_become_one_family() -> None:
    genome = random_tokens(1, 3000, seed=2)[0]
    order = torch.randperm(149, generator=torch.Generator().manual_seed(1))
    windows = genome.unfold(0, 40, 20)[:149][order]  # each shares 20 letters with the next
    assert set(families(windows, word=20).tolist()) == {0}


def test_parts_are_as_large_as_asked_and_hold_whole_families() -> None:
    generator = torch.Generator().manual_seed(0)
    parents = torch.randint(4, (60, 50), generator=generator)
    tokens = parents[torch.arange(60).repeat_interleave(torch.arange(60) % 5 + 1)]  # 1 to 5 copies each
    rows = torch.randperm(len(tokens), generator=generator)
    for relatives in (True, False):
        family, part = split_families(tokens[rows], {"a": 0.4, "b": 0.4, "test": 0.2}, relatives=relatives)
        assert len(set(family.tolist())) == 60
        assert len({*zip(family.tolist(), part.tolist(), strict=True)}) == 60
        sizes = [int((part == name).sum()) for name in ("a", "b", "test")]
        assert sizes == [72, 72, 36]
    again = split_families(tokens, {"a": 0.4, "b": 0.4, "test": 0.2})[1]
    assert (part == again[rows]).mean() == 1  # by the letters, not by their order
    assert (part != split_families(tokens[rows], {"a": 0.4, "b": 0.4, "test": 0.2}, seed=1)[1]).any()


def test_no_part_stays_empty_that_need_not() -> None:
    tokens = torch.randint(4, (2, 50), generator=torch.Generator().manual_seed(0)).repeat_interleave(5, 0)
    shares = {"train": 0.9, "out": 0.1}
    assert sorted(set(split_families(tokens, shares)[1].tolist())) == ["out", "train"]
    assert set(split_families(tokens[:5], shares)[1].tolist()) == {"train"}
    with pytest.raises(ValueError, match="add up to 1"):
        split_families(tokens, {"train": 0.5})


def test_short_sequences_agree_by_chance_and_are_no_relatives_for_it() -> None:
    """Among 300 random 12-mers many pairs agree at 70 % of the positions."""
    tokens = torch.randint(4, (300, 12), generator=torch.Generator().manual_seed(0)).unique(dim=0)
    assert len(set(families(tokens, word=12, matches=8).tolist())) < 250
    family, _ = split_families(tokens, {"a": 0.5, "b": 0.5})
    assert len(set(family.tolist())) > 290


@pytest.mark.parametrize("word", [0, 32, 81])
def test_impossible_words_are_refused(word: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 31"):
        families(random_tokens(2), word=word)


# measurements


def test_measurements_are_one_row_per_sequence(tmp_path: Path) -> None:
    x, y, z = decode(random_tokens(3, seed=8))
    folder = measured_files(
        tmp_path,
        Native_complex=[(construct(x), 3.5)],
        Native_defined=[(construct(x), 2.0), (construct(y), 8.0)],
        Random_defined=[(construct(z), 1.25)],
        SSWM_complex=[(construct(z), 6.0), (construct(z), 7.0)],
    )
    measured = load_expression(folder)
    assert decode(measured.tokens) == [x, y, z]
    assert measured.subset.tolist() == ["Native", "Native", "Random"]
    expected = torch.tensor([[3.5, 2.0], [torch.nan, 8.0], [6.5, 1.25]], dtype=torch.float64)
    torch.testing.assert_close(measured.expression, expected, equal_nan=True, rtol=0, atol=0)
    assert measured.skipped == 0


def test_short_inserts_are_completed_with_the_flank(tmp_path: Path) -> None:
    whole, short = decode(random_tokens(2, seed=8))
    rows = [(construct(short[3:]), 1.0), (construct(whole)[:-1] + "A", 2.0), (construct("N" + whole[1:]), 3.0)]
    measured = load_expression(measured_files(tmp_path, Random_complex=rows))
    assert decode(measured.tokens) == [FLANKS[0][-3:] + short[3:]]
    assert measured.skipped == 2  # another 3' flank, an N inside


@pytest.mark.parametrize("level", ["", "high", "nan", "inf"])
def test_unreadable_levels_are_named_with_their_line(tmp_path: Path, level: str) -> None:
    folder = measured_files(tmp_path, SSWM_defined=[(construct(A), 1.0), (construct(B), level)])
    with pytest.raises(DataError, match=r"SSWM_defined.csv, line 3: .* not a finite number"):
        load_expression(folder)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    folder = measured_files(tmp_path)
    (folder / "Native_complex.csv").write_text("sequence,expression\n")
    with pytest.raises(DataError, match="line 1: no column 'Measured Expression'"):
        load_expression(folder)


# the published files


@pytest.fixture(scope="module")
def data_dir() -> str:
    if not os.environ.get("TILTFLOW_DATA"):
        pytest.skip("set TILTFLOW_DATA to the folder that holds dna/yeast (see tiltflow.domains.dna.data.SOURCE)")
    return os.environ["TILTFLOW_DATA"]


def test_published_promoters(data_dir: str) -> None:
    promoters = load_promoters(data_dir)
    assert (len(promoters.tokens), promoters.skipped, len(set(promoters.genes))) == (62225, 256, 5569)
    assert promoters.isolates.min() >= 1
    family = gene_families(promoters)
    assert len(set(family)) == 5154
    train, away = split_by_gene(family)
    known = set(decode(promoters.tokens[train]))
    assert not known & set(decode(promoters.tokens[away]))


@pytest.mark.slow
def test_no_relatives_cross_the_published_folds(data_dir: str) -> None:
    measured = load_expression(data_dir)
    assert Counter(measured.subset.tolist()) == {"Native": 3788, "Random": 6699, "SSWM": 15141}
    assert measured.skipped == 1
    fold = expression_folds(measured, expression_families(measured))
    letters = torch.nn.functional.one_hot(measured.tokens, 4).float().flatten(1)
    for one, other in (("A", "B"), ("A", "test"), ("B", "test")):
        x, y = letters[torch.from_numpy(fold == one)], letters[torch.from_numpy(fold == other)]
        assert max(float((x @ part.T).max()) for part in y.split(1000)) < 56
    assert abs(float(np.mean(fold == "test")) - 0.1) < 0.03


def test_published_motifs(data_dir: str) -> None:
    assert len(load_motifs(data_dir)) == 179
