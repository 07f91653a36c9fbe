"""UniformWorld: a joint law over K^L sequences, and everything about its uniform-noise diffusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion import Diffusion
from ..parameterisations import Logits
from ..processes.uniform import Uniform
from ..samplers import Ancestral
from ..schedules import Linear, Schedule
from .enumerated import Enumerated, RandomTables


@dataclass(frozen=True)
class UniformWorld(RandomTables, Enumerated):
    """A random joint law p over K^L sequences, correlated, and a random reward; tokens are noised into uniform ones.

    No sampler of few steps draws from p itself: sites that change in one step are drawn independently, and the sampler's
    own law p_T is about 1 / steps away.

    Args:
        length: L, 2 to 6; vocab: K, 2 to 5; seed: draws p and the reward.
        alpha: temperature of the tilt. schedule: of the noise.
        steps: of the default sampler, which is ancestral.

    Raises:
        ValueError: more than 5000 sequences, or a number out of range.
    """

    length: int = 4
    vocab: int = 3
    seed: int = 0
    alpha: float = 0.5
    schedule: Schedule = field(default_factory=Linear)
    steps: int = 32

    def __post_init__(self) -> None:
        if not 2 <= self.length <= 6 or not 2 <= self.vocab <= 5 or self.vocab**self.length > 5000:
            raise ValueError(
                f"UniformWorld(length={self.length}, vocab={self.vocab}) is not enumerable here; use length 2-6, vocab 2-5."
            )

    @property
    def symbols(self) -> int:
        """K: noisy states are sequences too."""
        return self.vocab

    def noised(self, weights: Tensor, t: float) -> Tensor:
        """Sum over x0 of weights(x0) q(x_t | x0) at every x_t: float64 `[K^L] -> [K^L]`."""
        cube = weights.reshape([self.vocab] * self.length)
        for site in range(self.length):
            cube = _mix(cube, site, self._left(t))
        return cube.flatten()

    def _left(self, t: float) -> float:
        """alpha(t)."""
        return float(self.schedule.alpha(torch.tensor(t, dtype=torch.float64)))

    def value(self, x: Tensor, t: float = 0.0) -> Tensor:
        """V(x_t, t) = alpha log E[exp(r / alpha) | x_t], float64 `[B]`."""
        return self._kept("value", t, self._values)[self.index(x)]

    def posterior(self, t: float) -> Tensor:
        """log p(x0^i = k | x_t) of all states, float64 `[K^L, L, K]`."""
        return self._kept("posterior", t, self._posterior)

    @cached_property
    def _tables(self) -> dict[tuple[str, float], Tensor]:
        return {}

    def _kept(self, name: str, t: float, make: Callable[[float], Tensor]) -> Tensor:
        """A table by time, made once; the oldest goes where there are many."""
        if (name, t) not in self._tables:
            if len(self._tables) >= 256:
                self._tables.pop(next(iter(self._tables)))
            self._tables[name, t] = make(t)
        return self._tables[name, t]

    def _values(self, t: float) -> Tensor:
        peak = self.rewards.max()  # so that exp never overflows
        weighted = self.noised(self.p * ((self.rewards - peak) / self.alpha).exp(), t)
        return peak + self.alpha * (weighted / self.noised(self.p, t)).log()

    def _posterior(self, t: float) -> Tensor:
        left = self._left(t)
        likelihood = left * torch.eye(self.vocab, dtype=torch.float64) + (1 - left) / self.vocab
        sites = []
        for site in range(self.length):
            others = self.p.reshape([self.vocab] * self.length)
            for other in set(range(self.length)) - {site}:
                others = _mix(others, other, left)
            given = others.movedim(site, -1).unsqueeze(site)  # what is at the site has no say yet; x0 there comes last
            view = [1] * self.length + [self.vocab]
            view[site] = self.vocab
            joint = given * likelihood.reshape(view)
            sites.append((joint / joint.sum(-1, keepdim=True)).log().reshape(-1, self.vocab))
        return torch.stack(sites, 1)

    @cached_property
    def diffusion(self) -> Diffusion:
        """The exact denoiser with the ancestral sampler."""
        network = Denoiser(lambda x, t: self.posterior(float(t[0]))[self.index(x)], Logits(self.vocab))
        return Diffusion(
            Uniform(self.vocab, self.schedule), network, (self.length,), steps=self.steps, sampler=Ancestral()
        )


def _mix(cube: Tensor, site: int, left: float) -> Tensor:
    """One site noised: left of it stays, the rest is spread evenly."""
    return left * cube + (1 - left) * cube.mean(site, keepdim=True)
