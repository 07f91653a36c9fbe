"""Sequences to tokens and back: exact round trips, and errors that name file, line and fix."""

from __future__ import annotations

import gzip
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiltflow.dna import DnaError
from tiltflow.domains.dna.codec import CodecError, DnaCodec

CODEC = DnaCodec(8)
TEXTS = ["ACGTACGT", "TTTTAAAA", "GGGGCCCC"]
TOKENS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [3, 3, 3, 3, 0, 0, 0, 0], [2, 2, 2, 2, 1, 1, 1, 1]])


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes to a file and gives its path."""

    def write(content, name="in.fasta"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def random_tokens(rows: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 4, (rows, length), generator=torch.Generator().manual_seed(seed))


def message(call, *args, **options) -> str:
    with pytest.raises(CodecError) as caught:
        call(*args, **options)
    return str(caught.value)


def answer(call, *args):
    """(result, None) or (None, message of the refusal); any other exception comes through."""
    try:
        return call(*args), None
    except CodecError as error:
        return None, str(error)


# --- texts ---------------------------------------------------------------------------------------------------------


def test_encode_is_acgt_in_order():
    tokens = CODEC.encode(TEXTS)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, TOKENS)


def test_encode_folds_ascii_case_only():
    assert torch.equal(CODEC.encode(["acgtACGT"]), TOKENS[:1])
    assert "'ß'" in message(CODEC.encode, ["ACGTACß"])  # str.upper would make it SS: two letters


def test_decode_inverts_encode():
    tokens = random_tokens(50, 80, 0)
    codec = DnaCodec()
    assert torch.equal(codec.encode(codec.decode(tokens)), tokens)


def test_a_mask_is_shown_only_when_asked():
    tokens = torch.tensor([[0, 1, 2, 3], [3, 4, 4, 0]])
    assert CODEC.decode(tokens, mask="-") == ["ACGT", "T--A"]
    text = message(CODEC.decode, tokens)
    assert "sequence 2, position 2" in text
    assert "mask='-'" in text


@pytest.mark.parametrize("mask", ["A", "", "--", "é"])
def test_a_mask_letter_must_be_one_that_is_no_base(mask):
    assert "mask=" in message(CODEC.decode, TOKENS, mask=mask)


@pytest.mark.parametrize(
    "tokens", [torch.tensor([[0, 5]]), torch.tensor([[0, -1]]), torch.zeros(3), torch.ones(2, 2) > 0, "ACGT", None]
)
def test_decode_refuses_what_are_no_tokens(tokens):
    assert "tokens:" in message(CODEC.decode, tokens)


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["ACGTACGT", "ACGTNCGT"], ["sequence 2, position 5", "'N' is ambiguous (A, C, G, T)"]),
        (["ACG-ACGT"], ["sequence 1, position 4", "a gap"]),
        (["ACGUACGT"], ["sequence 1, position 4", "write T for U"]),
        (["ACGTACGE"], ["sequence 1, position 8", "is this a protein?"]),
        (["ACGTNCG\0"], ["sequence 1, position 8", r"'\x00' is not a DNA letter"]),
        (["ACGT"], ["sequence 1", "has 4 letters, expected 8"]),
        ([""], ["sequence 1", "no letters"]),
        ("ACGTACGT", ["write [text]"]),
        ([None], ["sequence 1: NoneType"]),
        ([b"ACGTACGT"], ["sequence 1: bytes"]),
    ],
)
def test_encode_names_sequence_position_and_fix(texts, parts):
    text = message(CODEC.encode, texts)
    assert all(part in text for part in parts), text


def test_encode_lists_all_problems_at_once_ten_and_a_count():
    text = message(CODEC.encode, ["ACGTACGN"] * 13)
    assert "13 problems" in text
    assert "sequence 10, position 8" in text
    assert "sequence 11" not in text
    assert text.endswith("and 3 more")


def test_encode_of_nothing_is_empty():
    assert CODEC.encode([]).shape == (0, 8)


@pytest.mark.parametrize("length", [0, -1, 1.5, True, "80"])
def test_a_length_is_a_positive_whole_number(length):
    assert "length=" in message(DnaCodec, length)


def test_without_a_length_the_most_common_one_is_expected():
    codec = DnaCodec(None)
    assert codec.encode(["ACG", "TTT"]).shape == (2, 3)
    assert "sequence 1" in message(codec.encode, ["A", "ACG", "TTT"])


# --- FASTA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("wrap", [3, 8, 100])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_fasta_reads_any_wrapping_line_ends_and_gzip(write, end, wrap, pack):
    wrapped = [end.join(text[i : i + wrap] for i in range(0, 8, wrap)) for text in TEXTS]
    text = end.join(f">s{i} gene {i}{end}{body}" for i, body in enumerate(wrapped))  # no line end at the end
    read = CODEC.read_fasta(write(pack(text.encode())))
    assert torch.equal(read.tokens, TOKENS)
    assert read.names == ("s0", "s1", "s2")
    assert read.descriptions == ("gene 0", "gene 1", "gene 2")


def test_fasta_reads_a_byte_order_mark_blank_lines_and_blanks_around(write):
    read = CODEC.read_fasta(write(b"\xef\xbb\xbf\n> a \n\n  ACGT\t\n\nACGT  \n\n"))
    assert read.names == ("a",)
    assert torch.equal(read.tokens, TOKENS[:1])


@pytest.mark.parametrize("width", [1, 7, 80])
@pytest.mark.parametrize("name", ["out.fasta", "out.fa.gz"])
def test_fasta_round_trip_is_exact(tmp_path, width, name):
    tokens = random_tokens(20, 33, 1)
    names = [f"g|{i};é" for i in range(20)]
    notes = [f"ORF {i}, >weird = text" for i in range(20)]
    codec = DnaCodec(33)
    codec.write_fasta(tmp_path / name, tokens, names, notes, width=width)
    read = codec.read_fasta(tmp_path / name)
    assert torch.equal(read.tokens, tokens)
    assert read.names == tuple(names)
    assert read.descriptions == tuple(notes)
    again = tmp_path / f"again-{name}"
    codec.write_fasta(again, read.tokens, read.names, read.descriptions, width=width)
    assert again.read_bytes() == (tmp_path / name).read_bytes()


def test_fasta_text_is_what_it_should_be(tmp_path):
    samples = SimpleNamespace(x=TOKENS[:2], reward=torch.tensor([1.5, -2.0]), log_weight=torch.tensor([0.1, 0.0]))
    CODEC.write_fasta(tmp_path / "a.fasta", samples, names=["x", "y"], descriptions=["first", ""], width=5)
    assert (tmp_path / "a.fasta").read_text() == (
        ">x reward=1.5 log_weight=0.1 first\nACGTA\nCGT\n>y reward=-2.0 log_weight=0.0\nTTTTA\nAAA\n"
    )


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["empty file", "line 1"]),
        (" \n\n", ["empty file"]),
        ("ACGTACGT\n", ["line 1: text before the first header"]),
        (">a\nACGTACGT\n>b\n>c\nACGTACGT\n", ["line 3: sequence 'b' has no letters"]),
        (">\nACGTACGT\n", ["line 1: header without a name"]),
        (">a\nACGT\nACNT\n", ["line 3, position 3: 'N' is ambiguous", "ambiguous='skip'"]),
        (">a\nACG T\n", ["line 2, position 4: ' ' is not a DNA letter"]),
        (">a\nACGT\n", ["line 1: sequence 'a' has 4 letters, expected 8", "wrong_length='skip'"]),
        (b">a\nACGT\0CGT\n", ["line 2: binary data (a NUL byte at offset 7)"]),
        (b">a\nACGT\xffCGT\n", ["line 2: byte 0xff is not UTF-8"]),
        (">a\nACGTACGT\n".encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
        (b"\x1f\x8b broken", ["damaged gzip"]),
        (gzip.compress(b">a\nACGTACGT\n" * 99, mtime=0)[:-9], ["damaged gzip"]),
        (gzip.compress(b"", mtime=0), ["empty file"]),
    ],
)
def test_a_bad_fasta_is_refused_with_file_line_and_fix(write, content, parts):
    path = write(content)
    text = message(CODEC.read_fasta, path)
    assert str(path) in text
    assert all(part in text for part in parts), text


def test_all_problems_of_a_file_come_together_in_the_order_of_lines(write):
    text = message(CODEC.read_fasta, write(">a\nACGT\n>b\nACGTACGN\n>c\n>\nACGTACGT\n>d\nACGTACGT\n>e\nAAAA*AAA\n"))
    lines = text.splitlines()
    assert "5 problems" in lines[0]
    places = [line.strip().split(":")[0] for line in lines[1:]]
    assert places == ["line 1", "line 4, position 8", "line 5", "line 6", "line 11, position 5"]


def test_policies_skip_count_and_report(write):
    path = write(">a\nACGTACGT\n>b\nACGTACGN\n>c\nAC\n>d\nttttAAAA\n>d\nGGGGCCCC\n")
    read = CODEC.read_fasta(path, ambiguous="skip", wrong_length="skip")
    assert read.names == ("a", "d", "d")
    assert torch.equal(read.tokens, TOKENS)
    assert (read.report.found, read.report.kept, read.report.lower_case, read.report.repeated_names) == (5, 3, 1, 1)
    assert read.report.counts == {"ambiguous": 1, "wrong_length": 1}
    assert [text.split(":")[0] for text in read.report.skipped] == ["line 4, position 8", "line 5"]
    assert "3 of 5 sequences kept; skipped 1: ambiguous; skipped 1: wrong length" in str(read.report)
    assert "line 4" in message(CODEC.read_fasta, path, wrong_length="skip")
    assert "line 5" in message(CODEC.read_fasta, path, ambiguous="skip")


def test_skipping_covers_no_letter_that_is_plainly_wrong(write):
    assert "line 2, position 8" in message(CODEC.read_fasta, write(">a\nNCGTACG7\n"), ambiguous="skip")


def test_a_file_of_which_nothing_is_left_is_an_error(write):
    text = message(CODEC.read_fasta, write(">a\nACGUACGU\n"), ambiguous="skip")
    assert "1 sequences, none left" in text
    assert "write T for U" in text


def test_flanks_are_required_and_stripped(write):
    path = write(">a\nTGCAACGTACGTGG\n>b\ntgcaTTTTAAAAgg\n>c\nTGCTACGTACGTGG\n")
    text = message(CODEC.read_fasta, path, prefix="TGCA", suffix="gg")
    assert "line 5: sequence 'c' has flanks TGCT...GG, expected TGCA...GG" in text
    assert "flanks='skip'" in text
    read = CODEC.read_fasta(path, prefix="TGCA", suffix="gg", flanks="skip")
    assert torch.equal(read.tokens, TOKENS[:2])
    assert "flanks" in message(CODEC.read_fasta, write(">a\nTGCAGG\n"), prefix="TGCAG", suffix="AGG")  # they overlap


@pytest.mark.parametrize("options", [{"ambiguous": "drop"}, {"flanks": None}, {"prefix": "NN"}, {"suffix": 3}])
def test_reading_options_are_checked(write, options):
    assert next(iter(options)) + "=" in message(CODEC.read_fasta, write(">a\nACGTACGT\n"), **options)


def test_paths_that_cannot_be_read(tmp_path, write):
    write(">a\nACGTACGT\n", "promoters.fasta")
    text = message(CODEC.read_fasta, tmp_path / "promotors.fasta")
    assert "promotors.fasta: no such file; did you mean 'promoters.fasta'?" in text
    assert "folder" in message(CODEC.read_fasta, tmp_path)
    assert "no readable folder" in message(CODEC.read_fasta, tmp_path / "none" / "a.fasta")
    assert "cannot be read" in message(CODEC.read_fasta, tmp_path / "promoters.fasta" / "a.fasta")
    assert "not a path" in message(CODEC.read_fasta, "a\0b")
    assert "not a path" in message(CODEC.read_fasta, None)


# --- CSV -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv_reads_columns_labels_and_names(write, end, delimiter):
    rows = ["id,seq,YPD,SC", "a,ACGTACGT,1.5,-2", "b, ttttaaaa ,1e-3,4", "", ",,,", 'c,"GGGGCCCC",3,5']
    path = write(end.join(rows).replace(",", delimiter), "in.csv")
    read = CODEC.read_csv(path, "seq", ["SC", "YPD"], names="id")
    assert torch.equal(read.tokens, TOKENS)
    assert read.names == ("a", "b", "c")
    assert list(read.labels) == ["SC", "YPD"]
    assert torch.equal(read.labels["YPD"], torch.tensor([1.5, 1e-3, 3.0], dtype=torch.float64))
    assert torch.equal(read.labels["SC"], torch.tensor([-2.0, 4.0, 5.0], dtype=torch.float64))
    assert CODEC.read_csv(path, "seq").names == ("seq1", "seq2", "seq3")
    assert list(CODEC.read_csv(path, "seq", "YPD").labels) == ["YPD"]  # one label needs no list


def test_the_unnamed_index_column_of_a_data_frame_is_no_obstacle(write):
    for delimiter in ",\t;":
        path = write(f"\n{delimiter}sequence\n0{delimiter}ACGTACGT\n", "in.csv")
        assert torch.equal(CODEC.read_csv(path).tokens, TOKENS[:1])


def test_missing_labels_are_nan_and_counted(write):
    content = "sequence,a,b,c\nACGTACGT,1,,2\nACGTACGT, ,NA,3\nACGTACGT,2,5,nan\nACGT,,,\n"
    read = CODEC.read_csv(write(content, "in.csv"), labels=["a", "b", "c"], wrong_length="skip")
    assert read.labels["a"].isnan().tolist() == [False, True, False]
    assert read.labels["b"].isnan().tolist() == [True, True, False]
    assert read.labels["a"][[0, 2]].tolist() == [1, 2]
    assert read.report.missing == {"a": 1, "b": 2, "c": 1}  # of the rows that are kept
    assert "b: 2 of 3 missing" in str(read.report)
    assert " missing" not in str(CODEC.read_csv(write(HEADER + "ACGTACGT,1\n", "whole.csv"), labels="YPD").report)


def test_csv_round_trip_is_exact(tmp_path):
    tokens = random_tokens(30, 8, 2)
    numbers = torch.randn(30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    holes = torch.where(numbers > 0, numbers, torch.nan)
    names = [f'{i}, "quoted"; é' for i in range(30)]
    path = tmp_path / "out.csv.gz"
    columns = {"name": names, "sequence": tokens, "a": numbers, "b": numbers.float(), "c": numbers.tolist(), "d": holes}
    CODEC.write_csv(path, columns)
    read = CODEC.read_csv(path, labels=("a", "b", "c", "d"))
    assert torch.equal(read.tokens, tokens)
    assert torch.equal(read.labels["d"].nan_to_num(-9), holes.nan_to_num(-9))
    assert read.names == tuple(names)
    assert torch.equal(read.labels["a"], numbers)
    assert torch.equal(read.labels["b"].float(), numbers.float())
    assert torch.equal(read.labels["c"], numbers)
    assert gzip.decompress(path.read_bytes()).count(b"\r") == 0


def test_csv_of_samples_has_reward_and_log_weight(tmp_path):
    samples = SimpleNamespace(
        x=TOKENS[:2], reward=torch.tensor([1.5, -torch.inf], requires_grad=True), log_weight=torch.zeros(2).bfloat16()
    )
    CODEC.write_csv(tmp_path / "a.csv", samples)
    assert (tmp_path / "a.csv").read_text() == (
        "name,sequence,reward,log_weight\nseq1,ACGTACGT,1.5,0.0\nseq2,TTTTAAAA,-inf,0.0\n"
    )
    CODEC.write_csv(tmp_path / "b.csv", {**CODEC.columns(samples, ["x", "y"]), "held_out": np.array([3, 4])})
    assert (tmp_path / "b.csv").read_text().splitlines()[1] == "x,ACGTACGT,1.5,0.0,3"
    CODEC.write_csv(tmp_path / "c.csv", SimpleNamespace(x=TOKENS, reward=None))
    assert (tmp_path / "c.csv").read_text().splitlines()[0] == "name,sequence"


HEADER = "sequence,YPD\n"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["empty file"]),
        (HEADER, ["no sequence in this file"]),
        ("Sequence,y\nACGTACGT,1\n", ["line 1: no column 'sequence'; did you mean 'Sequence'?", "no column 'YPD'"]),
        ("a,b\nACGTACGT,1\n", ["no column 'sequence' (the first line has 'a', 'b')"]),
        ("ACGTACGTAA,1\nACGTACGTAA,2\n", ["it looks like data: add a line with the column names"]),
        ("sequence,YPD,YPD\nACGTACGT,1,2\n", ["line 1: 2 columns are called 'YPD'"]),
        (HEADER + "ACGTACGT\n", ["line 2: 1 cells, the header has 2"]),
        (HEADER + "ACGTACGT,1,5\n", ["line 2: 3 cells, the header has 2"]),
        (HEADER + "ACGTACGT,high\n", ["line 2: column 'YPD': 'high' is not a finite number"]),
        (HEADER + "ACGTACGT,inf\n", ["'inf' is not a finite number"]),
        (HEADER + "ACGTACGT,n.d.\n", ["'n.d.' is not a finite number", "leave the cell empty"]),
        (HEADER + "ACGTACGT,1_0\n", ["'1_0' is not a finite number"]),
        (HEADER + ",1\n", ["line 2: sequence 'seq1' has no letters"]),
        (HEADER + "ACNTACGT,1\n", ["line 2, position 3: 'N' is ambiguous"]),
        (HEADER + 'ACGTACGT,1\n"ACGT,1\nACGTACGT,2\n', ["line 3: unexpected end of data", "check the quotes"]),
        (HEADER + "ACGT\0CGT,1\n", ["line 2: binary data"]),
        (HEADER + "A" * 200_000 + ",1\n", ["line 2: field larger than field limit"]),
    ],
)
def test_a_bad_table_is_refused_with_file_line_and_fix(write, content, parts):
    path = write(content, "in.csv")
    text = message(CODEC.read_csv, path, labels=["YPD"])
    assert str(path) in text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("delimiter", ["", ",,", "\n", '"', 3])
def test_a_delimiter_is_one_character(write, delimiter):
    path = write(HEADER + "ACGTACGT,1\n", "in.csv")
    assert f"{path}: delimiter={delimiter!r}; expected one character" in message(
        CODEC.read_csv, path, delimiter=delimiter
    )


def test_lines_are_counted_through_quoted_line_breaks_and_blank_lines(write):
    path = write('note,sequence\n"two\nlines",ACGTACGT\n\nx,ACGTACGN\n', "in.csv")
    assert "line 5, position 8" in message(CODEC.read_csv, path)


def test_all_problems_of_a_table_come_together(write):
    text = message(CODEC.read_csv, write(HEADER + "ACGT,1\nACGTACGT,x\nNCGTACGT,\nA,1,2\n", "in.csv"), labels="YPD")
    places = [line.strip().split(":")[0] for line in text.splitlines()[1:]]
    assert places == ["line 2", "line 3", "line 4, position 1", "line 5"]


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_file_is_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "a.fasta"
    CODEC.write_fasta(path, TOKENS[:1])
    before = path.read_bytes()
    assert "overwrite=True" in message(CODEC.write_fasta, path, TOKENS[1:])
    assert path.read_bytes() == before
    CODEC.write_fasta(path, TOKENS[1:], overwrite=True)
    assert torch.equal(CODEC.read_fasta(path).tokens, TOKENS[1:])
    assert os.listdir(tmp_path) == ["a.fasta"]  # no temporary file stays


def test_unwritable_places_are_clear_errors(tmp_path, write):
    path = write("x", "file")
    for target in (tmp_path / "none" / "a.fasta", path / "a.fasta", tmp_path / ("n" * 300)):
        assert f"{target}: cannot be written" in message(CODEC.write_fasta, target, TOKENS)
    assert "overwrite" in message(CODEC.write_fasta, tmp_path, TOKENS)
    assert "cannot be written" in message(CODEC.write_fasta, tmp_path, TOKENS, overwrite=True)
    assert "not a path" in message(CODEC.write_csv, "a\0b", {"x": [1]})
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_a_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in message(CODEC.write_fasta, tmp_path / "a.fasta", TOKENS)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"names": ["a"]}, "different lengths: name 1, sequence 3"),
        ({"names": ["a", "b c", "d"]}, "'b c': expected one word"),
        ({"names": ["a", "", "d"]}, "expected one word"),
        ({"names": ["a", "b\n", "d"]}, "sequence 2, column 'name': control character"),
        ({"names": ["a", "\ud800", "d"]}, "lone surrogate"),
        ({"descriptions": ["x", "y", "z\r>fake"]}, "sequence 3, column 'description': control character"),
        ({"descriptions": "xyz"}, "expected one value for each sequence"),
        ({"width": 0}, "width=0"),
    ],
)
def test_headers_that_would_not_come_back_are_refused(tmp_path, options, part):
    text = message(CODEC.write_fasta, tmp_path / "a.fasta", TOKENS, **options)
    assert part in text
    assert os.listdir(tmp_path) == []


def test_nothing_unfinished_or_misshapen_is_written(tmp_path):
    path = tmp_path / "a"
    assert "position 1: token 4" in message(CODEC.write_fasta, path, torch.full((1, 8), 4))
    assert "no sequence to write" in message(CODEC.write_fasta, path, TOKENS[:0])
    assert "tokens: dict" in message(CODEC.write_fasta, path, {"x": TOKENS})
    assert "different lengths: a 2, b 1" in message(CODEC.write_csv, path, {"a": [1, 2], "b": [1]})
    assert "column 'a'" in message(CODEC.write_csv, path, {"a": torch.tensor(1.0)})
    assert "column 'a'" in message(CODEC.write_csv, path, {"a": 3})
    assert not path.exists()


# --- real files ----------------------------------------------------------------------------------------------------


def test_the_public_files_are_read_and_come_back(tmp_path, data_dir):
    codec, yeast = DnaCodec(80), data_dir / "dna" / "yeast"
    natural = codec.read_csv(
        yeast / "native80_orthologous_unique.txt.gz", "ortho_seq", "num_isolates", names="proName", ambiguous="skip"
    )
    assert (natural.report.found, len(natural), natural.report.counts) == (62_481, 62_225, {"ambiguous": 256})
    codec.write_fasta(tmp_path / "natural.fasta.gz", natural.tokens, natural.names)
    again = codec.read_fasta(tmp_path / "natural.fasta.gz")
    assert torch.equal(again.tokens, natural.tokens)
    assert again.names == natural.names
    flanks = {"prefix": "TGCATTTTTTTCACATC", "suffix": "GGTTACGGCTGTT"}
    policies = {"ambiguous": "skip", "flanks": "skip"}
    measured = codec.read_csv(yeast / "Random_complex.csv", labels="Measured Expression", **flanks, **policies)
    assert (len(measured), measured.report.counts) == (2_375, {"ambiguous": 540, "flanks": 39})


# --- any bytes at all ----------------------------------------------------------------------------------------------

LETTERS = [*"ACGTacgtNRUnu-.*>;,\t\n\r \"'0159_eEißſé中\u2028\x85\x0b\x1f\0", "\ud800"]
PIECES = [*LETTERS, *["ACGT", "acgt", "ACGN", "\n", "\r\n", "\n>b\n", "\nACGT,1\n", ",2.5\n", "sequence", ",nan"] * 5]


def random_texts(number: int, longest: int, pool: list[str], seed: int):
    draw = np.random.default_rng(seed)
    picks = draw.integers(0, len(pool), (number, longest))
    lengths = draw.integers(0, longest + 1, number)
    for row, length in zip(picks.tolist(), lengths.tolist(), strict=True):
        yield "".join(pool[pick] for pick in row[:length])


def test_random_texts_are_encoded_or_refused_by_position():
    codec, right = DnaCodec(4), 0
    pool = [*LETTERS, *"ACGTacgt" * 20]  # a good part is right
    for text in random_texts(100_000, 6, pool, 0):
        tokens, refused = answer(codec.encode, [text])
        if refused is None:
            assert codec.decode(tokens) == [text.upper()]
            right += 1
        else:
            assert "sequence 1" in refused
            refused.encode()  # printable: no lone surrogate comes through
    assert 1_000 < right < 50_000


def test_random_files_are_read_or_refused_by_name(tmp_path):
    draw, right = np.random.default_rng(1), [0, 0, 0]
    codec, path = DnaCodec(4), tmp_path / "fuzz"
    readers = [codec.read_fasta, codec.read_csv, lambda path: codec.read_csv(path, labels="y", ambiguous="skip")]
    for number, text in enumerate(random_texts(3_000, 8, PIECES, 2)):
        content = [f">a\n{text}", f"sequence,y\nACGT,1\n{text}", text, f">a x\nACGT\n{text}"][number % 4]
        data = draw.bytes(len(text)) if number % 11 == 0 else content.encode(errors="surrogatepass")
        path.write_bytes(gzip.compress(data, mtime=0)[: int(draw.integers(2, 120))] if number % 13 == 0 else data)
        for index, read in enumerate(readers):
            _, refused = answer(read, path)
            right[index] += refused is None
            assert refused is None or str(path) in refused.encode().decode()
    assert min(right) > 5


def test_errors_are_value_errors_of_dna():
    assert issubclass(CodecError, DnaError)
    assert issubclass(DnaError, ValueError)
