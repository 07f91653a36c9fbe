"""Masked (absorbing-state) diffusion: every token turns into the mask by t = 1 and never changes otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..denoiser import Denoiser, Subs
from ..schedules import Linear, Schedule
from ..states import is_discrete, one_hot, per_sample, to_sites
from ..transitions import CategoricalTransition, UnmaskingTransition, uniform


@dataclass(frozen=True)
class Masked:
    """q(x_t^i = mask) = 1 - alpha(t), independently at each site (Austin et al. 2021; Sahoo et al. 2024; Shi et al. 2024).

    States are int64 `[B, L]` with the mask at index K = `vocab`, or relaxed `[B, L, K + 1]` on the simplex. The clean
    estimate is log p(x0^i | x_t), `[B, L, K]`.

    Args:
        vocab: number of tokens K, the mask not counted.
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
    def mask(self) -> int:
        """Index of the mask token, K."""
        return self.vocab

    def prior(self, n: int, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """int64 `[n, L]`, all masks; on the generator's device."""
        return torch.full((n, *shape), self.mask, device=generator.device if generator else None)

    def corrupt(self, x0: Tensor, t: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        alpha = to_sites(self.schedule.alpha(per_sample(t, x0).double()), x0[..., 0] if not is_discrete(x0) else x0)
        if is_discrete(x0):
            return torch.where(uniform(tuple(x0.shape), x0, generator) < alpha, x0, self.mask)
        kept = uniform(tuple(x0.shape[:2]), x0, generator) < alpha
        padded = x0 if x0.shape[-1] == self.vocab + 1 else torch.nn.functional.pad(x0, (0, 1))
        mask = one_hot(torch.tensor(self.mask, device=x0.device), self.vocab + 1, x0.dtype)
        return torch.where(kept.unsqueeze(-1), padded, mask)

    def stay(self, t: float | Tensor, s: float | Tensor, x: Tensor) -> Tensor:
        """float64 `[B, 1]`: probability that a site masked at t is still masked at s < t."""
        before, after = (self.schedule.alpha(torch.as_tensor(u, dtype=torch.float64, device=x.device)) for u in (t, s))
        return ((1 - after) / (1 - before)).reshape(-1, 1)

    def transition(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> CategoricalTransition:
        """Tokens keep; a masked site stays masked with probability (1 - alpha_s) / (1 - alpha_t), else takes a token.

        On a relaxed state every site is both, in the proportions of its mask mass.
        """
        stay = self.stay(t, s, x)
        if is_discrete(x):
            return UnmaskingTransition(x, clean, stay)
        stay = stay.to(x.dtype).unsqueeze(-1)
        tokens, mask = x[..., :-1], x[..., -1:]
        probs = torch.cat([tokens + (1 - stay) * (clean.exp() - tokens).clamp(min=0), stay * mask], -1)
        return CategoricalTransition(probs.log())

    def elbo(self, clean: Tensor, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)) times the sum over masked sites of log p(x0^i | x_t), negated weight included.

        Its mean over t ~ U(0, 1) and x_t ~ q is the continuous-time ELBO (Shi et al. 2024, eq. 9; Sahoo et al. 2024).

        Args:
            clean: log p(x0 | x_t) `[B, L, K]`; x0, x: int64 `[B, L]`; t: `[B]` or a number.
        """
        time = per_sample(t, clean)
        weight = -self.schedule.derivative(time) / (1 - self.schedule.alpha(time))
        log_likelihood = clean.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        return weight * torch.where(x == self.mask, log_likelihood, 0.0).sum(-1)

    def training_times(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """One uniform shift of the n points i / n: each is uniform, together they cover (0, 1) (Kingma et al. 2021)."""
        shift = torch.rand(1, dtype=torch.float64, generator=generator, device=generator.device if generator else None)
        times = (torch.arange(n, device=shift.device) + shift) / n
        return times.clamp(min=1e-6).to(torch.get_default_dtype())

    def parameterise(self, network: Callable[..., Tensor]) -> Denoiser:
        """Logits `[B, L, K]` (or `[B, L, K + 1]`, the mask ignored) to the SUBS clean estimate."""
        return Denoiser(network, Subs(self.vocab))

    def check(self, x: Tensor, *, clean: bool) -> None:
        """Raises ValueError unless x is int64 `[B, L]` in [0, K] (`clean`: [0, K - 1])."""
        if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.ndim != 2:
            came = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"A masked process got {came}; expected int64 tokens [B, L].")
        top = self.vocab - 1 if clean else self.vocab
        if x.numel() and (int(x.min()) < 0 or int(x.max()) > top):
            hint = " (the mask itself is not a clean token)" if clean else ""
            raise ValueError(f"Tokens run from {int(x.min())} to {int(x.max())}; expected 0 to {top}{hint}.")
