"""Best-of-N and importance resampling: draw N from the model, keep one. No guidance on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..denoiser import Known
from ..diffusion import check_count
from ..particles import Particles, draw_index
from ..tilt import Tilt
from ..values import log_mean_exp
from .base import Steering, forward, settle


@dataclass(frozen=True)
class _FromN(Steering):
    """N unguided draws for each returned sample; the reward is asked once, at the end.

    Cost per returned sample: N T forward rows and N reward calls.

    Args:
        candidates: N, at least 1.
    """

    candidates: int = 16

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)

    @property
    def group(self) -> int:
        return self.candidates

    def step(
        self, tilt: Tilt, state: Particles, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Particles:
        transition, clean = forward(tilt, state, t, s)
        x = transition.sample(generator=generator)
        if s <= 0:
            return settle(tilt, replace(state, x=x, clean=None))
        known = Known(state.x, clean)
        return replace(state, x=x, clean=tilt.diffusion.clean(x, s, tilt.cond, known=known))


@dataclass(frozen=True)
class ImportanceResampling(_FromN):
    """Keep one of N draws with probability proportional to exp(r / alpha). Tends to p* as N grows.

    The sample's log-weight is log mean_N exp(r / alpha), an unbiased estimate of Z in exp.
    """

    def finish(self, tilt: Tilt, state: Particles, *, generator: torch.Generator | None = None) -> Particles:
        kept = draw_index(state.grouped, generator)
        rows = kept + self.group * torch.arange(state.groups, device=kept.device)
        total = log_mean_exp(state.grouped, -1) + state.log_z
        return replace(state.gather(rows), log_weights=total)


@dataclass(frozen=True)
class BestOfN(_FromN):
    """Keep the highest reward of N. Its law is an order statistic, not p*: it drifts past p* as N grows.

    alpha plays no part, and the log-weights are zero: the draws carry no weight toward p*.
    """

    def finish(self, tilt: Tilt, state: Particles, *, generator: torch.Generator | None = None) -> Particles:
        kept = state.value.reshape(state.groups, -1).argmax(-1)
        rows = kept + self.group * torch.arange(state.groups, device=kept.device)
        final = state.gather(rows)
        return replace(final, log_weights=torch.zeros_like(final.log_weights))
