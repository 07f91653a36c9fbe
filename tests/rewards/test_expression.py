"""The shipped expression oracles: what they are, what they answer, how they are made."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from tiltflow.dna import DnaError, Pwm, encode, one_hot
from tiltflow.rewards import expression
from tiltflow.rewards.learned import CnnRegressor, CnnSettings, KmerRidge, load

module = import_module("tiltflow.rewards.expression")

# The first and the last native promoter of the published table, measured at 13.2 / 13.4 and 8.1 / 8.4 bins.
STRONG = "AAAAAAAAAAAGAAAAACAAAGAAAAAGGGGGAATAACACAGCCGCGGGTAACATGAAGCGGCGCGAGCGATACTTCCGT"
WEAK = "TTTTTTGATGCGCTATCATCCGTTATTCTTGGCCACCAACTCTCATTAAATACTGCAAAAGTCCAAACCTAATTTATTGT"


def random_tokens(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, (rows, 80), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("heldout", [False, True])
@pytest.mark.parametrize("condition", ["YPD", "SC-Ura"])
def test_a_strong_promoter_scores_above_a_weak_one(condition: str, heldout: bool) -> None:
    strong, weak = expression(condition, heldout)(torch.stack([encode(STRONG), encode(WEAK)])).tolist()  # type: ignore[arg-type]
    assert 0 < weak < strong - 1
    assert strong < 17


@pytest.mark.parametrize("heldout", [False, True])
def test_difference_is_the_difference(heldout: bool) -> None:
    x = random_tokens(50)
    ypd, ura, both = (expression(c, heldout)(x) for c in ("YPD", "SC-Ura", "difference"))
    torch.testing.assert_close(both, ypd - ura, rtol=0, atol=1e-12)
    assert float(both.abs().max()) > 0


def test_oracles_declare_what_they_take() -> None:
    oracle, judge = expression("YPD"), expression("YPD", heldout=True)
    assert (oracle.takes, oracle.differentiable, oracle.alphabet) == ("relaxed", True, "ACGT")
    assert (judge.takes, judge.differentiable, judge.alphabet) == ("tokens", False, "ACGT")


def test_one_hot_input_is_the_token_result_and_has_a_gradient() -> None:
    reward, x = expression("YPD"), random_tokens(5)
    relaxed = one_hot(x).requires_grad_()
    assert torch.equal(reward(relaxed).detach(), reward(x))
    (gradient,) = torch.autograd.grad(reward(relaxed).sum(), relaxed)
    assert bool((gradient.abs().sum((1, 2)) > 0).all())
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())  # type: ignore[attr-defined]


def test_oracles_agree_where_neither_was_fitted() -> None:
    x = random_tokens(500, seed=3)
    oracle, judge = (expression("YPD", heldout)(x) for heldout in (False, True))
    assert float(torch.corrcoef(torch.stack([oracle, judge]))[0, 1]) > 0.6


def test_natural_statistics_are_there_for_every_condition() -> None:
    for heldout in (False, True):
        ypd, ura, both = (expression(c, heldout) for c in ("YPD", "SC-Ura", "difference"))
        assert both.natural_mean == pytest.approx(ypd.natural_mean - ura.natural_mean, abs=1e-6)
        assert abs(ypd.natural_std - ura.natural_std) < both.natural_std < ypd.natural_std + ura.natural_std


def test_files_are_read_once_and_small() -> None:
    assert expression("YPD").model is expression("SC-Ura").model
    for name in module.ASSETS.values():
        assert len((files("tiltflow.rewards") / "assets" / f"{name}.safetensors").read_bytes()) < 600_000


def test_cards_quote_the_figures_in_the_files() -> None:
    from tiltflow.rewards.oracle_card import card

    for heldout, name in module.ASSETS.items():
        text = (files("tiltflow.rewards") / "assets" / f"{name}.md").read_text(encoding="utf-8")
        model = expression("YPD", heldout).model
        assert text == card(model)  # type: ignore[arg-type]
        assert f"{model.facts['test']['YPD']['Random']['pearson']:.3f}" in text  # type: ignore[attr-defined]
        assert "MIT" in text


def test_unknown_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="condition='YPE': choose one of YPD, SC-Ura, difference"):
        expression("YPE")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 79), (2, 81, 4), (80,)])
@pytest.mark.parametrize("heldout", [False, True])
def test_other_lengths_are_refused(shape: tuple[int, ...], heldout: bool) -> None:
    with pytest.raises(DnaError, match=r"read 80-bp promoters, \[B, 80\]"):
        expression("YPD", heldout)(torch.zeros(shape, dtype=torch.int64 if len(shape) < 3 else torch.float32))


@pytest.mark.parametrize("heldout", [False, True])
def test_masks_are_refused(heldout: bool) -> None:
    with pytest.raises(DnaError, match="finished sequences"):
        expression("YPD", heldout)(torch.full((1, 80), 4))


# how they are made


def campaign(rows: int = 240) -> object:
    """Expression that is the number of G less that of A, so that both oracles can learn it from few rows."""
    x = random_tokens(rows, seed=1)
    level = ((x == 2).sum(1) - (x == 0).sum(1)).double()
    labels = torch.stack([level, torch.where(torch.arange(rows) % 3 > 0, 0.5 * level, torch.nan)], 1)
    fold = np.array(["A", "B", "test"])[np.arange(rows) // 2 % 3]
    subset = np.array(["Native", "Random"])[np.arange(rows) // 6 % 2]
    motifs, flanks = [Pwm.from_consensus("GG")], ([0, 1], [2, 3])
    return module.Campaign(x, labels, subset, fold, np.arange(rows) // 2, random_tokens(30, seed=2), motifs, flanks)


def test_training_writes_both_oracles_with_their_figures(tmp_path: Path) -> None:
    settings = CnnSettings(epochs=2, batch=16, scanners=4, kernel=3, channels=4, hidden=4)
    seen: list[int] = []
    figures = module.train(
        campaign(), tmp_path, command="make oracles", settings=settings, progress=lambda epoch, _: seen.append(epoch)
    )
    cnn, judge = (load(tmp_path / f"{name}.safetensors") for name in ("expression_cnn", "expression_heldout"))
    assert isinstance(cnn, CnnRegressor)
    assert isinstance(judge, KmerRidge)
    assert seen == [1, 2]
    assert cnn.facts == figures["expression_cnn"]
    assert judge.facts["trained_on"] == {"Native": 40, "Random": 40}
    assert judge.facts["test"]["YPD"]["all"]["n"] == 80
    assert judge.facts["test"]["YPD"]["all"]["pearson"] > 0.8
    natural = judge(random_tokens(30, seed=2))
    assert judge.facts["natural_mean"]["difference"] == pytest.approx(float((natural[:, 0] - natural[:, 1]).mean()))
    assert judge.facts["natural_std"]["YPD"] == pytest.approx(float(natural[:, 0].std()))
    assert "`make oracles` (seed 0)" in (tmp_path / "expression_heldout.md").read_text()
    assert "JASPAR" in (tmp_path / "expression_cnn.md").read_text()
    assert "JASPAR" not in (tmp_path / "expression_heldout.md").read_text()


def test_relatives_in_two_folds_are_refused() -> None:
    good = campaign()
    with pytest.raises(ValueError, match="relatives must stay together"):
        module.Campaign(**{**vars(good), "family": np.arange(240) // 4})
