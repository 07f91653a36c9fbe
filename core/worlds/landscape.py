"""LandscapeWorld: a measured landscape as a world. Real rewards, and p* still exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .masked import MaskedLattice


@dataclass(frozen=True)
class LandscapeWorld(MaskedLattice):
    """Every sequence of a short alphabet with a measured score, under masked diffusion.

    Args:
        scores: sequence -> measured score, the reward. All sequences of one length L over `alphabet`; those that are absent
            were not measured: p is 0 there, and a plug-in value that guesses one sees the lowest measured score.
        alphabet: the K tokens in index order.
        alpha: temperature of the tilt, in units of the score.
        weights: sequence -> unnormalised base mass p (default: every measured sequence equally likely).

    Raises:
        ValueError: no scores, lengths that differ, letters outside the alphabet, a score or weight that is not finite, or
            more than 4 million noisy states.
    """

    scores: Mapping[str, float]
    alphabet: str
    alpha: float = 0.5
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        lengths = {len(text) for text in self.scores}
        if len(lengths) != 1:
            raise ValueError(f"A landscape needs scored sequences of one length; lengths are {sorted(lengths)[:5]}.")
        foreign = sorted(set("".join(self.scores)) - set(self.alphabet))
        if foreign or len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(
                f"Letters {foreign[:5]} are not in the alphabet {self.alphabet!r}, or it repeats a letter."
            )
        if self.symbols**self.length > 4_000_000:
            raise ValueError(f"{self.symbols}^{self.length} noisy states are too many to list (4 million at most).")
        for name, table in (("score", self.scores), ("weight", self.weights or {})):
            bad = [text for text, number in table.items() if not math.isfinite(number)]
            if bad:
                raise ValueError(f"The {name} of {bad[0]} is {table[bad[0]]}; expected a finite number.")

    @property
    def length(self) -> int:  # type: ignore[override]
        """L."""
        return len(next(iter(self.scores)))

    @property
    def vocab(self) -> int:  # type: ignore[override]
        """K."""
        return len(self.alphabet)

    def encode(self, texts: list[str]) -> Tensor:
        """Sequences as tokens, int64 `[B, L]`."""
        table = {letter: token for token, letter in enumerate(self.alphabet)}
        return torch.tensor([[table[letter] for letter in text] for text in texts]).reshape(len(texts), self.length)

    @cached_property
    def _measured(self) -> Tensor:
        """Numbers of the measured sequences, int64 `[n]`, in the order of `scores`."""
        return self.outcome(self.encode(list(self.scores)))

    @cached_property
    def p(self) -> Tensor:
        """float64 `[K^L]`, 0 where nothing was measured."""
        mass = torch.zeros(self.vocab**self.length, dtype=torch.float64)
        given = self.scores if self.weights is None else self.weights
        mass[self._measured] = torch.tensor(
            [1.0 if self.weights is None else given.get(text, 0.0) for text in self.scores], dtype=torch.float64
        )
        return mass / mass.sum()

    @cached_property
    def rewards(self) -> Tensor:
        """float64 `[K^L]`."""
        score = torch.tensor(list(self.scores.values()), dtype=torch.float64)
        table = torch.full((self.vocab**self.length,), float(score.min()), dtype=torch.float64)
        table[self._measured] = score
        return table
