"""Sequence rules against plain string code, Biopython's enzymes, enumeration and finite differences."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest
import torch
from tiltflow import dna
from tiltflow.rewards import ForbiddenSites, GcWindow, Homopolymer, MaxEdits, Repeats
from tiltflow.rewards.sequences import resolve_site

TOKENS = torch.randint(4, (300, 24), generator=torch.Generator().manual_seed(0))
TOKENS[:100] //= 2  # two letters only: many runs and repeats
TEXTS = dna.decode(TOKENS)
PARENT = TEXTS[0]


def reverse(text: str) -> str:
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def count_overlapping(site: str, text: str) -> int:
    pattern = "".join(f"[{dna.IUPAC[letter]}]" for letter in site)
    return len(re.findall(f"(?={pattern})", text))


def gc_distance(text: str, low: float, high: float, window: int) -> float:
    parts = [text[s : s + window] for s in range(len(text) - window + 1)]
    fractions = [(part.count("G") + part.count("C")) / window for part in parts]
    return sum(max(0.0, low - f) + max(0.0, f - high) for f in fractions) / len(fractions)


def repeated_words(text: str, length: int, both: bool) -> int:
    words = [text[s : s + length] for s in range(len(text) - length + 1)]
    return len(words) - len({min(word, reverse(word)) if both else word for word in words})


def test_gc_distance() -> None:
    for low, high, window in ((0.4, 0.5, None), (0.3, 0.6, 10), (0.0, 1.0, None)):
        expected = [-gc_distance(text, low, high, window or 24) for text in TEXTS]
        assert GcWindow(low, high, window)(TOKENS).tolist() == pytest.approx(expected, abs=1e-12)


def test_gc_on_the_border_is_inside() -> None:
    """24 of 80 is 0.3, to the last bit: a hard constraint may ask for at_least=0."""
    tokens = torch.zeros(1, 80, dtype=torch.int64)
    tokens[:, :24] = 1
    assert GcWindow(0.3, 0.3)(tokens).tolist() == [0.0]
    assert GcWindow(0.3, 0.3)(dna.one_hot(tokens)).tolist() == [0.0]


@pytest.mark.parametrize("max_run", [1, 2, 4, 23, 24, 99])
def test_homopolymer_counts_the_letters_too_many(max_run: int) -> None:
    expected = [-sum(max(0, len(list(run)) - max_run) for _, run in itertools.groupby(text)) for text in TEXTS]
    assert Homopolymer(max_run)(TOKENS).tolist() == expected
    assert Homopolymer(max_run)(torch.zeros(1, 24, dtype=torch.int64)).tolist() == [-max(0, 24 - max_run)]


@pytest.mark.parametrize(
    ("sites", "patterns"),
    [
        ("GGTA", ["GGTA", "TACC"]),
        ("GANTC", ["GANTC"]),
        (["AAA"], ["AAA", "TTT"]),
        (["ACGT", "RY", "CC"], ["ACGT", "RY", "CC", "GG"]),
        (["TACC", "GGTA"], ["GGTA", "TACC"]),  # one site, given twice
    ],
)
def test_forbidden_sites_count_overlaps_on_both_strands(sites: str | list[str], patterns: list[str]) -> None:
    expected = [-sum(count_overlapping(pattern, text) for pattern in patterns) for text in TEXTS]
    assert min(expected) < 0
    assert ForbiddenSites(sites)(TOKENS).tolist() == expected


def test_enzymes_cut_where_biopython_finds_them() -> None:
    from Bio import Restriction
    from Bio.Seq import Seq

    tokens = torch.randint(4, (200, 300), generator=torch.Generator().manual_seed(1))
    for name in (
        "EcoRI",
        "TaqI",
        "HinfI",
        "AluI",
    ):  # palindromes that cut inside their site: one cut for each occurrence
        expected = [-len(getattr(Restriction, name).search(Seq(text))) for text in dna.decode(tokens)]
        assert ForbiddenSites(name)(tokens).tolist() == expected
        assert sum(expected) < 0


def test_enzyme_names_are_resolved_and_told() -> None:
    assert ForbiddenSites(["BsaI", "ganTc", "DrdV"]).resolved == (
        ("BsaI", "GGTCTC"),
        ("ganTc", "GANTC"),
        ("DrdV", "CATGNAC"),
    )
    assert resolve_site("HpyUM037X") == ("TNGGNAG", "GTGGNAG")
    assert ForbiddenSites("BsaI")(dna.encode("AAGAGACCAAGGTCTCAA")[None]).tolist() == [-2]


@pytest.mark.parametrize("length", [1, 3, 6, 24, 31])
@pytest.mark.parametrize("both", [False, True])
def test_repeats(length: int, both: bool) -> None:
    expected = [-repeated_words(text, length, both) for text in TEXTS]
    assert Repeats(length, both)(TOKENS).tolist() == expected


@pytest.mark.parametrize("most", [0, 5, 24])
def test_max_edits(most: int) -> None:
    distances = [sum(a != b for a, b in zip(text, PARENT, strict=True)) for text in TEXTS]
    assert MaxEdits(PARENT, most)(TOKENS).tolist() == [-max(0, d - most) for d in distances]


RULES = [
    GcWindow(0.45, 0.5),
    GcWindow(0.45, 0.5, window=4),
    Homopolymer(2),
    Homopolymer(99),
    ForbiddenSites(["GRT", "AAA"]),
    ForbiddenSites("A" * 99),
    MaxEdits(PARENT, 3),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_relaxed_at_one_hot_is_the_token_penalty_exactly(rule, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    assert torch.equal(rule(dna.one_hot(TOKENS, dtype)), rule(TOKENS))
    assert not any(math.copysign(1, value) < 0 for value in rule(TOKENS).tolist() if value == 0)


@pytest.mark.parametrize("rule", [Homopolymer(2), ForbiddenSites(["GRT", "AAA"])], ids=lambda rule: type(rule).__name__)
def test_relaxed_is_the_mean_over_independent_letters(rule) -> None:  # type: ignore[no-untyped-def]
    words = torch.tensor(list(itertools.product(range(4), repeat=5)))
    relaxed = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(-1)
    law = relaxed[0, torch.arange(5), words].prod(-1)
    assert float(rule(relaxed)) == pytest.approx(float((law * rule(words)).sum()), abs=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_gradient_is_that_of_finite_differences(rule) -> None:  # type: ignore[no-untyped-def]
    relaxed = torch.randn(1, 24, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(rule, relaxed.requires_grad_())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GcWindow(0.6, 0.4), "low <= high"),
        (lambda: GcWindow(40, 60), "fractions"),
        (lambda: GcWindow(0.4, 0.6, window=0), "window 0"),
        (lambda: GcWindow(0.4, 0.6, window=25)(TOKENS), "GC window of 25 positions, samples of 24"),
        (lambda: Homopolymer(0), "max_run 0"),
        (lambda: Homopolymer(2.5), "max_run 2.5"),  # type: ignore[arg-type]
        (lambda: ForbiddenSites([]), "no forbidden site"),
        (lambda: ForbiddenSites("BsaII"), "did you mean BsaI"),
        (lambda: ForbiddenSites("EcoR1"), "did you mean .*EcoRI"),
        (lambda: ForbiddenSites(["GAATTC", ""]), "empty consensus"),
        (lambda: ForbiddenSites("NNN"), "matches everything"),
        (lambda: Repeats(0), "length 0"),
        (lambda: Repeats(32), "at most 31"),
        (lambda: MaxEdits("ACGN", 1), "'N' at position 4"),
        (lambda: MaxEdits("ACGT", -1), "max -1"),
        (lambda: MaxEdits("ACGT", 1)(TOKENS), "parent of 4 letters, samples of 24"),
        (lambda: Repeats(3)(torch.full((1, 9), 4)), "the mask"),
        (lambda: Homopolymer(3)(torch.rand(1, 9, 5)), "mask channel"),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_site_names_give_a_result_or_a_dna_error(count: int) -> None:
    pieces = [
        "EcoRI",
        "BsaI",
        "Bsa",
        "I",
        "II",
        "GAATTC",
        "N",
        "R",
        "|",
        " ",
        "ß",
        "é",
        "\x00",
        "\ud800",
        "1",
        "-",
        "hga",
    ]
    rng, outcomes = random.Random(0), {True: 0, False: 0}
    for _ in range(count):
        try:
            resolve_site("".join(rng.choices(pieces, k=rng.randint(0, 3))))
        except dna.DnaError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 100
