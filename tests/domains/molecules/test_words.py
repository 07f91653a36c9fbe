"""Words of SELFIES: merged by hand-checked counts, and what the shipped ones are."""

from __future__ import annotations

import pytest
from tiltflow.domains.molecules import learn_words
from tiltflow.molecules import SYMBOLS, WORDS


def test_the_most_frequent_neighbours_are_merged_first():
    molecules = [["[C]", "[N]", "[O]"], ["[C]", "[N]"], ["[O]", "[C]", "[N]", "[C]", "[N]"]]
    assert learn_words(molecules, 1) == [("[C]", "[N]")]
    assert learn_words(molecules, 2)[1] in {("[O]", "[C]", "[N]"), ("[C]", "[N]", "[O]"), ("[C]", "[N]") * 2}


def test_rings_and_branches_keep_their_lengths():
    molecules = [["[C]", "[Branch1]", "[C]", "[F]", "[C]", "[=Ring2]", "[Ring1]", "[N]"]] * 3
    words = learn_words(molecules, 2, rare=3)
    assert set(words) == {("[Branch1]", "[C]"), ("[=Ring2]", "[Ring1]", "[N]")}
    with pytest.raises(ValueError, match="3 molecules have 6 words to merge; 99"):
        learn_words(molecules, 99, rare=3)


def test_the_shipped_words_are_distinct_and_whole_symbols():
    assert len(set(WORDS)) == len(WORDS) == 457
    assert all(word.count("[") == word.count("]") > 1 for word in WORDS)
    assert not set(WORDS) & set(SYMBOLS)
