"""Masking words again: what stays, how many, and where, against even draws."""

from __future__ import annotations

import pytest
import torch
from tiltflow.domains.molecules import load, remask
from tiltflow.molecules import MASK, PAD, encode

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CCO", "O=C(Nc1ccc(Cl)cc1)C1CCN(S(=O)(=O)c2cccs2)CC1", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"]


@pytest.fixture(scope="module")
def x():
    return encode(SMILES)


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_a_span_is_in_one_piece_and_the_rest_stays(x, generator):
    rows = x.repeat(50, 1)
    template = remask(rows, words=3, generator=generator(0))
    masked = template == MASK
    assert torch.equal(template[~masked], rows[~masked])
    assert torch.equal(masked.sum(1), (rows != PAD).sum(1).clamp(max=3))
    assert bool(((masked.int().diff(dim=1) == 1).sum(1) + masked[:, 0].int() == 1).all())
    assert not bool((masked & (rows == PAD)).any())


@pytest.mark.parametrize("span", [True, False])
def test_a_share_of_the_words_is_masked(x, span, generator):
    template = remask(x, share=0.5, span=span, generator=generator(0))
    assert (template == MASK).sum(1).tolist() == [max(1, round(0.5 * int(n))) for n in (x != PAD).sum(1)]


def test_spans_begin_everywhere_alike(generator):
    row = torch.arange(1, 11).repeat(9000, 1)
    row = torch.cat([row, torch.zeros_like(row)], 1)
    first = (remask(row, words=3, generator=generator(0)) == MASK).int().argmax(1)
    assert chi_square(first.bincount(minlength=8).double()) < 18.5  # 7 degrees of freedom, p = 0.01
    assert int(first.max()) == 7


def test_single_words_are_drawn_alike(generator):
    row = torch.arange(1, 11).repeat(6000, 1)
    masked = remask(row, words=4, span=False, generator=generator(0)) == MASK
    assert bool((masked.sum(1) == 4).all())
    # Without replacement: the variance of a count is that of a Bernoulli draw, (4 / 10) (6 / 10), times 10 / 9 over sites.
    z = (masked.double().sum(0) - 2400) / (6000 * 0.24) ** 0.5
    assert float((z**2).sum() * 0.9) < 21.7  # 9 degrees of freedom


def test_what_is_kept_is_never_masked_and_ends_a_span(generator):
    row = torch.arange(1, 13).repeat(4000, 1)
    keep = torch.zeros_like(row, dtype=torch.bool)
    keep[:, [3, 4, 9]] = True
    for span in (True, False):
        template = remask(row, words=5, span=span, keep=keep, generator=generator(1))
        assert torch.equal(template[:, [3, 4, 9]], row[:, [3, 4, 9]])
        masked = template == MASK
        assert int(masked.sum(1).max()) == (4 if span else 5)  # sites 5 to 8 are the longest run that is free
        assert int(masked.sum(1).min()) >= 1
    nothing = remask(row, words=5, keep=torch.ones_like(keep), slack=2, generator=generator(1))
    assert torch.equal(nothing, row)


def test_slack_changes_the_number_of_words_evenly_and_loses_none(generator):
    row = torch.cat([torch.arange(1, 11), torch.zeros(10, dtype=torch.int64)]).repeat(8000, 1)
    template = remask(row, words=4, slack=2, generator=generator(0))
    masks = (template == MASK).sum(1)
    assert chi_square((masks - 2).bincount(minlength=5).double()) < 13.3  # 2 to 6, p = 0.01
    kept = torch.where(template == MASK, PAD, template)
    for line in kept[:50]:
        assert int((line != PAD).sum()) == 6
        assert line[line != PAD].diff().ge(1).all()
    assert torch.equal((template != PAD).sum(1), 6 + masks)
    full = torch.arange(1, 13).repeat(300, 1)  # no room for more
    assert set((remask(full, words=2, slack=3, generator=generator(0)) == MASK).sum(1).tolist()) == {1, 2}
    one = remask(row, words=1, slack=3, generator=generator(0))
    assert int((one == MASK).sum(1).min()) == 1


def test_padding_inside_a_molecule_moves_to_its_end(generator):
    row = torch.tensor([[PAD, 5, PAD, 6, 7]])
    keep = torch.tensor([[False, True, False, True, False]])
    assert remask(row, share=1.0, keep=keep, generator=generator(0)).tolist() == [[5, 6, MASK, PAD, PAD]]
    assert remask(torch.zeros(2, 5, dtype=torch.int64), words=2, generator=generator(0)).tolist() == [[PAD] * 5] * 2


def test_only_the_masked_words_are_drawn_again(tiny, x, generator):
    law = load(tiny, steps=8).diffusion
    template = remask(x, share=0.4, slack=1, generator=generator(0))
    again = law.infill(template).sample(len(x), generator=generator(1))
    assert torch.equal(again[template != MASK], template[template != MASK])
    assert not torch.equal(again, x)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "share=None, words=None; expected one"),
        ({"share": 0.2, "words": 1}, "expected one of them"),
        ({"share": 0.0}, "share=0.0; expected a share"),
        ({"words": 0}, "words=0; expected a whole number"),
        ({"words": 2, "slack": 1, "span": False}, "above 0 for spans only"),
        ({"words": 2, "keep": torch.zeros(2, 3)}, r"keep is torch.float32 \(2, 3\); expected bool \(4, 24\)"),
    ],
)
def test_impossible_wishes_are_refused(x, options, why, generator):
    with pytest.raises(ValueError, match=why):
        remask(x, generator=generator(0), **options)
    with pytest.raises(ValueError, match="without masks"):
        remask(torch.full((1, 4), MASK), words=1, generator=generator(0))
