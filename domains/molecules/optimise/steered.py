"""Steering as an optimiser: samples of p*(x) ~ p(x) exp(r(x) / alpha), batch after batch; and samples of the prior alone.

Steering looks at half-finished samples, and every look is a call: a method that weighs `candidates` at each of `steps` steps
spends up to candidates x steps calls for one sample. That is what a budget of calls makes dear and a cheap reward makes good.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ....core.samplers import Ancestral
from ....core.steering import SVDD, Steering
from ....core.tilt import Tilt
from ....core.values import PosteriorMean, Value
from ...base import Domain
from .base import OnRound, Scored, rounds, until_spent


@dataclass(frozen=True)
class Steered:
    """Any steering method on the domain's prior, at a fixed temperature.

    Args:
        method: the steering method.
        alpha: temperature, in units of the reward.
        batch: samples steered together.
        steps: denoising steps of ancestral sampling, several words at once where they are few; None takes the domain's sampler.
        value: how a half-finished sample is judged; None is the reward of the most probable completion, one call each.
    """

    method: Steering = field(default_factory=SVDD)
    alpha: float = 0.03
    batch: int = 32
    steps: int | None = None
    value: Value | None = None

    def __post_init__(self) -> None:
        _positive(self, "batch")
        if self.steps is not None:
            _positive(self, "steps")
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}; expected a positive number, in units of the reward")

    def run(
        self, domain: Domain, reward: Scored, *, generator: torch.Generator, on_round: OnRound | None = None
    ) -> None:
        """See `Optimiser.run`."""
        diffusion = domain.diffusion
        if self.steps is not None:
            diffusion = replace(diffusion, steps=self.steps, sampler=Ancestral())
        value = PosteriorMean() if self.value is None else self.value
        tilt = Tilt(diffusion, reward, self.alpha, value, failures="exclude")
        with until_spent(reward):
            for _ in rounds(reward, on_round):
                self.method.sample(tilt, self.batch, generator=generator)


@dataclass(frozen=True)
class Random:
    """Samples of the prior, without any guidance: what every optimiser has to be better than.

    Args:
        batch: samples drawn together.
    """

    batch: int = 64

    def __post_init__(self) -> None:
        _positive(self, "batch")

    def run(
        self, domain: Domain, reward: Scored, *, generator: torch.Generator, on_round: OnRound | None = None
    ) -> None:
        """See `Optimiser.run`."""
        with until_spent(reward):
            for _ in rounds(reward, on_round):
                reward(domain.diffusion.sample(self.batch, generator=generator))


def _positive(settings: object, name: str) -> None:
    if getattr(settings, name) < 1:
        raise ValueError(f"{name} is {getattr(settings, name)}; expected a whole number of at least 1")
