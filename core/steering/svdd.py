"""SVDD: soft value-based decoding (Li et al. 2024, "Derivative-free guidance in continuous and discrete diffusion models")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..denoiser import Known
from ..diffusion import check_count
from ..particles import Particles, draw_index, soften
from ..tilt import Tilt
from ..values import log_mean_exp
from .base import Steering, forward

Selection = Callable[[Tensor, "torch.Generator | None"], Tensor]


def softmax(log_h: Tensor, generator: torch.Generator | None) -> Tensor:
    """One candidate a row with probability proportional to exp(V / alpha): `[B, M] -> [B]`."""
    return draw_index(log_h, generator)


def argmax(log_h: Tensor, generator: torch.Generator | None) -> Tensor:
    """The best candidate a row. The published rule: no alpha, and a law that drifts past p* as M grows."""
    return log_h.argmax(-1)


SELECTIONS: dict[str, Selection] = {"softmax": softmax, "argmax": argmax}


@dataclass(frozen=True)
class SVDD(Steering):
    """At every step draw M candidates from p(x_s | x_t) and keep one by its soft value V(x_s, s).

    With softmax selection and the exact value the law tends to p* as M grows (total variation about 1 / M); with an
    approximate value there is a floor, and the returned weights correct it: the log-weight gathers
    log mean_m exp(V_m / alpha) - V_previous / alpha at each step (nested SMC, Naesseth et al. 2015), so that weighted
    averages are unbiased for Z E*[f] with any value. Not to be confused with best-of-N, which chooses among finished samples.

    Cost per step and sample: at most M forward rows, or one where the value needs none (`Completions` by default), and M
    calls of the value; the chosen candidate's clean estimate serves the next step.

    Args:
        candidates: M, at least 1. M = 1 gives the base law.
        selection: "softmax" (default), "argmax" (as published), or a callable (log_h `[B, M]`, generator) -> index `[B]`.
            Only softmax has weights; the others return zeros.
    """

    candidates: int = 16
    selection: str | Selection = "softmax"

    def __post_init__(self) -> None:
        check_count("candidates", self.candidates)
        if not callable(self.selection) and self.selection not in SELECTIONS:
            raise ValueError(f"selection is {self.selection!r}; expected one of {sorted(SELECTIONS)} or a callable.")

    def check(self, tilt: Tilt) -> None:
        """Candidates that are all the same are refused."""
        self.need_noise(tilt)

    def step(
        self, tilt: Tilt, state: Particles, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Particles:
        """One row of the box: propose M, value them, keep one, account for the weight."""
        transition, clean = forward(tilt, state, t, s)
        candidates = transition.sample(self.candidates, generator=generator).transpose(0, 1).flatten(0, 1)
        parents = Known(*(leaf.repeat_interleave(self.candidates, 0) for leaf in (state.x, clean)))
        found = tilt.evaluate(candidates, s, generator=generator, known=parents, siblings=self.candidates)
        exact = (found.value / tilt.alpha).reshape(-1, self.candidates)
        log_h = exact if s <= 0 else soften(exact, state.log_potential.unsqueeze(-1))
        pick = self._select(log_h, generator) + self.candidates * torch.arange(len(exact), device=exact.device)
        return replace(
            state,
            x=candidates[pick],
            clean=self._estimate(tilt, candidates[pick], s, found.clean, pick, Known(state.x, clean)),
            value=found.value[pick],
            log_weights=self._weigh(state, log_h),
            log_potential=log_h.flatten()[pick],
        )

    def _estimate(
        self, tilt: Tilt, x: Tensor, s: float, found: Tensor | None, pick: Tensor, known: Known
    ) -> Tensor | None:
        """The clean estimate at the candidates that were kept: the value's where it made one, else one forward row each."""
        if s <= 0:
            return None
        return tilt.diffusion.clean(x, s, tilt.cond, known=known, distinct=True) if found is None else found[pick]

    def _select(self, log_h: Tensor, generator: torch.Generator | None) -> Tensor:
        rule = self.selection if callable(self.selection) else SELECTIONS[self.selection]
        return rule(log_h, generator)

    def _weigh(self, state: Particles, log_h: Tensor) -> Tensor:
        return state.log_weights + log_mean_exp(log_h, -1) - state.log_potential

    def finish(self, tilt: Tilt, state: Particles, *, generator: torch.Generator | None = None) -> Particles:
        """Weights belong to softmax selection only, early stop or not."""
        if self.selection in ("softmax", softmax):
            return state
        return replace(state, log_weights=torch.zeros_like(state.log_weights))
