"""Motif occupancy against its formula, enumeration and finite differences."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from tiltflow import dna
from tiltflow.rewards import MotifOccupancy

BACKGROUND = (0.3, 0.2, 0.2, 0.3)
PFM = ">one\n8 2 0 0\n0 10 0 0\n0 0 10 0\n>two\n" + "1 2 3 4\n" * 5


def random_tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, (rows, length), generator=torch.Generator().manual_seed(seed))


def random_relaxed(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(rows, length, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(-1)


@pytest.mark.parametrize("mu", [None, 1.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_reward_is_the_formula(mu: float | None, sign: int) -> None:
    tokens = random_tokens(3, 9)
    reward = MotifOccupancy(["TATAWAW", "CCG"], sign=sign, mu=mu)
    for row, value in zip(tokens.tolist(), reward(tokens).tolist(), strict=True):
        expected = 0.0
        for pwm in reward.pwms:
            table, width = pwm.log_odds, pwm.width
            windows = [row[s : s + width] for s in range(9 - width + 1)]
            windows += [[3 - t for t in reversed(window)] for window in windows]
            scores = [sum(float(table[w, t]) for w, t in enumerate(window)) for window in windows]
            z = sum(math.exp(score - (math.log(len(windows)) if mu is None else mu)) for score in scores)
            expected += math.log1p(z)
        assert value == pytest.approx(sign * expected, rel=1e-12)


def test_mean_weight_over_the_background_is_one() -> None:
    """E[Z] = E[exp(r) - 1] = 1, over all 4^6 sequences."""
    words = torch.tensor(list(itertools.product(range(4), repeat=6)))
    law = torch.tensor(BACKGROUND, dtype=torch.float64)[words].prod(-1)
    for motif in ("TATA", "GANTC"):
        reward = MotifOccupancy(motif, background=BACKGROUND)
        assert float((law * reward(words).expm1()).sum()) == pytest.approx(1, abs=1e-12)


def test_occupancy_is_the_bound_fraction() -> None:
    tokens = random_tokens(4, 12)
    reward = MotifOccupancy(["TATA", "GGC"])
    expected = [MotifOccupancy(motif)(tokens).neg().expm1().neg() for motif in ("TATA", "GGC")]  # 1 - exp(-r)
    torch.testing.assert_close(reward.occupancy(tokens), torch.stack(expected, -1), rtol=0, atol=1e-12)


def test_a_site_is_rewarded_on_either_strand_and_more_sites_more() -> None:
    texts = [
        "ACGTACGTACGTACGTACGTACGT",
        "ACGTACGTTATAAAACGTACGTAC",
        "GTACGTACGTTTTATAACGTACGT",
        "TATAAAACGTACGTATATAAAACG",
    ]
    none, forward, reverse, two = MotifOccupancy("TATAAAA")(torch.stack([dna.encode(text) for text in texts])).tolist()
    assert forward == pytest.approx(reverse, abs=1e-12)
    assert none < math.log(2) < forward < two


def test_relaxed_at_one_hot_is_the_token_reward_exactly(dtype: torch.dtype) -> None:
    tokens = random_tokens(8, 30)
    reward = MotifOccupancy(["TATAWAW", "CACCC"])
    assert torch.equal(reward(dna.one_hot(tokens, dtype)), reward(tokens))


def test_both_strands_have_the_same_reward() -> None:
    reward = MotifOccupancy(["TATAWAW", "CACCC"])
    for x in (random_tokens(8, 30), random_relaxed(8, 30)):
        torch.testing.assert_close(reward(dna.reverse_complement(x)), reward(x), rtol=0, atol=1e-12)


def test_gradient_is_that_of_finite_differences() -> None:
    reward = MotifOccupancy(["TATAWAW", "CAC"], sign=-1)
    for x in (random_relaxed(2, 9), dna.one_hot(random_tokens(2, 9), torch.float64)):
        assert torch.autograd.gradcheck(reward, x.requires_grad_())


def test_motifs_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "two.pfm"
    path.write_text(PFM)
    tokens = random_tokens(4, 9)
    one, two = dna.read_pfms(path, pseudocount=2.0, background=BACKGROUND)
    options = {"pseudocount": 2.0, "background": BACKGROUND}
    assert torch.equal(MotifOccupancy(str(path), **options)(tokens), MotifOccupancy([one, two])(tokens))  # type: ignore[arg-type]
    assert torch.equal(MotifOccupancy(path, select=["two"], **options)(tokens), MotifOccupancy(two)(tokens))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: MotifOccupancy("TATAbox"), dna.DnaError, "'o' at position 6.*path of a file"),
        (lambda: MotifOccupancy([]), dna.DnaError, "no motif given"),
        (
            lambda: MotifOccupancy(["TATA", "CCG"], select=["GGG"]),
            dna.DnaError,
            "no motif named GGG; there are TATA, CCG",
        ),
        (lambda: MotifOccupancy("./missing.pfm"), FileNotFoundError, "missing.pfm"),
        (lambda: MotifOccupancy("TATA", sign=0), ValueError, "sign 0"),  # type: ignore[arg-type]
        (lambda: MotifOccupancy("TATA", mu=math.nan), ValueError, "mu nan"),
        (lambda: MotifOccupancy("TATAWAW")(random_tokens(2, 6)), dna.DnaError, "7 wide; the sequences have only 6"),
        (lambda: MotifOccupancy("TATA")(torch.full((1, 9), 4)), dna.DnaError, "the mask"),
        (lambda: MotifOccupancy("TATA")(torch.rand(1, 9, 5)), dna.DnaError, "mask channel"),
    ],
)
def test_bad_input_is_named(build, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        build()
