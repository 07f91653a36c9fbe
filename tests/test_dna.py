"""The letters, strands and matrices of DNA, against Biopython, plain strings and enumeration."""

from __future__ import annotations

import io
import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiltflow import dna

WORDS = ["ACGTACGTTT", "TTTTTTTTTT", "GATTACAGAT", "CCGGAATTCC"]
TOKENS = torch.stack([dna.encode(word) for word in WORDS])


def motif(width: int, seed: int, name: str = "m") -> dna.Pwm:
    generator = torch.Generator().manual_seed(seed)
    return dna.Pwm.from_counts(name, torch.rand(width, 4, generator=generator, dtype=torch.float64) * 30)


def text_score(word: str, pwm: dna.Pwm) -> float:
    return sum(float(pwm.log_odds[w, "ACGT".index(letter)]) for w, letter in enumerate(word))


def strands(word: str) -> tuple[str, str]:
    return word, word[::-1].translate(str.maketrans("ACGT", "TGCA"))


def test_text_round_trip_and_case() -> None:
    assert dna.decode(TOKENS) == WORDS
    assert dna.encode("acgT").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("ACGN", "'N' at position 4"),
        ("AC-T", "'-' at position 3"),
        ("ACGU", "write T for U"),
        ("Aß", "'ß'"),
    ],
)
def test_encode_says_what_and_where(text: str, message: str) -> None:
    with pytest.raises(dna.DnaError, match=message):
        dna.encode(text)


def test_reverse_complement_of_tokens_masks_and_relaxed() -> None:
    assert dna.decode(dna.reverse_complement(TOKENS)) == [strands(word)[1] for word in WORDS]
    assert dna.reverse_complement(torch.tensor([0, 4, 1])).tolist() == [2, 4, 3]
    hot = dna.one_hot(TOKENS)
    assert torch.equal(dna.reverse_complement(hot), dna.one_hot(dna.reverse_complement(TOKENS)))
    masked = torch.tensor([[0, 4, 1]])
    relaxed = torch.nn.functional.one_hot(masked, 5).double()
    assert torch.equal(dna.reverse_complement(relaxed).argmax(-1), dna.reverse_complement(masked))


def test_one_hot_passes_relaxed_through_and_casts() -> None:
    relaxed = torch.rand(2, 3, 4)
    assert dna.one_hot(relaxed) is relaxed
    assert dna.one_hot(relaxed, torch.float64).dtype == torch.float64
    assert torch.equal(dna.one_hot(TOKENS, torch.float64).argmax(-1), TOKENS)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 3, 5), "mask channel"),
        (torch.rand(2, 4), r"expected \[B, L, 4\]"),
        (torch.tensor([[0, 1], [2, 4]]), r"token 4 \(the mask.*sequence 1, position 1"),
        (torch.tensor([[-1]]), "token -1 in sequence 0"),
        (torch.tensor([0, 1]), r"int64 tokens \[B, L\]"),
        (torch.tensor([[True]]), "bool"),
    ],
)
def test_one_hot_refuses(x: torch.Tensor, message: str) -> None:
    with pytest.raises(dna.DnaError, match=message):
        dna.one_hot(x)


def test_iupac_table_is_closed_under_complement_and_matches_biopython() -> None:
    from Bio.Data.IUPACData import ambiguous_dna_values

    for code, letters in dna.IUPAC.items():
        assert set(letters) == set(ambiguous_dna_values[code])
    assert dna.parse_iupac("taw").tolist() == [[False] * 3 + [True], [True] + [False] * 3, [True, False, False, True]]
    with pytest.raises(dna.DnaError, match="'X' at position 2 is not an IUPAC"):
        dna.parse_iupac("TX")


def test_pwm_is_the_log_odds_of_biopython() -> None:
    from Bio import motifs

    counts = {"A": [4.0, 19, 0], "C": [16.0, 0, 1], "G": [0.0, 1, 18], "T": [0.0, 0, 1]}
    background = {"A": 0.3, "C": 0.2, "G": 0.2, "T": 0.3}
    theirs = (
        motifs.Motif(counts=counts).counts.normalize({x: 2 * p for x, p in background.items()}).log_odds(background)
    )
    ours = dna.Pwm.from_counts("m", torch.tensor([counts[x] for x in "ACGT"]).T, 2.0, tuple(background.values()))
    expected = torch.tensor([list(theirs[x]) for x in "ACGT"], dtype=torch.float64).T * math.log(2)
    torch.testing.assert_close(ours.log_odds, expected, rtol=0, atol=1e-12)
    assert ours.max_score == pytest.approx(theirs.max * math.log(2))


def test_consensus_matrix_spreads_sites_by_background() -> None:
    pwm = dna.Pwm.from_consensus("AW", sites=10, pseudocount=1.0, background=(0.4, 0.1, 0.1, 0.4))
    odds = pwm.log_odds.exp()
    assert odds[0].tolist() == pytest.approx([10.4 / 11 / 0.4, 1 / 11, 1 / 11, 1 / 11])
    assert odds[1].tolist() == pytest.approx([5.4 / 11 / 0.4, 1 / 11, 1 / 11, 5.4 / 11 / 0.4])


@pytest.mark.parametrize(
    "build",
    [
        lambda: dna.Pwm.from_counts("m", torch.zeros(2, 4)),
        lambda: dna.Pwm.from_counts("m", torch.tensor([[1.0, -1, 1, 1]])),
        lambda: dna.Pwm.from_counts("m", torch.tensor([[1.0, math.nan, 1, 1]])),
        lambda: dna.Pwm.from_counts("m", torch.ones(2, 4), pseudocount=0),
        lambda: dna.Pwm.from_counts("m", torch.ones(2, 4), background=(0.5, 0.5, 0.0, 0.0)),
        lambda: dna.Pwm.from_counts("m", torch.ones(2, 3)),
        lambda: dna.Pwm.from_consensus("ACG", sites=0),
        lambda: dna.Pwm("m", torch.full((2, 4), -math.inf)),
    ],
)
def test_impossible_matrices_are_refused(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(dna.DnaError):
        build()


def test_scan_is_the_sum_over_the_window_on_both_strands() -> None:
    pwms = [motif(3, 0), motif(5, 1)]
    scores = dna.scan(TOKENS, pwms)
    for (b, word), (m, pwm), s in itertools.product(enumerate(WORDS), enumerate(pwms), range(10)):
        if s + pwm.width > 10:
            assert scores[b, m, :, s].tolist() == [-math.inf] * 2
        else:
            expected = [text_score(w, pwm) for w in strands(word[s : s + pwm.width])]
            assert scores[b, m, :, s].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p_value", [0.3, 0.01, 1e-3, 1e-5])
def test_counts_follow_the_enumerated_distribution(p_value: float) -> None:
    """Every word of width 6: the hits of the threshold are as many as the law of the scores allows, and no fewer."""
    pwm = motif(6, 3)
    words = torch.tensor(list(itertools.product(range(4), repeat=6)))
    grid = (pwm.log_odds / 0.01).round()
    scores = grid[torch.arange(6), words].sum(-1)
    forward = scores >= min(
        (s for s in scores.unique() if (scores >= s).double().mean() <= p_value), default=scores.max()
    )
    reverse = forward[(dna.reverse_complement(words) * 4 ** torch.arange(5, -1, -1)).sum(-1)]
    assert torch.equal(dna.motif_counts(words, [pwm], p_value)[:, 0], (forward | reverse).long())
    assert 0 < forward.sum() <= max(1, p_value * 4096)


def test_counts_use_the_background() -> None:
    """Under an AT-rich background the same sites are less surprising, so that none but the best word is left."""
    uniform, rich = (dna.Pwm.from_consensus("TTTTT", background=b) for b in (dna.UNIFORM, (0.4, 0.1, 0.1, 0.4)))
    near = torch.stack([dna.encode("TTTTT"), dna.encode("TTCTT")])
    assert dna.motif_counts(near, [uniform, rich], 0.02).tolist() == [[1, 1], [1, 0]]


def test_counts_overlap_palindromes_strands_and_width() -> None:
    pwms = [dna.Pwm.from_consensus(text) for text in ("AAAA", "GAATTC", "ACGTTT", "A" * 11)]
    counts = dna.motif_counts(TOKENS, pwms, 1e-3)
    assert counts.tolist() == [[0, 0, 1, 0], [7, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert torch.equal(dna.motif_counts(dna.reverse_complement(TOKENS), pwms, 1e-3), counts)


def test_counts_do_not_depend_on_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(4, (50, 30), generator=torch.Generator().manual_seed(0))
    pwms = [motif(width, width) for width in (4, 7, 12)]
    whole = dna.motif_counts(tokens, pwms, 0.05)
    monkeypatch.setattr("tiltflow.pwm._CHUNK", 1)
    assert whole.sum() > 100
    assert torch.equal(dna.motif_counts(tokens, pwms, 0.05), whole)


@pytest.mark.parametrize("p_value", [0.0, 1.0, 2.0, math.nan])
def test_counts_refuse_a_threshold_that_is_no_probability(p_value: float) -> None:
    with pytest.raises(dna.DnaError, match="probability"):
        dna.motif_counts(TOKENS, [motif(3, 0)], p_value)


def test_thresholds_are_worked_out_once_for_a_motif_and_a_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiltflow import pwm

    asked: list[float] = []
    original = pwm._threshold

    def counted(grid: torch.Tensor, background: Sequence[float], p_value: float) -> float:
        asked.append(p_value)
        return original(grid, background, p_value)

    monkeypatch.setattr(pwm, "_threshold", counted)
    one, two = motif(5, 0), motif(5, 0)
    first = dna.motif_counts(TOKENS, [one, two], 1e-2)
    assert torch.equal(dna.motif_counts(TOKENS, [one, two], 1e-2), first)
    dna.motif_counts(TOKENS, [two], 1e-3)
    assert asked == [1e-2, 1e-2, 1e-3]


POSITIONS = ">one\n8 2 0 0\n0 10 0 0\n\n# comment\n0 0 10 0\n>two\n" + "1 2 3 4\n" * 5
LETTERS = ">one\nA [ 8 0 0 ]\nC [ 2 10 0 ]\nG [ 0 0 10 ]\nT [ 0 0 0 ]\n"
ROWS = ">one\n8 0 0\n2 10 0\n0 0 10\n0 0 0\n"


def test_three_layouts_give_one_matrix() -> None:
    one = dna.Pwm.from_counts("one", torch.tensor([[8, 2, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0]]))
    for text in (POSITIONS, LETTERS, ROWS, POSITIONS.replace("\n", "\r\n").replace(" ", "\t")):
        first = dna.parse_pfms(text)[0]
        assert first.name == "one"
        assert torch.equal(first.log_odds, one.log_odds)
    frequencies = dna.parse_pfms(">one\n.8 .2 0 0\n0 1 0 0\n0 0 1 0", sites=10)[0]
    torch.testing.assert_close(frequencies.log_odds, one.log_odds, rtol=0, atol=1e-12)


def test_jaspar_layout_reads_as_in_biopython() -> None:
    from Bio import motifs

    theirs = motifs.parse(io.StringIO(LETTERS), "jaspar")[0]
    ours = dna.parse_pfms(LETTERS)[0]
    pssm = theirs.counts.normalize(0.2).log_odds()
    expected = torch.tensor([list(pssm[x]) for x in "ACGT"], dtype=torch.float64).T * math.log(2)
    torch.testing.assert_close(ours.log_odds, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no motif found"),
        ("# only a comment", "no motif found"),
        ("1 2 3 4", "f.pfm:1: '1 2 3 4' before the first"),
        (">\n1 2 3 4", "f.pfm:1: a motif without a name"),
        ("\n>m\n1 2 x 4", "f.pfm:3: '1 2 x 4' is not a row of counts"),
        (">m", "f.pfm:1: motif 'm': rows of"),
        (">m\n1 2 3 4\n1 2 3", r"f.pfm:1: motif 'm': rows of \[3, 4\] numbers"),
        (">m\n1 2 3\n1 2 3", "2 rows of 3 numbers"),
        (">m\n" + "1 2 3 4\n" * 4, "could lie either way"),
        (">m\nA [ 1 2 ]\nC [ 1 2 ]\nG [ 1 2 ]", "rows for 'ACG'"),
        (">m\n1 2 3 4\n-1 2 3 4", "f.pfm:1: motif 'm': expected finite counts"),
        (">m\n1 2 3 4\nnan 2 3 4", "f.pfm:1: motif 'm': expected finite counts"),
        (">m\n1 2 3 4\n>m\n1 2 3 4", "f.pfm:3: motif 'm' was already given in line 1"),
    ],
)
def test_broken_files_name_file_line_and_fix(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.pfm").write_text(text)
    with pytest.raises(dna.DnaError, match=message):
        dna.read_pfms("f.pfm")


def test_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "f.pfm").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(dna.DnaError, match=r"f\.pfm: not a text file"):
        dna.read_pfms(tmp_path / "f.pfm")


# fmt: off
PIECES = [
    ">", ">m", ">m\n", "\n>n\n1 2 3 4\n", "\nA [ 1 ]\nC [ 1 ]\nG [ 1 ]\nT [ 1 ]\n", "1 2 3 4\n", "# ", "\n", "\r",
    " ", "\t", "1", "0", "-1", "1e400", "nan", "_", "A", "C [", "]", "N", "acgt", "TATAWAW", "ß", "ı", "\x00", "٣",
    "é", "\u2028", "\ud800",
]
# fmt: on


@pytest.mark.parametrize("parse", [dna.encode, dna.parse_iupac, dna.parse_pfms], ids=lambda parse: parse.__name__)
def test_random_text_gives_a_result_or_a_dna_error(parse) -> None:  # type: ignore[no-untyped-def]
    rng, outcomes = random.Random(0), {True: 0, False: 0}
    for _ in range(100_000):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 6)))
        try:
            parse(text)
        except dna.DnaError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 100  # both ends of the parser were reached


def test_jaspar_fungi_file_reads_whole(data_dir: Path) -> None:
    pwms = dna.read_pfms(data_dir / "dna" / "motifs" / "JASPAR2022_fungi.pfm")
    assert len(pwms) == 179
    assert {pwm.width for pwm in pwms} <= set(range(5, 22))
    assert pwms[0].name == "MA0266.1_MA0266.1.ABF2"
