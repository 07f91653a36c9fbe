"""DPM-Solver++(2M): order 2 with one estimate a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..processes.base import Process
from ..transitions import GaussianTransition
from .base import Sampler, need_gaussian, only_samples

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++(2M), multistep in the clean estimate (Lu et al. 2022, "DPM-Solver++", Algorithm 2).

    Each step is DDIM's with the clean estimate extrapolated, linearly in lambda, to the middle of the step; the first step,
    and the last one to t = 0 (an infinite distance in lambda), take it as it is. Best on a grid even in log-SNR.
    """

    @property
    def single_step(self) -> bool:
        return False

    @property
    def stochastic(self) -> bool:
        return False

    def times(self, diffusion: Diffusion) -> Tensor:
        need_gaussian(diffusion.process, "DPMSolver")
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> GaussianTransition:
        raise only_samples("DPMSolver uses the estimate of the step before")

    def run(
        self,
        diffusion: Diffusion,
        x: Tensor,
        times: Tensor,
        *,
        generator: torch.Generator | None = None,
        cond: Any = None,
        clean: Tensor | None = None,
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        process = need_gaussian(diffusion.process, "DPMSolver")
        log_snr = process.path.log_snr(times.double().cpu()).tolist()
        before: Tensor | None = None
        for k, (t, s) in enumerate(pairwise(times.tolist())):
            now = diffusion.clean(x, t, cond) if clean is None else clean
            middle = now
            if before is not None and s > 0:
                # A path without signal at t = 1 has log_snr[0] = -inf: the second step is then of first order too.
                ahead = (log_snr[k + 1] - log_snr[k]) / (log_snr[k] - log_snr[k - 1]) / 2
                middle = now + ahead * (now - before)
            x = process.bridge(middle, x, t, s, 1.0).mean
            yield s, x, now
            before, clean = now, None
