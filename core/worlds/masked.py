"""Masked worlds: a joint law over K^L sequences, and everything about its masked diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion import Diffusion
from ..parameterisations import Subs
from ..processes.masked import Masked
from ..samplers import FirstHitting
from .enumerated import Enumerated, RandomTables


class MaskedLattice(Enumerated):
    """The masked diffusion of any table p over K^L sequences: (K + 1)^L states of tokens and masks."""

    @property
    def symbols(self) -> int:
        """K tokens and the mask."""
        return self.vocab + 1

    def marginal(self, weights: Tensor) -> Tensor:
        """Sum of `weights` `[K^L]` over the completions of every state: `[(K + 1)^L]`."""
        cube = weights.reshape([self.vocab] * self.length)
        for site in range(self.length):
            cube = torch.cat([cube, cube.sum(site, keepdim=True)], site)
        return cube.flatten()

    @cached_property
    def mass(self) -> Tensor:
        """float64 `[(K + 1)^L]`: probability under p of the completions of every state."""
        return self.marginal(self.p)

    @cached_property
    def _values(self) -> Tensor:
        peak = self.rewards.max()  # so that exp never overflows
        weighted = self.marginal(self.p * ((self.rewards - peak) / self.alpha).exp())
        values = peak + self.alpha * (weighted / self.mass).log()
        return torch.where(self.mass > 0, values, self.rewards.min())  # no path leads where p has no mass

    def value(self, x: Tensor, t: float = 0.0) -> Tensor:
        """V(x_t) = alpha log E[exp(r / alpha) | x_t], float64 `[B]`; does not depend on t given the masks."""
        return self._values[self.index(x)]

    @cached_property
    def posterior(self) -> Tensor:
        """log p(x0^i = k | state) of all states, float64 `[(K + 1)^L, L, K]`; at an unmasked site one-hot."""
        return Subs(self.vocab).clean(self.log_posterior(self.states), self.states, torch.zeros(1))

    def log_posterior(self, x: Tensor) -> Tensor:
        """log p(x0^i = k | x_t) at masked sites of x int64 `[B, L]`, float64 `[B, L, K]`; not to be read at others."""
        number = self.index(x)
        shift = (torch.arange(self.vocab) - self.vocab) * self.places.unsqueeze(1)
        filled = (number.reshape(-1, 1, 1) + shift).clamp(min=0)
        share = self.mass[filled] / self.mass[number].reshape(-1, 1, 1)
        return torch.where(self.mass[number].reshape(-1, 1, 1) > 0, share, 1.0).log()

    @cached_property
    def diffusion(self) -> Diffusion:
        """The exact denoiser with the one-at-a-time sampler, whose law is p."""
        network = Denoiser(lambda x, t: self.log_posterior(x), Subs(self.vocab), time_invariant=True)
        return Diffusion(Masked(self.vocab), network, (self.length,), sampler=FirstHitting())


@dataclass(frozen=True)
class MaskedWorld(RandomTables, MaskedLattice):
    """A random joint law p over K^L sequences, correlated, and a random reward.

    Args:
        length: L, 2 to 8; vocab: K, 2 to 5; seed: draws p and the reward.
        alpha: temperature of the tilt.
    """

    length: int = 4
    vocab: int = 3
    seed: int = 0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 2 <= self.length <= 8 or not 2 <= self.vocab <= 5 or (self.vocab + 1) ** self.length > 2_000_000:
            raise ValueError(
                f"MaskedWorld(length={self.length}, vocab={self.vocab}) is not enumerable here; use length 2-8, vocab 2-5."
            )
