"""CTRL: a new condition for a pretrained model, learnt from labelled samples, and classifier-free training to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..diffusion import check_count
from ..states import match_rows
from ..tilt import Tilt, is_conditional
from .backprop import RewardBackprop
from .base import Loss, Tuning
from .conditions import Labelled
from .forward import Bounds, need_bounds
from .roles import Roles


@dataclass(frozen=True)
class CTRL(RewardBackprop):
    """Conditioning by reinforcement learning (Zhao et al. 2024): for conditions y drawn from `conditions`, maximise

        E[log p(y | x0)] - alpha KL(path of theta under y || path of the pretrained model)

    by reward backpropagation, or `Reinforce`. With alpha 1 the optimum under each y is p(x | y, c) of the pretrained law and
    the classifier, whatever law the y are drawn from; alpha = 1 / gamma aims at p(x) p(y | x)^gamma. Only labels and a
    classifier are needed, no samples of x with both conditions.

        model = add_condition(pretrained, {"level": 3})          # the same law; "level" does nothing yet
        data = Labelled(x, {"level": y})
        classifier = fit_classifier(network, data, "level", generator=g)   # classifier.quality: held out, calibrated
        tilt = Tilt(model, classifier, alpha=1.0)
        tuned = CTRL(conditions=Conditions(data.labels)).fit(tilt)
        x = tuned.sample(8, cond={"level": torch.tensor([2])})
        stronger = guide(tuned, 2.0, base=pretrained_with_condition)

    Several conditions at once: `add_condition(..., {"a": 3, "b": 2})`, a reward that sums their classifiers
    (`classifier.Joint`), and a table of both columns. The pretrained model's own conditions c go in the tilt's `cond` or the
    table. Baselines in the same words: `ClassifierFree` with `guide(..., drop=["level"])`, and classifier guidance, which
    tunes nothing: `Doob("first-order")` on `Tilt(ignore(pretrained, ["level"]), classifier, 1.0, cond={"level": y},
    value=PosteriorMean("soft"))`.
    """

    def check(self, tilt: Tilt) -> None:
        """A reward that does not see the condition, and models that backpropagation cannot serve, are refused."""
        if not is_conditional(tilt.reward_function):
            name = getattr(tilt.reward_function, "__name__", type(tilt.reward_function).__name__)
            raise ValueError(
                f"CTRL needs a reward of samples and conditions, log p(y | x), and {name} is not conditional. Use a "
                "Classifier, or set `conditional = True` on a reward that takes (x, cond)."
            )
        if tilt.cond is None:
            raise ValueError("CTRL needs conditions to train under: CTRL(conditions=Conditions({'label': labels})).")
        super().check(tilt)


@dataclass(frozen=True)
class LabelledBatch:
    """Samples `[B, *shape]` with their conditions, a row each."""

    x0: Tensor
    cond: dict[str, Any]


@dataclass(frozen=True)
class ClassifierFree(Tuning):
    """Classifier-free training (Ho & Salimans 2022): fit p(x | y) to the labelled samples by the bound, with the labels left
    out of part of them, so that `guide(tuned, strength, drop=labels)` can compare.

    Learns the law of the labelled set, which may differ from the pretrained one; the reward and alpha play no part.

    Args:
        data: samples with their labels.
        drop: part of the samples whose labels are left out.
        bounds: noise levels a sample, and their weighting.
    """

    data: Labelled | None = None
    drop: float = 0.1
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("draws", self.bounds.draws)
        if self.data is None or not 0 <= self.drop < 1:
            raise ValueError(f"ClassifierFree(drop={self.drop}): expected labelled data=... and a part in [0, 1).")

    def check(self, tilt: Tilt) -> None:
        """A process without bounds, or samples of another shape, are refused."""
        need_bounds(tilt, "ClassifierFree")
        assert self.data is not None
        if tuple(self.data.x.shape[1:]) != tilt.diffusion.shape:
            raise ValueError(
                f"The samples have shape {tuple(self.data.x.shape[1:])}; the model {tilt.diffusion.shape}."
            )
        tilt.diffusion.process.check(self.data.x, clean=True)

    def collect(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> LabelledBatch:
        assert self.data is not None
        rows = torch.randint(len(self.data), (self.batch,), generator=generator)
        left_out = torch.rand(self.batch, generator=generator) < self.drop
        chosen, device = self.data.rows(rows.to(self.data.x.device)), roles.theta.device
        labels = {name: _left_out(column, left_out.to(column.device)) for name, column in chosen.labels.items()}
        cond = {**match_rows(dict(tilt.cond or {}), self.batch), **{name: y.to(device) for name, y in labels.items()}}
        return LabelledBatch(chosen.x.to(device), cond)

    def loss(self, tilt: Tilt, roles: Roles, batch: LabelledBatch, generator: torch.Generator, progress: float) -> Loss:
        bound = self.bounds.features(roles, (), batch.x0, batch.cond, generator=generator).ell["theta"]
        return Loss(-bound.mean(), {"bound": float(bound.detach().mean())})


def _left_out(column: Tensor, left_out: Tensor) -> Tensor:
    """Labels as -1, numbers as NaN, where they are left out: what `networks.Conditioned` takes for not known."""
    if column.is_floating_point():
        return torch.where(left_out.reshape(-1, *([1] * (column.ndim - 1))), torch.nan, column)
    return torch.where(left_out, -1, column)
