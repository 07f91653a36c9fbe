"""Remasking: ancestral steps of a masked process that can take decisions back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..processes.base import Process
from ..processes.masked import Masked
from ..states import one_hot, safe_log
from ..transitions import CategoricalTransition
from .base import Sampler, check_truncation, need_tokens, truncate

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class Remasking(Sampler):
    """ReMDM (Wang et al. 2025): a token returns to the mask with probability sigma, and masks are filled faster to make up.

    From t to s, with sigma_max = min(1, (1 - alpha_s) / alpha_t) and sigma = min(cap, rescale * sigma_max):

        a token stays with probability 1 - sigma, else becomes the mask;
        a mask becomes token k with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t) p(x0^i = k | x_t).

    Whatever sigma, a site at s has the law q(x_s^i | x0) if it had q(x_t^i | x0) at t, so the law tends to the model's as
    steps get smaller: at order 1 with a `rescale` in proportion to 1 / T, more slowly with a fixed one (measured: about
    T^-0.6), because the number of remaskings then grows with the steps. An early mistake can be mended: with many steps,
    better samples than `Ancestral` from a network with errors. The last step leaves no mask. Rows change more often, so
    fewer forwards are saved.

    Args:
        cap: eta_cap, the largest sigma ("ReMDM-cap").
        rescale: eta_rescale, as a part of sigma_max ("ReMDM-rescale"). 0 is `Ancestral`.
        until: remask only at steps that begin at t <= until ("ReMDM-switch"); 1 for all.
        temperature, top_p: as in `Ancestral`.

    Raises:
        ValueError: a setting outside [0, 1], or (when run) the process is not masked, or the state relaxed.
    """

    cap: float = 1.0
    rescale: float = 0.5
    until: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_truncation(self.temperature, self.top_p)
        for name in ("cap", "rescale", "until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number from 0 to 1.")

    def times(self, diffusion: Diffusion) -> Tensor:
        if not isinstance(diffusion.process, Masked):
            raise ValueError(f"Remasking needs a masked process, not {type(diffusion.process).__name__}.")
        if diffusion.start is not None:
            raise ValueError(
                "Remasking would mask the fixed sites again. Use Ancestral or FirstHitting with fixed sites."
            )
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> CategoricalTransition:
        assert isinstance(process, Masked)
        need_tokens(x, "Remasking")
        now, later = (_alpha(process, u, x) for u in (t, s))
        sigma = self._sigma(now, later, torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1, 1, 1))
        unmask = (later - (1 - sigma) * now) / (1 - now)
        predicted = truncate(clean, self.temperature, self.top_p).double().exp()
        masked = torch.cat([unmask * predicted, (1 - unmask).expand(*x.shape, 1)], -1)
        token = (1 - sigma) * one_hot(x, process.vocab + 1, torch.float64)
        token = torch.cat([token[..., :-1], sigma.expand(*x.shape, 1)], -1)
        probs = torch.where((x == process.mask).unsqueeze(-1), masked, token)
        return CategoricalTransition(safe_log(probs.clamp(min=0)).to(clean.dtype))

    def _sigma(self, now: Tensor, later: Tensor, t: Tensor) -> Tensor:
        """float64 `[1 or B, 1, 1]`."""
        most = ((1 - later) / now.clamp(min=1e-300)).clamp(max=1)
        return torch.where(t <= self.until, (self.rescale * most).clamp(max=self.cap), 0.0)


def _alpha(process: Masked, t: float | Tensor, x: Tensor) -> Tensor:
    return process.schedule.alpha(torch.as_tensor(t, dtype=torch.float64, device=x.device)).reshape(-1, 1, 1)
