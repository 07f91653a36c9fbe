"""Rewards learned from labelled sequences: a convolutional network, and a k-mer ridge to hold against it.

Whatever is optimised gets exploited where it is wrong. So fit two predictors of different classes on disjoint halves of
the labels (no relatives across), optimise one, and believe a gain only as far as the other shows it too:

    oracle = fit_cnn(tokens[a], labels[a], generator=g).reward()
    judge = fit_kmer_ridge(tokens[b], labels[b], generator=g).reward()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ..core.networks.sequence_regressor import SequenceRegressor
from ..core.storage import StorageError, load_tensors, save_tensors
from ..dna import ALPHABET, DnaError, Pwm
from .kmers import KmerRidge, fit_kmer_ridge
from .labelled import Labelled, Predicted, agreement, head, labelled, pearson, spearman

__all__ = [
    "CnnRegressor",
    "CnnSettings",
    "KmerRidge",
    "Predicted",
    "agreement",
    "fit_cnn",
    "fit_kmer_ridge",
    "fitted",
    "load",
    "pearson",
    "spearman",
]

_ROWS = 128  # rows at a time: more leave the CPU caches and are slower


@dataclass(frozen=True)
class CnnSettings:
    """How to fit a `CnnRegressor`; scanners to dropout are those of `SequenceRegressor`.

    Args:
        epochs, batch: passes over the labels, rows a step.
        learning_rate: peak, after a tenth of the steps (100 at most); falls to 0 by a half cosine.
        weight_decay: of AdamW; ema: decay of the averaged weights, which are the ones kept.
        scanners: at least as many as there are motifs to start from, whatever stands here.
    """

    epochs: int = 20
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema: float = 0.998
    scanners: int = 64
    kernel: int = 13
    channels: int = 64
    hidden: int = 64
    dropout: float = 0.2


class CnnRegressor(nn.Module):
    """A fitted `SequenceRegressor` in the units of its labels: `[B, L]` or relaxed `[B, L, 4]` -> float64 `[B, heads]`.

    Args:
        network: predicts standardised labels.
        mean, std: of the labels, `[heads]`; names: of the heads; facts: JSON-ready, kept in files.
    """

    kind: ClassVar[str] = "convolutional regressor"
    takes: ClassVar[str] = "relaxed"
    differentiable: ClassVar[bool] = True
    alphabet: ClassVar[str | None] = ALPHABET

    def __init__(
        self,
        network: SequenceRegressor,
        mean: Tensor,
        std: Tensor,
        names: Sequence[str],
        facts: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network, self.names, self.facts = network, tuple(names), dict(facts or {})
        self.register_buffer("mean", mean.double())
        self.register_buffer("std", std.double())

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Raises DnaError for tokens outside 0..3, ValueError for another length or shape."""
        if not x.is_floating_point() and bool(((x < 0) | (x >= len(ALPHABET))).any()):
            raise DnaError(f"tokens {int(x.min())}..{int(x.max())}: expected finished sequences over 0..3 for ACGT")
        return self.mean + self.std * torch.cat([self.network(part) for part in x.split(_ROWS)]).double()

    def reward(self, name: str | None = None) -> Predicted:
        """One head as a reward."""
        return head(self, name)

    def save(self, path: str | Path) -> None:
        """Write safetensors with the network's settings, names and facts in the header."""
        header = {
            "kind": self.kind,
            "network": self.network.settings,
            "names": list(self.names),
            "facts": self.facts,
        }
        save_tensors(path, self.state_dict(), header)

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> CnnRegressor:
        """From what `save` wrote. Raises KeyError, TypeError, ValueError or RuntimeError where something does not fit."""
        names = metadata["names"]
        blank = torch.zeros(len(names))
        model = cls(SequenceRegressor(**metadata["network"]), blank, blank, names, metadata.get("facts", {}))
        model.load_state_dict(dict(tensors))
        return model.eval().requires_grad_(False)


def load(path: str | Path) -> CnnRegressor | KmerRidge:
    """Read a predictor that was written by its `save`.

    Raises:
        FileNotFoundError: no such file.
        StorageError: corrupt, foreign, or of another kind.
    """
    tensors, metadata = load_tensors(path)
    kinds: dict[str, type[CnnRegressor] | type[KmerRidge]] = {kind.kind: kind for kind in (CnnRegressor, KmerRidge)}
    kind = kinds.get(str(metadata.get("kind")))
    if kind is None:
        raise StorageError(f"{path} holds {metadata.get('kind')!r}; expected one of {', '.join(kinds)}.")
    try:
        return kind.restore(tensors, metadata)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{path} does not hold a whole {kind.kind}: {error}. Fit or download it again.") from error


def fitted(file: str | Path, name: str | None = None) -> Predicted:
    """One head of a predictor in a file, as a reward; with a single head no name is needed.

    Raises:
        FileNotFoundError, StorageError: see `load`.
        ValueError: no such head, or a name is needed; lists those there are.
    """
    return load(file).reward(name)


def fit_cnn(
    tokens: Tensor,
    labels: ArrayLike | Tensor,
    *,
    generator: torch.Generator,
    names: Sequence[str] | None = None,
    settings: CnnSettings | None = None,
    motifs: Sequence[Pwm] = (),
    flanks: Sequence[Sequence[int]] = ((), ()),
    weights: ArrayLike | Tensor | None = None,
    groups: ArrayLike | None = None,
    validation: float = 0.1,
    on_epoch: Callable[[int, float], Any] | None = None,
) -> CnnRegressor:
    """Fit by weighted least squares on standardised labels (AdamW), and keep the averaged weights of the best epoch.

    Args:
        tokens: int64 `[N, L]`, L >= 8; labels: `[N]` or `[N, heads]`, NaN where missing.
        motifs: scanners start from these instead of at random. With little data this is worth more than any setting.
        flanks: tokens that stood before and after every sequence when it was measured.
        names, weights, groups: see `labelled`; relatives in `groups` are set aside together.
        validation: share of the groups set aside to choose the epoch; 0 keeps the last one.
        on_epoch: called with the number of epochs done and the validation loss (NaN without validation).

    Raises:
        DnaError, ValueError: see `labelled`; or a validation share outside [0, 0.5].
    """
    settings = settings or CnnSettings()
    settings = replace(settings, scanners=max(settings.scanners, len(motifs)))
    data = labelled(tokens, labels, names, weights, groups)
    if not 0 <= validation <= 0.5:
        raise ValueError(f"validation={validation}: expected a share between 0 and 0.5")
    aside = torch.zeros(len(data.tokens), dtype=torch.bool)
    if validation > 0:
        aside = torch.from_numpy(data.folds(max(2, round(1 / validation)), generator) == 0)
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # initial weights and dropout draw from the global generator
        torch.manual_seed(seed)
        network = _untrained(data, settings, motifs, flanks)
        mean, std = _moments(data.labels[~aside])
        best = _train(network, data, (mean, std), aside, settings, generator, on_epoch)
    if not all(bool(parameter.isfinite().all()) for parameter in best.parameters()):
        raise ValueError(f"training diverged at learning_rate={settings.learning_rate}: lower it")
    return CnnRegressor(best.eval().requires_grad_(False), mean, std, data.names, {"settings": asdict(settings)})


def _untrained(
    data: Labelled, settings: CnnSettings, motifs: Sequence[Pwm], flanks: Sequence[Sequence[int]]
) -> SequenceRegressor:
    shape = {name: getattr(settings, name) for name in ("scanners", "kernel", "channels", "hidden", "dropout")}
    length, heads = data.tokens.shape[1], len(data.names)
    network = SequenceRegressor(len(ALPHABET), length, heads, both_strands=True, flanks=flanks, **shape)
    with torch.no_grad():
        for row, motif in enumerate(motifs):
            network.scan.weight[row], network.scan.bias[row] = _scanner(motif, settings.kernel)
    return network


def _scanner(motif: Pwm, kernel: int) -> tuple[Tensor, float]:
    """A motif as scanner `[4, kernel]` with bias: 0.8 at the best word, 0 at 60 % of its score, cropped where too long."""
    scores = motif.log_odds.float().clamp(min=-3)
    if motif.width > kernel:
        start = int(scores.abs().sum(1).unfold(0, kernel, 1).sum(1).argmax())
        scores = scores[start : start + kernel]
    left = (kernel - len(scores)) // 2
    padded = nn.functional.pad(scores, (0, 0, left, kernel - len(scores) - left))
    return padded.T * (2 / scores.amax(1).sum().clamp(min=1e-3)), -1.2


def _moments(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[heads]` of the labels that are there; 1 where a label does not vary."""
    mean = labels.nanmean(0)
    std = (labels - mean).square().nanmean(0).sqrt()
    return mean, torch.where(std > 0, std, 1.0)


def _train(
    network: SequenceRegressor,
    data: Labelled,
    moments: tuple[Tensor, Tensor],
    aside: Tensor,
    settings: CnnSettings,
    generator: torch.Generator,
    on_epoch: Callable[[int, float], Any] | None,
) -> SequenceRegressor:
    """The averaged network of the epoch with the least validation loss."""
    target = ((data.labels - moments[0]) / moments[1]).float()
    rows = (~aside).nonzero().flatten()
    steps = settings.epochs * math.ceil(len(rows) / settings.batch)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    average, best, least, step = deepcopy(network).eval(), deepcopy(network), math.inf, 0
    for epoch in range(1, settings.epochs + 1):
        network.train()
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(settings.batch):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _warm_cosine(step, steps)
            optimizer.zero_grad()
            _loss(network(data.tokens[batch]), target[batch], data.weights[batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            _follow(average, network, min(settings.ema, (1 + step) / (10 + step)))
        loss = _validate(average, data, target, aside)
        if not loss >= least:  # NaN without validation: the last epoch counts
            best, least = deepcopy(average), loss
        if on_epoch is not None:
            on_epoch(epoch, loss)
    return best


def _warm_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / min(100, steps / 10)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error per label that is there; missing ones give neither value nor gradient."""
    known = ~target.isnan()
    missed = torch.where(known, predicted - target.nan_to_num(), 0.0)
    return (weight.float()[:, None] * missed**2).sum() / known.sum().clamp(min=1)


@torch.no_grad()
def _validate(network: SequenceRegressor, data: Labelled, target: Tensor, aside: Tensor) -> float:
    if not bool(aside.any()):
        return math.nan
    predicted = torch.cat([network(part) for part in data.tokens[aside].split(_ROWS)])
    return float(_loss(predicted, target[aside], data.weights[aside]))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
