"""Observers of training: keep the best weights, stop early on a held-out score or on a budget of divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..diffusion import Diffusion
from ..storage import load_tensors, save_tensors
from ..tilt import call_reward
from .base import Progress
from .roles import frozen


@dataclass(frozen=True)
class HeldOut:
    """A score for `KeepBest`: the mean of a reward that is not trained on, over n samples, each time with the same noise.

    Args:
        reward: samples `[n, *shape]` -> `[n]`; n, seed: of the samples; cond: as in `Tilt`.
    """

    reward: Callable[..., Any]
    n: int = 128
    seed: int = 0
    cond: Any = None

    def __call__(self, model: Diffusion) -> float:
        x = model.sample(self.n, generator=torch.Generator().manual_seed(self.seed), cond=self.cond)
        with torch.no_grad():
            return float(torch.as_tensor(call_reward(self.reward, x, self.cond)).double().mean())


@dataclass
class KeepBest:
    """Keeps a frozen copy of the model that scored best, and stops when it is too long ago.

    Args:
        score: model -> number, higher is better; the same for the same weights, such as `HeldOut`.
        every: optimiser steps between scores; the last step is always scored.
        patience: stop when the best is this many steps old (None: never).
        path: file to keep the best weights in, from which a resumed run recalls them.

    Attributes:
        best: its score; step: when; model: itself, None before the first score.
    """

    score: Callable[[Diffusion], float]
    every: int = 25
    patience: int | None = None
    path: str | Path | None = None
    best: float = field(default=-math.inf, init=False)
    step: int = field(default=0, init=False)
    model: Diffusion | None = field(default=None, init=False, repr=False)

    def __call__(self, progress: Progress) -> bool:
        if progress.step % self.every and progress.step != progress.total:
            return False
        if self.model is None and progress.step > self.every:
            self._recall(progress.model)
        value = float(self.score(progress.model))
        if self.model is None or value > self.best:
            self.best, self.step, self.model = value, progress.step, frozen(progress.model)
            self._keep(self.model)
        return self.patience is not None and progress.step - self.step >= self.patience

    def _keep(self, model: Diffusion) -> None:
        if self.path is not None:
            facts = {"kind": "best", "score": self.best, "step": self.step}
            save_tensors(self.path, {k: v.clone() for k, v in model.denoiser.state_dict().items()}, facts)

    def _recall(self, like: Diffusion) -> None:
        """What the run before an interruption had kept."""
        if self.path is None or not Path(self.path).exists():
            return
        tensors, facts = load_tensors(self.path, "best")
        self.model = frozen(like)
        self.model.denoiser.load_state_dict(tensors)
        self.best, self.step = float(facts["score"]), int(facts["step"])


@dataclass(frozen=True)
class KLBudget:
    """Stops when the divergence from the pretrained model, averaged over the last steps, is more than a number of nats.

    Args:
        nats: the budget; window: optimiser steps averaged over, since a micro-batch's mean is noisy.
    """

    nats: float
    window: int = 10

    def __call__(self, progress: Progress) -> bool:
        spent = [row["kl"] for row in progress.curve[-self.window :] if row.get("kl") is not None]
        return len(spent) == self.window and sum(spent) / len(spent) > self.nats  # type: ignore[arg-type]
