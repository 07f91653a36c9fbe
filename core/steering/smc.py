"""Sequential Monte Carlo, also known as Feynman-Kac steering (Singhal et al. 2025); with a proposal, twisted SMC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Known
from ..diffusion import check_count
from ..particles import RESAMPLING, Particles, draw_index, ess, resample, soften
from ..tilt import Tilt
from ..values import log_mean_exp
from .base import Steering, forward, settle
from .doob import Doob


@dataclass(frozen=True)
class SMC(Steering):
    """N particles for each returned sample move with the base law, are weighed by potentials and resampled.

    The potential of step k multiplies the weight; at the end exp(r / alpha) / (product of the potentials met) closes the
    account, so that E[Z_hat W(f)] = Z E*[f] for every N, potential, value and schedule of resampling. The returned draw
    follows the weights; its log-weight is log Z_hat of its group.

    Args:
        particles: N, at least 1. N = 1 gives the base law, weighted.
        potential: "difference" exp((V_s - V_t) / alpha), "max" exp(max over the path of V / alpha), or
            "sum" exp(sum over the path of V / alpha).
        interval: look at the values every so many steps; the cost of a look is one value a particle.
        threshold: resample a group when its effective sample size is below this fraction of N; 1 resamples at every look,
            0 never.
        resampling: "systematic", "stratified", "multinomial" or "residual".
        tempering: potentials use V (1 - s)^tempering, rising to V at the data; 0 for none.
        proposal: move with a guided step instead of the base law's, log p / q of it going into the weights: twisted SMC
            (Wu et al. 2023). With `Doob` and the exact value every weight is Z.
    """

    particles: int = 16
    potential: Literal["difference", "max", "sum"] = "difference"
    interval: int = 1
    threshold: float = 0.5
    resampling: str = "systematic"
    tempering: float = 0.0
    proposal: Doob | None = None

    def __post_init__(self) -> None:
        check_count("particles", self.particles)
        check_count("interval", self.interval)
        if self.potential not in ("difference", "max", "sum"):
            raise ValueError(f"potential is {self.potential!r}; expected 'difference', 'max' or 'sum'.")
        if self.resampling not in RESAMPLING:
            raise ValueError(f"resampling is {self.resampling!r}; expected one of {sorted(RESAMPLING)}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; expected a fraction between 0 and 1.")
        if not self.tempering >= 0:
            raise ValueError(f"tempering is {self.tempering}; expected a number of at least 0.")

    @property
    def group(self) -> int:
        return self.particles

    def check(self, tilt: Tilt) -> None:
        """Particles that would never part again are refused, and what the proposal cannot serve."""
        self.need_noise(tilt)
        if self.proposal is not None:
            self.proposal.check(tilt)

    def step(
        self, tilt: Tilt, state: Particles, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Particles:
        """Resample if the weights have degenerated, move, weigh."""
        if self.proposal is not None:
            return self._twisted(self.proposal, tilt, state, t, s, generator)
        state = self._resample(state, generator)
        transition, clean = forward(tilt, state, t, s)
        x = transition.sample(generator=generator)
        moved, known = replace(state, x=x, clean=None), Known(state.x, clean)
        if s <= 0:
            return settle(tilt, moved)
        if (state.index + 1) % self.interval:
            return replace(moved, clean=tilt.diffusion.clean(x, s, tilt.cond, known=known))
        found = tilt.evaluate(x, s, generator=generator, known=known)
        return self._weigh(tilt, replace(moved, clean=found.clean), found.value, s)

    def _twisted(
        self, proposal: Doob, tilt: Tilt, state: Particles, t: float, s: float, generator: torch.Generator | None
    ) -> Particles:
        """Weigh and resample before the move: the value and the guidance at a point come from one evaluation of it."""
        guided = proposal.guide(tilt, state, t, generator)
        if state.index % self.interval == 0:
            guided = self._weigh(tilt, guided, guided.value, t)
        return proposal.move(tilt, self._resample(guided, generator), t, s, generator)

    def _resample(self, state: Particles, generator: torch.Generator | None) -> Particles:
        low = ess(state.grouped) < self.threshold * self.particles * (1 - 1e-9)
        return resample(state, RESAMPLING[self.resampling], low, generator) if bool(low.any()) else state

    def _weigh(self, tilt: Tilt, state: Particles, value: Tensor, s: float) -> Particles:
        """Multiply in the potential of this look; `state.running` remembers the maximum or sum along the path."""
        n = state.groups
        scaled = (1 - s) ** self.tempering / tilt.alpha
        floored = soften((value / tilt.alpha).reshape(n, -1), torch.zeros(n, 1).to(value)).flatten() * tilt.alpha
        running = floored
        if self.potential != "difference" and state.running is not None:
            running = torch.maximum(state.running, floored) if self.potential == "max" else state.running + floored
        increment = running * scaled - (state.log_potential if self.potential == "difference" else 0.0)
        return replace(
            state,
            value=floored,
            running=running,
            log_weights=state.log_weights + increment,
            log_potential=state.log_potential + increment,
        )

    def finish(self, tilt: Tilt, state: Particles, *, generator: torch.Generator | None = None) -> Particles:
        kept = draw_index(state.grouped, generator)
        rows = kept + self.group * torch.arange(state.groups, device=kept.device)
        total = log_mean_exp(state.grouped, -1) + state.log_z
        return replace(state.gather(rows), log_weights=total)
