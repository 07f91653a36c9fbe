"""Metrics against direct counting, closed forms and every degenerate input."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiltflow.dna import DnaError, Pwm, decode, encode, reverse_complement
from tiltflow.domains.dna import metrics, statistics
from tiltflow.domains.dna.reference import Reference

Generator = Callable[..., torch.Generator]
AAAA = torch.zeros(3, 8, dtype=torch.int64)


def sequences(n: int, length: int = 20, seed: int = 0) -> torch.Tensor:
    """AT-rich random sequences [n, length]."""
    law = torch.tensor([0.35, 0.15, 0.2, 0.3], dtype=torch.float64).expand(n, 4)
    return torch.multinomial(law, length, replacement=True, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def reference() -> Reference:
    natural = sequences(40, seed=1)
    motifs = [Pwm.from_consensus(word) for word in ("TATAWA", "ACGT", "CCG", "TTT")]
    return Reference.build(natural, [f"G{i:02d}" for i in range(40)], motifs, p_value=0.01)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_spectrum_is_what_counting_words_gives(k: int) -> None:
    tokens = sequences(7)
    weights = torch.arange(1.0, 8)
    counts: Counter[str] = Counter()
    for text, weight in zip(decode(tokens), weights.tolist(), strict=True):
        for i in range(len(text) - k + 1):
            counts[text[i : i + k]] += weight  # type: ignore[assignment]
    words = ["".join(word) for word in itertools.product("ACGT", repeat=k)]
    expected = torch.tensor([counts[word] for word in words], dtype=torch.float64) / sum(counts.values())
    torch.testing.assert_close(statistics.kmer_spectrum(tokens, k, weights), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_spectrum_of_the_other_strand_needs_no_second_count(k: int) -> None:
    tokens = sequences(9)
    flipped = statistics.reverse_complement_spectrum(statistics.kmer_spectrum(tokens, k))
    assert torch.equal(flipped, statistics.kmer_spectrum(reverse_complement(tokens), k))


@pytest.mark.parametrize("k", [0, 21, 13])
def test_spectrum_refuses_impossible_k(k: int) -> None:
    with pytest.raises(ValueError, match="k must be between 1 and 12"):
        statistics.kmer_spectrum(sequences(2), k)


def test_pearson_agrees_with_numpy_and_ignores_scale(generator: Generator) -> None:
    a, b = torch.randn(2, 50, generator=generator(), dtype=torch.float64)
    expected = float(np.corrcoef(a.numpy(), b.numpy())[0, 1])
    assert statistics.pearson(a, b) == pytest.approx(expected, abs=1e-12)
    assert statistics.pearson(3 * a + 1, b) == pytest.approx(expected, abs=1e-12)
    assert statistics.pearson(a, -a) == pytest.approx(-1, abs=1e-12)


def test_ranks_share_ties() -> None:
    assert statistics.ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]


def test_spearman_sees_order_only_and_matches_the_textbook_formula() -> None:
    a = torch.tensor([1.0, 5.0, 2.0, 9.0, 7.0])
    b = torch.tensor([2.0, 3.0, 8.0, 4.0, 1.0])
    difference = torch.tensor([1, 3, 2, 5, 4]) - torch.tensor([2, 3, 5, 4, 1])
    assert statistics.spearman(a, b) == pytest.approx(1 - 6 * float((difference**2).sum()) / (5 * 24), abs=1e-12)
    assert statistics.spearman(a, a.exp()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("flat", [[2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0, 0.0], [1.0, math.nan, 2.0]])
def test_correlation_with_a_constant_or_nan_is_nan(flat: list[float]) -> None:
    a, b = torch.tensor(flat, dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0])
    assert math.isnan(statistics.pearson(a, b))
    assert math.isnan(statistics.pearson(b, a))
    if flat[1] != 0.3:  # ranks see a difference in the last bit, as they must
        assert math.isnan(statistics.spearman(a, b))


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("both", [False, True])
def test_natural_sequences_correlate_perfectly_with_themselves(reference: Reference, k: int, both: bool) -> None:
    assert metrics.kmer_correlation(reference.tokens, reference, k, both) == pytest.approx(1, abs=1e-12)
    assert metrics.motif_correlation(reference.tokens, reference) == pytest.approx(1, abs=1e-12)


def test_only_the_two_stranded_correlation_is_blind_to_the_strand(reference: Reference) -> None:
    turned = reverse_complement(reference.tokens)
    assert metrics.kmer_correlation(turned, reference, 3, both_strands=True) == pytest.approx(1, abs=1e-12)
    assert metrics.kmer_correlation(turned, reference, 3) < 0.9


def test_nearest_neighbour_is_what_comparing_all_pairs_gives(reference: Reference) -> None:
    designs = sequences(30, seed=5)
    designs[3] = reference.tokens[17]
    designs[4] = reverse_complement(reference.tokens[8:9])[0]
    designs[4, 0] = (designs[4, 0] + 1) % 4
    strands = torch.stack([reference.tokens, reverse_complement(reference.tokens)])
    distance = (designs[:, None, None] != strands).sum(-1).amin(1)
    near = metrics.nearest_neighbour(designs, reference)
    assert torch.equal(near.distance, distance.amin(1))
    assert torch.equal(distance.gather(1, near.row[:, None])[:, 0], near.distance)
    assert (near.distance[3], near.row[3], near.distance[4], near.row[4]) == (0, 17, 1, 8)
    torch.testing.assert_close(near.identity, 1 - near.distance.double() / 20)


def test_nearest_neighbour_does_not_depend_on_the_split(reference: Reference) -> None:
    designs = sequences(11, seed=6)
    whole, split = metrics.nearest_neighbour(designs, reference), metrics.nearest_neighbour(designs, reference, chunk=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, split, strict=True))


def test_nearest_neighbour_refuses_another_length(reference: Reference) -> None:
    with pytest.raises(ValueError, match="designs have 8 bases, the reference 20"):
        metrics.nearest_neighbour(AAAA, reference)


def test_diversity_is_the_mean_over_pairs() -> None:
    tokens = sequences(6)
    pairs = [float((a != b).double().mean()) for a, b in itertools.combinations(tokens, 2)]
    assert metrics.diversity(tokens) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert metrics.diversity(AAAA) == 0
    assert math.isnan(metrics.diversity(AAAA[:1]))


def test_composition_by_hand() -> None:
    tokens = torch.stack([encode(text) for text in ("ACGT", "AAGG", "ATGT", "AGGA", "ACGT")])
    assert metrics.unique_count(tokens) == 4
    assert metrics.gc_content(tokens).tolist() == [0.5, 0.5, 0.25, 0.5, 0.5]
    entropy = metrics.site_entropy(tokens)
    assert entropy[0] == entropy[2] == 0
    shares = np.array([2, 1, 1, 1]) / 5
    assert float(entropy[1]) == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-12)
    assert float(metrics.site_entropy(torch.arange(4)[:, None])) == pytest.approx(2, abs=1e-12)


def test_ceiling_of_all_genes_is_one_and_of_few_is_less(reference: Reference) -> None:
    assert all(value == pytest.approx(1, abs=1e-12) for value in metrics.ceilings(40, reference).values())
    few = metrics.ceilings(4, reference)
    assert all(0 < few[name] < 0.95 for name in ("kmer3", "kmer6", "motif"))
    assert few == metrics.ceilings.__wrapped__(4, reference)


def test_evaluate_reports_every_documented_key_and_nothing_else(reference: Reference) -> None:
    score = torch.randn(40, generator=torch.Generator().manual_seed(0))
    report = metrics.evaluate(reference.tokens, reference, score, score, score)
    assert set(report) == set(metrics.METRICS)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) > set(metrics.evaluate(reference.tokens, reference))
    exact = {"n": 40, "unique": 40, "nearest_hamming_min": 0, "nearest_hamming_median": 0, "nearest_identity_median": 1}
    assert {key: report[key] for key in exact} == exact
    assert report["kmer6_correlation"] == pytest.approx(1, abs=1e-12)


def test_scores_are_summarised_by_hand(reference: Reference) -> None:
    reward = torch.cat([torch.arange(18.0), torch.tensor([math.nan, -math.inf])])
    heldout = torch.cat([-torch.arange(18.0), torch.tensor([5.0, math.nan])])
    report = metrics.evaluate(sequences(20), reference, reward, heldout, nelbo=torch.linspace(1, 2, 20))
    expected = {
        "reward_median": 8.5,
        "reward_top_decile_mean": 16.5,  # of 18 finite ones, two are the best tenth
        "reward_excluded": 2,
        "heldout_median": -8.0,
        "heldout_top_decile_mean": 2.5,  # 5 and 0
        "heldout_of_reward_top_decile": -16.5,
        "heldout_excluded": 1,
        "nelbo_median": 1.5,
        "nelbo_top_decile_mean": pytest.approx(2 - 1 / 38),
        "nelbo_bottom_decile_mean": pytest.approx(1 + 1 / 38),
        "nelbo_excluded": 0,
    }
    assert {key: report[key] for key in expected} == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tokens", [AAAA, AAAA[:1], AAAA[:, :2], sequences(1), sequences(4, 5)])
def test_degenerate_designs_get_null_not_a_crash(reference: Reference, tokens: torch.Tensor) -> None:
    nothing = torch.full((len(tokens),), math.nan)
    report = metrics.evaluate(tokens, reference, nothing, nothing, nothing)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["diversity"] is None) == (len(tokens) == 1)
    assert (report["kmer6_correlation"] is None) == (tokens.shape[1] < 6)
    assert (report["nearest_hamming_min"] is None) == (tokens.shape[1] != 20)
    assert report["reward_median"] is None
    assert report["heldout_of_reward_top_decile"] is None
    assert report["nelbo_excluded"] == len(tokens)


def test_a_reference_without_motifs_or_long_words_still_serves() -> None:
    report = metrics.evaluate(AAAA, Reference.build(sequences(5, 4), list("abcde")))
    assert report["motif_correlation"] is report["motif_ceiling"] is report["kmer6_correlation"] is None
    assert report["kmer3_correlation"] is not None


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.full((2, 8), 4), "4 is the mask"),
        (torch.full((2, 8), 7), "between 7 and 7: expected 0 to 3"),
        (torch.full((2, 8), -1), "between -1 and -1"),
        (torch.zeros(2, 8), "expected int64 tokens"),
        (torch.zeros(8, dtype=torch.int64), "expected int64 tokens"),
        (torch.zeros(0, 8, dtype=torch.int64), "B and L at least 1"),
    ],
)
def test_unfinished_sequences_are_refused(reference: Reference, tokens: torch.Tensor, message: str) -> None:
    for function in (metrics.gc_content, metrics.site_entropy, metrics.diversity, metrics.unique_count):
        with pytest.raises(DnaError, match=message):
            function(tokens)
    with pytest.raises(DnaError, match=message):
        metrics.evaluate(tokens, reference)


def test_scores_of_another_shape_are_refused(reference: Reference) -> None:
    with pytest.raises(ValueError, match=r"heldout must hold one number per design, \[3\], got \[3, 1\]"):
        metrics.evaluate(AAAA, reference, heldout=torch.zeros(3, 1))
