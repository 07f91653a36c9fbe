"""First-hitting sampling of masked processes: one site a step, no discretisation error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..processes.base import Process
from ..processes.masked import Masked
from ..transitions import OneSiteTransition
from .base import Sampler, check_truncation, need_tokens, truncate

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class FirstHitting(Sampler):
    """Unmask one uniformly chosen site a step (Zheng et al. 2024, "Masked diffusion models are secretly time-agnostic").

    The continuous-time reverse process unmasks sites one at a time in uniformly random order; only the times between are
    lost, which a time-invariant denoiser never sees. With an exact denoiser the samples follow the data law exactly.
    Takes as many steps as there are masks at the start (of several starts, in that with most), whatever grid was given.

    Args:
        temperature, top_p: as in `Ancestral`.

    Raises:
        ValueError: (when run) the process is not masked, or the denoiser depends on time.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_truncation(self.temperature, self.top_p)

    def times(self, diffusion: Diffusion) -> Tensor:
        if not isinstance(diffusion.process, Masked):
            raise ValueError(f"First-hitting sampling needs a masked process, not {type(diffusion.process).__name__}.")
        if not diffusion.denoiser.time_invariant:
            raise ValueError(
                "First-hitting sampling needs a denoiser that does not depend on time. If the network ignores t, say so: "
                "Denoiser(network, ..., time_invariant=True), or set network.time_invariant = True. Else use Ancestral."
            )
        open_sites = diffusion.shape[0]
        if diffusion.start is not None:
            open_sites = max(1, int((diffusion.start == diffusion.process.mask).sum(-1).max()))
        # The nominal time of k masks left is the one at which k are expected (of those that the schedule masks by t = 1).
        schedule = diffusion.process.schedule
        left = torch.linspace(1, 0, open_sites + 1, dtype=torch.float64)
        times = schedule.inverse(1 - left * (1 - schedule.alpha(left[0])))
        times[0], times[-1] = 1, 0
        return times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> OneSiteTransition:
        need_tokens(x, "First-hitting sampling")
        return OneSiteTransition(x, truncate(clean, self.temperature, self.top_p))
