"""Masked (absorbing-state) diffusion: every token turns into the mask by t = 1 and never changes otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..parameterisations import Subs
from ..schedules import Linear, Schedule
from ..states import is_discrete, log_normalise, one_hot, per_sample, safe_log, to_sites
from ..transitions import CategoricalTransition, UnmaskingTransition, uniform
from .base import Noised
from .times import stratified_uniforms


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
        if not isinstance(t, Tensor) and not isinstance(s, Tensor):
            return _stay(self.schedule, float(t), float(s), x.device)  # type: ignore[arg-type]
        before, after = (self.schedule.alpha(torch.as_tensor(u, dtype=torch.float64, device=x.device)) for u in (t, s))
        return ((1 - after) / (1 - before)).reshape(-1, 1)

    def transition(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> CategoricalTransition:
        """Tokens keep; a masked site stays masked with probability (1 - alpha_s) / (1 - alpha_t), else takes a token.

        On a relaxed state every site is both, in the proportions of its mask mass.
        """
        stay = self.stay(t, s, x)
        if is_discrete(x):
            return UnmaskingTransition(x, clean, stay)
        leave, remain = ((u.to(x.dtype).unsqueeze(-1)) for u in (1 - stay, stay))
        tokens, mask = x[..., :-1], x[..., -1:]
        probs = torch.cat([tokens + leave * (clean.exp() - tokens).clamp(min=0), remain * mask], -1)
        return CategoricalTransition(safe_log(probs))

    def rates(self, clean: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """Rates of the reverse process out of x int64 `[B, L]`, float64 `[B, L, K + 1]`, per unit of t: a masked site takes
        token k at the rate -alpha' / (1 - alpha) p(x0^i = k | x_t), others keep theirs."""
        weight = self._weight(per_sample(t, clean)).reshape(-1, 1, 1)
        free = torch.nn.functional.pad(weight * clean.double().exp(), (0, 1))
        return torch.where((x == self.mask).unsqueeze(-1), free, 0.0)

    def forward_rates(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Rates of the noising process out of x, float64 `[B, L, K + 1]`: a token turns into the mask at -alpha' / alpha."""
        time = torch.as_tensor(t, dtype=torch.float64, device=x.device).clamp(min=1e-12).reshape(-1, 1, 1)
        rate = -self.schedule.derivative(time) / self.schedule.alpha(time).clamp(min=1e-30)
        to_mask = one_hot(torch.tensor(self.mask, device=x.device), self.vocab + 1, torch.float64)
        return torch.where((x == self.mask).unsqueeze(-1), 0.0, rate * to_mask)

    def open_sites(self, x: Tensor) -> Tensor:
        """bool `[B, L]`: the sites of x int64 `[B, L]` that a reverse step can change."""
        return x == self.mask

    def guide(self, clean: Tensor, x: Tensor, t: float | Tensor, log_h: Tensor) -> Tensor:
        """The clean estimate `[B, L, K]` of the law reweighted by h (Doob), at x int64 `[B, L]`.

        p*(x0^i = k | x_t) = p(x0^i = k | x_t) h(x_t with site i set to k) / h(x_t), renormalised over k: the rate at which
        a site is unmasked does not change, as it does not under the exact h.

        Args:
            log_h: `[B, L, K]`, log h of x with site i set to k; any constant may be added to a site.
        """
        guided = log_normalise(clean.double() + log_h.double()).to(clean.dtype)  # r / alpha may be large
        return torch.where(self.open_sites(x).unsqueeze(-1), guided, clean)

    def elbo(self, clean: Tensor, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)) times the sum over masked sites of log p(x0^i | x_t), negated weight included.

        Its mean over t ~ U(0, 1) and x_t ~ q is the continuous-time ELBO (Shi et al. 2024, eq. 9; Sahoo et al. 2024).

        Args:
            clean: log p(x0 | x_t) `[B, L, K]`; x0, x: int64 `[B, L]`; t: `[B]` or a number.
        """
        log_likelihood = clean.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        weight = self._weight(per_sample(t, clean)).to(clean.dtype)
        return weight * torch.where(x == self.mask, log_likelihood, 0.0).sum(-1)

    def _weight(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)), float64: in float32, 1 - alpha is 0 near the data, and inf times no mask is NaN."""
        t = t.double().clamp(min=1e-12)  # some derivatives are infinite at 0
        return -self.schedule.derivative(t) / (1 - self.schedule.alpha(t)).clamp(min=1e-16)

    def noise(self, x0: Tensor, *, strata: int | None = None, generator: torch.Generator | None = None) -> Noised:
        """Mask exactly n of the L sites, n uniform on 1..L and low-discrepancy over the batch (Kingma et al. 2021).

        The bound is the mean over n of L / n times the sum over masked sites, whatever the schedule (Uria et al. 2014;
        Ou et al. 2024); fixing n removes the variance of a binomial number of masks. t is the time at which n are expected.
        """
        batch, length = x0.shape[:2]
        u = stratified_uniforms(batch, strata or batch, generator).to(x0.device)
        count = (u * length).floor() + 1
        order = uniform((batch, length), x0, generator).argsort(-1).argsort(-1)
        x = torch.where(order < count.unsqueeze(-1), self.mask, x0)
        t = self.schedule.inverse(1 - count / length).clamp(max=1 - 1e-7)  # at t = 1 some schedules stand still
        t = t.to(torch.get_default_dtype())
        # Over the weight that `elbo` takes at this very t (rounded, clamped), so that their product is L / n exactly.
        importance = length / count / self._weight(t)
        return Noised(x, t, importance.to(t.dtype))

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


@lru_cache(maxsize=4096)
def _stay(schedule: Schedule, t: float, s: float, device: torch.device) -> Tensor:
    """`Masked.stay` at two numbers: every run of a grid asks for the same ones, and scalar tensors are slow to make."""
    before, after = (schedule.alpha(torch.tensor([[u]], dtype=torch.float64, device=device)) for u in (t, s))
    return (1 - after) / (1 - before)
