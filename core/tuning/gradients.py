"""Gradient estimators through discrete draws: how a step of tokens is made differentiable, or is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..transitions import CategoricalTransition


class TokenGradient(Protocol):
    """Draws one-hot or relaxed tokens through which gradients flow."""

    def draw(self, log_probs: Tensor, u: Tensor, progress: float) -> Tensor:
        """Tokens `[B, L, S]` on the simplex from log_probs `[B, L, S]` and float64 uniforms u of that shape."""
        ...


@dataclass(frozen=True)
class GumbelSoftmax:
    """Gumbel-softmax draws (Jang et al. 2017): the gradient of a softened argmax, biased, the less so the lower the
    temperature, and the noisier.

    Args:
        temperature: at the start of training.
        final: at the end, reached geometrically (None: constant).
        straight_through: hard tokens forward, soft gradient; states are then those that inference sees.
    """

    temperature: float = 1.0
    final: float | None = 0.3
    straight_through: bool = True

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("final", self.final)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; expected a positive number.")

    def at(self, progress: float) -> float:
        """The temperature when a part `progress` of training is done."""
        final = self.temperature if self.final is None else self.final
        return self.temperature * (final / self.temperature) ** progress

    def draw(self, log_probs: Tensor, u: Tensor, progress: float) -> Tensor:
        return CategoricalTransition(log_probs).relax(u, self.at(progress), straight_through=self.straight_through)


@dataclass(frozen=True)
class Reinforce:
    """The score-function estimator, unbiased: sum of grad log p(x_s | x_t) times (return - the mean of the others').

    The return is r - alpha KL, and the baseline leaves the sample itself out (Kool et al. 2019), which keeps the estimate
    unbiased. Needs only reward numbers.
    """
