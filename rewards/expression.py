"""Expression of yeast promoters, read off the sequence by shipped oracles (data: Vaishnav et al., Nature 603:455, 2022).

Two oracles that share no training sequence and no relative of one: a convolutional network to optimise, and a k-mer ridge,
held out, to judge by. Units are those of the sorting experiment: bins 0 to 17, logarithmic in fluorescence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.storage import write_text
from ..dna import DnaError, Pwm
from .learned import CnnRegressor, CnnSettings, KmerRidge, Predicted, agreement, fit_cnn, fit_kmer_ridge, load, pearson
from .oracle_card import card

LENGTH = 80
HEADS = ("YPD", "SC-Ura")
CONDITIONS: dict[str, tuple[float, float]] = {"YPD": (1, 0), "SC-Ura": (0, 1), "difference": (1, -1)}
ASSETS = {False: "expression_cnn", True: "expression_heldout"}
SETTINGS = CnnSettings(epochs=20, scanners=192)
_KS = (4, 5, 6)


@dataclass(frozen=True, eq=False)
class Expression(Predicted):
    """Predicted expression of 80-bp promoters, in bins; see `expression`.

    Args:
        model, weights: see `Predicted`.
        natural_mean, natural_std: of this number over the natural promoters of yeast, one per gene.
    """

    natural_mean: float
    natural_std: float

    def __call__(self, x: Tensor) -> Tensor:
        """Reward float64 `[B]`. Raises DnaError for another length than 80."""
        if x.dim() < 2 or x.shape[1] != LENGTH:
            raise DnaError(
                f"sequences of shape {list(x.shape)}: the expression oracles read {LENGTH}-bp promoters, [B, {LENGTH}] or "
                f"[B, {LENGTH}, 4]; fit your own on other constructs with tiltflow.rewards.learned.fit_cnn"
            )
        return super().__call__(x)


def expression(condition: Literal["YPD", "SC-Ura", "difference"] = "YPD", heldout: bool = False) -> Expression:
    """Expression in rich medium (YPD), in medium without uracil (SC-Ura), or YPD minus SC-Ura.

    The difference is small (the two correlate at 0.97) and predicted far worse than either; see the cards in `assets`.

    Args:
        condition: which number.
        heldout: the judge (tokens only, not differentiable) instead of the oracle to optimise (relaxed input too).

    Raises:
        ValueError: an unknown condition; lists those there are.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition={condition!r}: choose one of {', '.join(CONDITIONS)}")
    model, weights = _asset(ASSETS[bool(heldout)]), CONDITIONS[condition]
    return Expression(model, weights, model.facts["natural_mean"][condition], model.facts["natural_std"][condition])


@cache
def _asset(name: str) -> CnnRegressor | KmerRidge:
    """A shipped predictor, read once per process."""
    with as_file(files(__package__) / "assets" / f"{name}.safetensors") as path:
        return load(path)


@dataclass(frozen=True)
class Campaign:
    """Measured promoters and how they are split; all arrays have N rows.

    Attributes:
        tokens: int64 `[N, 80]`; labels: float64 `[N, 2]`, columns YPD, SC-Ura, NaN where missing.
        subset: "Native", "Random", "SSWM"; fold: "A" (trains the oracle), "B" (trains the judge), "test".
        family: int64, equal for relatives, none of which may be in two folds.
        natural: int64 `[G, 80]`, one natural promoter per gene.
        motifs: known motifs that the scanners start from.
        flanks: tokens of the construct before and after the 80-mer.
    """

    tokens: Tensor
    labels: Tensor
    subset: NDArray[np.str_]
    fold: NDArray[np.str_]
    family: NDArray[np.int64]
    natural: Tensor
    motifs: Sequence[Pwm]
    flanks: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        folds: dict[int, str] = {}
        for family, fold in zip(self.family.tolist(), self.fold.tolist(), strict=True):
            if folds.setdefault(family, fold) != fold:
                raise ValueError(
                    f"family {family} is in folds {folds[family]} and {fold}: relatives must stay together"
                )


def train(
    campaign: Campaign,
    out_dir: str | Path,
    *,
    command: str,
    seed: int = 0,
    settings: CnnSettings = SETTINGS,
    progress: Callable[[int, float], Any] | None = None,
) -> dict[str, Any]:
    """Fit both oracles, measure them on the test fold, write them and their cards to `out_dir`. About ten CPU minutes.

    Args:
        command: what to type to repeat this; stands in the cards.
        progress: called with (epochs done, validation loss) of the network.

    Returns:
        The figures: {"expression_cnn" | "expression_heldout" | "between": ...}.

    Raises:
        ValueError: relatives in two folds, or a fold with too few labels.
    """
    generator = torch.Generator().manual_seed(seed)
    cnn = _fit_oracle(campaign, settings, generator, progress)
    judge = _fit_judge(campaign, generator)
    between = _between(campaign, cnn, judge)
    figures: dict[str, Any] = {"between": between}
    for heldout, model in ((False, cnn), (True, judge)):
        model.facts |= _facts(campaign, model, "B" if heldout else "A", seed, command)
        model.facts |= {"between": between, "motifs": 0 if heldout else len(campaign.motifs)}
        path = Path(out_dir) / f"{ASSETS[heldout]}.safetensors"
        model.save(path)
        write_text(path.with_suffix(".md"), card(model))
        figures[ASSETS[heldout]] = model.facts
    return figures


def _fit_oracle(
    campaign: Campaign,
    settings: CnnSettings,
    generator: torch.Generator,
    progress: Callable[[int, float], Any] | None,
) -> CnnRegressor:
    rows = campaign.fold == "A"
    return fit_cnn(
        campaign.tokens[torch.from_numpy(rows)],
        campaign.labels[torch.from_numpy(rows)],
        generator=generator,
        names=HEADS,
        settings=settings,
        motifs=campaign.motifs,
        flanks=campaign.flanks,
        groups=campaign.family[rows],
        on_epoch=progress,
    )


def _fit_judge(campaign: Campaign, generator: torch.Generator) -> KmerRidge:
    """Large families count less: weights 1 / sqrt(size), which helps where there are no relatives."""
    rows = campaign.fold == "B"
    _, family, sizes = np.unique(campaign.family[rows], return_inverse=True, return_counts=True)
    return fit_kmer_ridge(
        campaign.tokens[torch.from_numpy(rows)],
        campaign.labels[torch.from_numpy(rows)],
        _KS,
        names=HEADS,
        weights=1 / np.sqrt(sizes[family]),
        groups=family,
        generator=generator,
    )


@torch.no_grad()
def _facts(campaign: Campaign, model: CnnRegressor | KmerRidge, fold: str, seed: int, command: str) -> dict[str, Any]:
    test = torch.from_numpy(campaign.fold == "test")
    predicted, measured, natural = (
        _conditions(heads) for heads in (model(campaign.tokens[test]), campaign.labels[test], model(campaign.natural))
    )
    levels = dict(zip(CONDITIONS, natural.T, strict=True))
    used = campaign.subset[campaign.fold == fold]
    return {
        "command": command,
        "seed": seed,
        "trained_on": {name: int((used == name).sum()) for name in sorted(set(campaign.subset.tolist()))},
        "test": agreement(predicted, measured, campaign.subset[test.numpy()], list(CONDITIONS)),
        "natural_mean": {name: float(level.mean()) for name, level in levels.items()},
        "natural_std": {name: float(level.std()) for name, level in levels.items()},
    }


def _conditions(heads: Tensor) -> Tensor:
    """Columns YPD, SC-Ura, difference from `[N, 2]`; a difference with a missing side is missing."""
    return torch.cat([heads, heads[:, :1] - heads[:, 1:]], 1)


@torch.no_grad()
def _between(campaign: Campaign, cnn: CnnRegressor, judge: KmerRidge) -> dict[str, dict[str, float | None]]:
    """Pearson correlation of the two oracles, over natural promoters and over the random sequences of the test fold."""
    random = campaign.tokens[torch.from_numpy((campaign.fold == "test") & (campaign.subset == "Random"))]
    table = {}
    for name, x in (("natural", campaign.natural), ("Random", random)):
        ours, theirs = cnn(x), judge(x)
        table[name] = {head: pearson(ours[:, i], theirs[:, i]) for i, head in enumerate(HEADS)}
    return table
