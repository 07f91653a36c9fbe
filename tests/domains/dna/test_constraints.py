"""Templates against the IUPAC table and against enumeration; forbidden sites against every sequence that fits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from tiltflow.dna import ALPHABET, IUPAC, DnaError
from tiltflow.domains.dna.constraints import Template, TemplateError, check, forbidden_sites

COMPLEMENT = str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")


def message(call, *args, **options) -> str:
    with pytest.raises(TemplateError) as caught:
        call(*args, **options)
    return str(caught.value)


def refusal(call, *args) -> str | None:
    """The message of a refusal, or None; any other exception comes through."""
    try:
        call(*args)
    except TemplateError as error:
        return str(error)
    return None


def completions(template: Template) -> list[str]:
    """Every sequence that fits, from the letters of its IUPAC form."""
    return ["".join(letters) for letters in product(*(IUPAC[code] for code in template.iupac))]


def holds(text: str, pattern: str) -> bool:
    """Whether a sequence holds the pattern on either strand, letter by letter."""
    return any(
        all(base in IUPAC[code] for base, code in zip(text[start:], strand, strict=False))
        for strand in (pattern, pattern.translate(COMPLEMENT)[::-1])
        for start in range(len(text) - len(strand) + 1)
    )


# --- reading -------------------------------------------------------------------------------------------------------


def test_every_code_allows_its_bases():
    template = Template.parse("".join(IUPAC), length=15)
    expected = [[base in bases for base in ALPHABET] for bases in IUPAC.values()]
    assert template.allowed.tolist() == expected
    assert template.allowed.dtype == torch.bool


TATA = "N" * 20 + "TATAWAW" + "N" * 53


@pytest.mark.parametrize(
    "spec",
    [
        TATA,
        TATA.lower(),
        "N20 TATAWAW N53",
        "N20TATAWAWN53",
        "N* TATAWAW N53",
        "n20_tatawaw_n*",
        "N10 N10\tTATA W1 A W N*\n",
        {21: "TATAWAW"},
        {"21": "TATAWAW"},
        {24: "AWAW", 21: "TATA", 80: "N"},
        "21:TATAWAW",
        "21:TATAW, 26:AW",
        "26:AW; 21:TATAW",
    ],
)
def test_all_forms_of_a_template_are_the_same(spec):
    template = Template.parse(spec)
    assert template.iupac == TATA
    assert len(template) == 80


def test_positions_count_from_one():
    assert Template.parse({1: "A", 3: "CCGN2CGG", 12: "T"}, length=12).iupac == "ANCCGNNCGGNT"


def test_properties():
    template = Template.parse("ACRN", length=4)
    assert template.fixed.tolist() == [True, True, False, False]
    assert template.restricted.tolist() == [False, False, True, False]
    assert template.tokens.tolist() == [0, 1, 4, 4]
    assert template.count == 8 == len(completions(template))
    assert Template.free(80).count == 4**80
    assert Template.parse({}, length=3).iupac == "NNN"


def test_fits_agrees_with_enumeration():
    template = Template.parse("ARNS", length=4)
    every = torch.tensor(list(product(range(5), repeat=4)))
    fitting = {"".join((ALPHABET + "-")[token] for token in row) for row in every[template.fits(every)].tolist()}
    assert fitting == set(completions(template))


@pytest.mark.parametrize("tokens", [torch.zeros(4), torch.zeros(1, 4), torch.zeros(1, 5, dtype=torch.int64)])
def test_fits_refuses_other_shapes_and_types(tokens):
    assert "expected int64 tokens [B, 4]" in message(Template.parse("ARNS", length=4).fits, tokens)


def test_echo_can_be_read_again_and_says_all():
    template = Template.parse({21: "TATAWAW", 40: "CCGN11CGG"})
    lines = template.echo().splitlines()
    assert lines == [
        "'21:TATAWAW, 40:CCGN11CGG': 80 bp, positions from 1, read as N20 TATAWAW N12 CCG N11 CGG N24",
        "fixed (11): 21-24 TATA, 26 A, 40-42 CCG, 54-56 CGG",
        "restricted (2): 25 W, 27 W",
        "free (67): 1-20, 28-39, 43-53, 57-80",
        "W = A or T",
        "sequences that fit: 10^40.9",
    ]


def test_run_length_form_of_any_template_reads_back():
    draw = np.random.default_rng(0)
    for _ in range(200):
        codes = "".join(draw.choice([*IUPAC, "N", "N", "N"], int(draw.integers(1, 30))))
        template = Template.parse(codes, length=len(codes))
        form = template.echo().splitlines()[0].split("read as ")[1]
        assert Template.parse(form, length=len(codes)).iupac == codes


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("N20 TATAWAW N52", ["79 positions, expected 80", "N*"]),
        ("N20 TATAWAW N54", ["81 positions, expected 80", "too long"]),
        ("N999999999", ["999999999 positions, expected 80"]),
        ("N9999999999999999", ["character 1", "run"]),
        ("N2O TATAWAW N*", ["character 3: 'O' is no IUPAC code"]),
        ("20N TATAWAW N*", ["character 1: '2' follows no letter", "N20"]),
        ("N 20 TATAWAW N*", ["character 3: '2' follows no letter"]),
        ("N0 N*", ["character 1: run 'N0'"]),
        ("N** A", ["character 3: '*' follows no letter"]),
        ("N* A N*", ["2 runs with *"]),
        ("N80 A*", ["leaves no room for the run with *"]),
        ("ACGU N*", ["character 4: 'U' is RNA; write T"]),
        ("AC-T N*", ["character 3: '-'", "write N for a free position"]),
        ("ſ N*", ["character 1: 'ſ' is no IUPAC code"]),
        ("N٣ A", ["character 2: '٣' is no IUPAC code"]),
        ("", ["empty"]),
        (" ", ["empty"]),
        (None, ["NoneType came"]),
        (3, ["int came"]),
        ({0: "AC"}, ["position 0", "begin at 1 to 79"]),
        ({79: "ACG"}, ["position 79: a motif of 3 does not fit in 1 to 80; it can begin at 1 to 78"]),
        ({-1: "A"}, ["position -1"]),
        ({True: "A"}, ["position 'True'"]),
        ({1.0: "A"}, ["position '1.0': expected a whole number"]),
        ({"x": "A"}, ["position 'x'"]),
        ({10: ""}, ["position 10: empty"]),
        ({10: "ACJ"}, ["position 10: character 3: 'J'"]),
        ({10: 7}, ["position 10: int came"]),
        ("10:TA:TA", ["'10:TA:TA': expected position:motif"]),
        ("10:TATA 30", ["'30': expected position:motif"]),
        (":", ["position ''"]),
    ],
)
def test_a_bad_template_is_refused_with_place_and_fix(spec, parts):
    text = message(Template.parse, spec)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("length", [0, -5, 2.0, True, None])
def test_a_length_is_a_positive_whole_number(length):
    assert "length=" in message(Template.parse, "N*", length)


@pytest.mark.parametrize(
    "allowed", [torch.ones(4, 4), torch.ones(4, 5) > 0, torch.ones(0, 4) > 0, torch.ones(4) > 0, [[True] * 4]]
)
def test_allowed_must_be_a_bool_tensor_of_four_columns(allowed):
    assert "bool tensor [L, 4]" in message(Template, allowed)


def test_a_site_without_a_base_is_refused():
    allowed = torch.ones(3, 4) > 0
    allowed[1] = False
    assert "no base is allowed at position 2" in message(Template, allowed)


# --- combining -----------------------------------------------------------------------------------------------------


def test_combination_is_the_intersection():
    left, right = Template.parse("NRWA", length=4), Template.parse("CANN", length=4)
    both = left & right
    assert set(completions(both)) == set(completions(left)) & set(completions(right))
    assert both.iupac == "CAWA"


def test_contradictions_name_every_position_and_the_sources_to_blame():
    left = Template.parse("N9 TATAWA N*", name="TATA box")
    right = Template.parse({13: "AC", 40: "G"})
    other = Template.free()
    text = message(Template.combine, left, other, right)
    assert "position 14: TATA box has W (A or T) and 'AC' at 13 has C" in text
    assert "position 13" not in text
    assert "N" not in text.split("position 14")[1]  # the free template is not to blame
    assert "combine" in message(Template.combine)
    assert "TATA box 80, 'NN' 2" in message(Template.combine, left, Template.parse("NN", 2))


def test_motifs_that_contradict_each_other_are_refused():
    text = message(Template.parse, "10:TATAWA 12:CAT")
    assert "position 12: 'TATAWA' at 10 has T and 'CAT' at 12 has C" in text


# --- forbidden sites -----------------------------------------------------------------------------------------------


def test_enzymes_codes_and_names():
    assert [(site.name, site.pattern) for site in forbidden_sites(["BsaI", "ggtctc", "BglI"])] == [
        ("BsaI", "GGTCTC"),
        ("GGTCTC", "GGTCTC"),
        ("BglI", "GCCNNNNNGGC"),
    ]
    assert [site.pattern for site in forbidden_sites({"poly": "AAAAAA"})] == ["AAAAAA"]
    assert [site.pattern for site in forbidden_sites("EcoRI")] == ["GAATTC"]
    assert forbidden_sites([]) == ()


@pytest.mark.parametrize(
    ("forbidden", "part"),
    [
        ("EcorI", "did you mean 'EcoRI'"),
        (["GGTCTX"], "'GGTCTX': neither an enzyme nor IUPAC codes"),
        ([""], "neither an enzyme nor IUPAC codes"),
        ([3], "neither an enzyme nor IUPAC codes"),
        ({"mine": ""}, "forbidden site 'mine'"),
        ({"mine": "EcoRI"}, "expected IUPAC codes"),
    ],
)
def test_unknown_sites_are_refused(forbidden, part):
    assert part in message(forbidden_sites, forbidden)


@pytest.mark.parametrize(
    ("spec", "strand"), [("N10 GGTCTC N*", "forward"), ("N10 GAGACC N*", "reverse"), ("N10 GAGACY N*", None)]
)
def test_an_unavoidable_site_is_named_with_strand_and_position(spec, strand):
    template = Template.parse(spec)
    if strand is None:  # the Y leaves GAGACT
        assert check(template, ["BsaI"]) == forbidden_sites("BsaI")
        return
    text = message(check, template, ["EcoRI", "BsaI"])
    assert f"BsaI (GGTCTC) on the {strand} strand at positions 11-16" in text
    assert "change one of these positions or drop the site" in text
    assert "EcoRI" not in text


def test_a_palindrome_is_reported_once():
    assert "problems" not in message(check, Template.parse("N10 GAATTC N*"), "EcoRI")


def test_a_restricted_site_can_be_unavoidable_too():
    text = message(check, Template.parse("N3 CCWGG N*"), {"dcm": "CCWGG"})
    assert "dcm (CCWGG) on the forward strand at positions 4-8" in text
    check(Template.parse("N3 CCNGG N*"), {"dcm": "CCWGG"})


def test_sites_that_can_only_be_avoided_one_at_a_time_are_refused():
    template = Template.parse("NNAAANCCC", length=9)
    check(template, {"a": "AAAW"})
    check(template, {"b": "AAAS"})
    text = message(check, template, {"a": "AAAW", "b": "AAAS"})
    assert "ends at position 6" in text
    assert "a, b" in text


def test_check_agrees_with_enumeration():
    draw = np.random.default_rng(5)
    refused = 0
    for _ in range(400):
        codes = "".join(draw.choice([*"ACGTNNRYSWKM"], 6))
        patterns = [
            "".join(draw.choice([*"ACGTACGTNRYSW"], int(draw.integers(1, 4)))) for _ in range(draw.integers(1, 4))
        ]
        template = Template.parse(codes, length=6)
        possible = any(not any(holds(text, pattern) for pattern in patterns) for text in completions(template))
        answer = refusal(check, template, {str(index): pattern for index, pattern in enumerate(patterns)})
        assert (answer is None) == possible, (codes, patterns)
        refused += not possible
    assert 100 < refused < 300  # both answers are tried


def test_a_narrow_search_never_refuses_wrongly(monkeypatch):
    monkeypatch.setattr("tiltflow.domains.dna.constraints._BEAM", 1)
    draw = np.random.default_rng(6)
    for _ in range(200):
        codes = "".join(draw.choice([*"ACGTNNNRYSWKM"], 6))
        patterns = ["".join(draw.choice([*"ACGTNRYSW"], int(draw.integers(2, 5)))) for _ in range(3)]
        template = Template.parse(codes, length=6)
        if any(not any(holds(text, pattern) for pattern in patterns) for text in completions(template)):
            check(template, {str(index): pattern for index, pattern in enumerate(patterns)})


def test_every_enzyme_can_be_avoided_by_a_free_template():
    from Bio.Restriction import CommOnly

    sixes = [str(enzyme) for enzyme in CommOnly if len(enzyme.site) >= 6]
    assert len(check(Template.free(), sixes)) > 300


# --- any text at all -----------------------------------------------------------------------------------------------

LETTERS = [*"NNNNACGTRYSWacgtn", *"0123456789", *" *:,-_.\t\nUEXé中ſ٣²\0\u2028", "\ud800", "N*", "10:", "N20"]


def test_random_texts_are_parsed_or_refused():
    draw = np.random.default_rng(7)
    picks = draw.integers(0, len(LETTERS), (100_000, 6)).tolist()
    lengths = draw.integers(0, 7, 100_000).tolist()
    right = 0
    for row, number in zip(picks, lengths, strict=True):
        text = "".join(LETTERS[pick] for pick in row[:number])
        refused = refusal(Template.parse, text, 4)
        if refused is None:
            right += 1
        else:
            assert any(word in refused for word in ("character", "position", "empty", "*")), text
            refused.encode()  # printable: no lone surrogate comes through
    assert 500 < right < 50_000


def test_errors_are_value_errors_of_dna():
    assert issubclass(TemplateError, DnaError)
    assert issubclass(DnaError, ValueError)
