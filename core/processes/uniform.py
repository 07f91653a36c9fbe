"""Uniform-noise diffusion: a token is replaced by one drawn uniformly."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..schedules import Linear, Schedule
from ..states import is_discrete, one_hot, safe_log
from ..transitions import CategoricalTransition, uniform
from .chain import WIPED, SiteChain, between


@dataclass(frozen=True)
class _Flat:
    """left I + (1 - left) / K, in O(K) operations a site. `left`: float64 `[b, 1, 1]`."""

    left: Tensor
    states: int

    def row(self, x: Tensor) -> Tensor:
        return self.left * one_hot(x, self.states, torch.float64) + (1 - self.left) / self.states

    column = row  # the matrix is symmetric

    def push(self, weights: Tensor) -> Tensor:
        return self.left * weights + (1 - self.left) / self.states * weights.sum(-1, keepdim=True)

    def pull(self, masses: Tensor) -> Tensor:
        mean = masses.mean(-1, keepdim=True)
        wiped = self.left < WIPED
        return mean + torch.where(wiped, 0.0, (masses - mean) / torch.where(wiped, 1.0, self.left))


@dataclass(frozen=True)
class Uniform(SiteChain):
    """q(x_t^i = k | x0) = alpha(t) 1[k = x0^i] + (1 - alpha(t)) / K (Austin et al. 2021; UDLM, Schiff et al. 2024).

    Every token can change again at every step, unlike in a masked process. States are int64 `[B, L]` in 0..K - 1, or relaxed
    `[B, L, K]` on the simplex. The clean estimate is log p(x0^i | x_t), `[B, L, K]`.

    Args:
        vocab: number of tokens K.
        schedule: alpha(t).

    Raises:
        ValueError: fewer than two tokens.
    """

    vocab: int
    schedule: Schedule = field(default_factory=Linear)

    def __post_init__(self) -> None:
        if isinstance(self.vocab, bool) or not isinstance(self.vocab, int) or self.vocab < 2:
            raise ValueError(f"vocab is {self.vocab!r}; expected the number of tokens, an integer of at least 2.")

    @property
    def states(self) -> int:
        return self.vocab

    @property
    def stationary(self) -> Tensor:
        return torch.full((self.vocab,), 1 / self.vocab, dtype=torch.float64)

    def kernel(self, left: Tensor) -> _Flat:
        return _Flat(left.reshape(-1, 1, 1), self.vocab)

    def into(self, x: Tensor) -> Tensor:
        return (1 - one_hot(x, self.vocab, torch.float64)) / self.vocab

    out_of = into

    def prior(self, n: int, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """int64 `[n, L]`, uniform tokens; on the generator's device."""
        return torch.randint(
            self.vocab, (n, *shape), generator=generator, device=generator.device if generator else None
        )

    def corrupt(self, x0: Tensor, t: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Each site keeps what it has with probability alpha(t), else takes a uniform token. Relaxed `[B, L, K]` too."""
        alpha = self.alpha(t, x0).unsqueeze(-1)
        u = uniform((2, *x0.shape[:2]), x0, generator)
        kept, token = u[0] < alpha, (u[1] * self.vocab).long()
        if is_discrete(x0):
            return torch.where(kept, x0, token)
        return torch.where(kept.unsqueeze(-1), x0, one_hot(token, self.vocab, x0.dtype))

    def transition(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> CategoricalTransition:
        """p(x_s^i | x_t) = sum over x0^i of q(x_s^i | x_t^i, x0^i) p(x0^i | x_t); on a relaxed state, the mean over it too.

        Bayes' rule gives q(x_s = k | x_t, x0) in four cases (k = x0 or not, k = x_t or not); nothing is subtracted but from
        1, so the step is safe at alpha = 0 and 1.
        """
        now, later = (self.alpha(u, x).reshape(-1, 1, 1) for u in (t, s))
        kept = between(now, later)  # of a site at s, at t
        matched = 1 / (now + (1 - now) / self.vocab)  # over q(x_t | x0) where they are equal
        slip = (1 - kept) / self.vocab * matched
        # The same over q(x_t | x0) = (1 - now) / K where they differ, and times (1 - later) / K where k is not x0:
        moved, stayed = (1 - kept) / (1 - now), kept * (1 - later) / (1 - now)
        flat = (1 - later) / self.vocab

        def at_state(guess: Tensor) -> Tensor:
            """P(x_s = x_t), given that x_t is a token of probability `guess` to be x0; less `row`."""
            return later * (slip + kept * matched) * guess + stayed * (1 - guess) + flat * kept * matched * guess

        guess = clean.double().exp()
        agree = (
            guess.gather(-1, x.unsqueeze(-1)) if is_discrete(x) else (guess * x).sum(-1, keepdim=True)
        )  # P(x0 = x_t)
        row = flat * (moved * (1 - agree) + slip * agree)
        probs = later * moved * guess + row
        if is_discrete(x):
            probs = probs.scatter(-1, x.unsqueeze(-1), at_state(agree) + row)
        else:
            probs = (1 - x) * probs + x * (at_state(guess) + row)
        return CategoricalTransition(safe_log(probs.clamp(min=0)).to(clean.dtype))
