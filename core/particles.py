"""Weighted particles: the state of every steering method, log-weights, effective sample size and resampling.

Indices are applied in one place, `Particles.gather`, so that no cached tensor goes stale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from .cost import Cost
from .transitions import categorical, uniform
from .values import log_mean_exp


@dataclass(frozen=True)
class Particles:
    """n independent groups of N particles; row g * N + i is particle i of group g, R = n N rows in all.

    Attributes:
        x: `[R, *shape]`, the states at time t.
        clean: the clean estimate at x, `[R, ...]`, or None where no one needed it yet.
        running: float64 `[R]`, maximum or sum of the values along the particle's own path, where a method keeps it.
        guided: the clean estimate that the next step is proposed from, where a method changes it.
        value: float64 `[R]`, the last value seen (zero before the first).
        log_weights: float64 `[R]`, unnormalised, since the last resampling.
        log_potential: float64 `[R]`, log of the product of the potentials along the particle's own path.
        log_z: float64 `[n]`, log-normaliser gathered by resamplings so far.
        t: time; index: steps done; total: steps in all; stopped: the index at which steering was stopped, or None.
        cost: spent so far.
    """

    x: Tensor
    value: Tensor
    log_weights: Tensor
    log_potential: Tensor
    log_z: Tensor
    t: float
    total: int
    clean: Tensor | None = None
    guided: Tensor | None = None
    running: Tensor | None = None
    index: int = 0
    stopped: int | None = None
    cost: Cost = field(default_factory=Cost)

    @property
    def groups(self) -> int:
        """n, the number of independent groups."""
        return len(self.log_z)

    @property
    def grouped(self) -> Tensor:
        """log-weights as `[n, N]`."""
        return self.log_weights.reshape(self.groups, -1)

    def gather(self, index: Tensor) -> Particles:
        """The particles at `index` `[R']`, every per-particle tensor re-indexed."""
        rows = len(self.x)
        per_row = {"x", "clean", "guided", "running", "value", "log_weights", "log_potential"}
        taken = {f.name: getattr(self, f.name) for f in fields(self) if f.name in per_row}
        assert all(leaf is None or len(leaf) == rows for leaf in taken.values())
        picked: dict[str, Any] = {name: None if leaf is None else leaf[index] for name, leaf in taken.items()}
        return replace(self, **picked)


def ess(log_weights: Tensor) -> Tensor:
    """Effective sample size (sum w)^2 / sum w^2 of each group, `[..., N] -> [...]`; 0 where all weights are zero."""
    peak = log_weights.amax(-1, keepdim=True)
    w = (log_weights - torch.where(peak.isfinite(), peak, 0.0)).exp()
    return torch.where(peak.squeeze(-1).isfinite(), w.sum(-1) ** 2 / (w**2).sum(-1).clamp(min=1e-300), 0.0)


def usable(log_weights: Tensor) -> Tensor:
    """`[n, N]` log-weights, made equal in groups where every weight is zero, so that a draw is always possible."""
    dead = log_weights.amax(-1, keepdim=True) == -math.inf
    return torch.where(dead, 0.0, log_weights)


def draw_index(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index per group drawn in proportion to the weights, `[n, N] -> [n]`."""
    return categorical(usable(log_weights), uniform((len(log_weights),), log_weights, generator))


def soften(log_h: Tensor, previous: Tensor) -> Tensor:
    """Make intermediate log-potentials finite, `[n, N]`: a weight of zero before the end cannot be undone.

    Any positive potential keeps the final weights unbiased (the terminal step divides it out), so -inf becomes 3 nats below
    the best of the group (or the lowest finite one, if that is lower), or `previous` where the whole group is at -inf.
    The gap is small on purpose. An estimated value of -inf is often wrong, and a path 30 nats down would come back once in
    e^30 runs with a weight of e^30: unbiased, and in any run of finite length an underestimate of Z.
    """
    peak = log_h.amax(-1, keepdim=True)
    impossible = log_h == -math.inf
    lowest = torch.where(impossible, math.inf, log_h).amin(-1, keepdim=True)
    floor = torch.where(peak.isfinite(), torch.minimum(peak - 3.0, lowest), previous)
    return torch.where(impossible, floor, log_h)


# Resampling: log-weights [n, N] -> ancestor indices [n, N] within each group, E[copies of i] = N w_i. Weights are float64.

Resampling = Callable[[Tensor, "torch.Generator | None"], Tensor]


def _invert(log_weights: Tensor, points: Tensor) -> Tensor:
    """Ancestors at sorted or unsorted points `[n, N]` in [0, 1) of the cumulative weights."""
    cdf = (log_weights - log_weights.amax(-1, keepdim=True)).exp().cumsum(-1)
    # Rounding can turn the last point of a comb into 1, which would find a last weight of zero.
    return torch.searchsorted(cdf, points.clamp(max=1 - 2.0**-53) * cdf[:, -1:], right=True)


def systematic(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """One uniform shift of an even comb (Kitagawa 1996): lowest variance in practice. The default."""
    n, count = log_weights.shape
    comb = torch.arange(count, device=log_weights.device) + uniform((n, 1), log_weights, generator)
    return _invert(usable(log_weights), comb / count)


def stratified(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """One uniform in each of N equal strata."""
    n, count = log_weights.shape
    comb = torch.arange(count, device=log_weights.device) + uniform((n, count), log_weights, generator)
    return _invert(usable(log_weights), comb / count)


def multinomial(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent draws."""
    return _invert(usable(log_weights), uniform(tuple(log_weights.shape), log_weights, generator))


def residual(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """floor(N w_i) copies of each, the rest multinomial on the remainders (Liu and Chen 1998)."""
    log_weights = usable(log_weights)
    n, count = log_weights.shape
    expected = count * (log_weights - log_weights.logsumexp(-1, keepdim=True)).exp()
    copies = (expected + 1e-9).floor()  # a weight of exactly k / N must give k copies in spite of rounding
    rest = (expected - copies).clamp(min=0).log()
    drawn = _invert(usable(rest), uniform((n, count), log_weights, generator))
    # The first sum(copies) slots are the sure copies, in order; the others take the multinomial draws.
    slots = torch.arange(count, dtype=torch.float64, device=log_weights.device).expand(n, -1).contiguous()
    sure = torch.searchsorted(copies.cumsum(-1), slots, right=True).clamp_(max=count - 1)
    return torch.where(slots < copies.sum(-1, keepdim=True), sure, drawn)


RESAMPLING: dict[str, Resampling] = {
    "systematic": systematic,
    "stratified": stratified,
    "multinomial": multinomial,
    "residual": residual,
}


def resample(particles: Particles, scheme: Resampling, chosen: Tensor, generator: torch.Generator | None) -> Particles:
    """Resample the groups where `chosen` `[n]` is true; the others keep their weights.

    A resampled group's mean weight moves into log_z, so that no weight is ever lost.
    """
    weights = particles.grouped
    n, count = weights.shape
    within = scheme(weights, generator)
    within = torch.where(chosen.unsqueeze(-1), within, torch.arange(count, device=weights.device))
    index = (within + count * torch.arange(n, device=weights.device).unsqueeze(-1)).flatten()
    moved = torch.where(chosen, log_mean_exp(weights, -1), 0.0)
    fresh = torch.where(chosen.unsqueeze(-1), 0.0, weights).flatten()
    return replace(particles.gather(index), log_weights=fresh, log_z=particles.log_z + moved)
