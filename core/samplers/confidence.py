"""Confidence order for masked processes: unmask first where the model is surest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..processes.base import Process
from ..processes.masked import Masked
from ..transitions import CategoricalTransition, UnmaskingTransition
from .base import Sampler, check_truncation, need_tokens, truncate

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class Confidence(Sampler):
    """Each step unmasks the k sites of highest confidence (MaskGIT, Chang et al. 2022; Kim et al. 2025 for the margin).

    k follows the schedule: after the step the expected number of masks is left, none at t = 0. Trades diversity for
    likelihood: the law is not the model's. Tokens at the chosen sites are drawn, the choice of sites is deterministic.

    Args:
        confidence: "probability" of the best token, "margin" between the best two, or negative "entropy".
        temperature, top_p: as in `Ancestral`, applied after the sites are chosen.
    """

    confidence: Literal["probability", "margin", "entropy"] = "probability"
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_truncation(self.temperature, self.top_p)
        if self.confidence not in ("probability", "margin", "entropy"):
            raise ValueError(f"confidence is {self.confidence!r}; expected 'probability', 'margin' or 'entropy'.")

    def times(self, diffusion: Diffusion) -> Tensor:
        if not isinstance(diffusion.process, Masked):
            raise ValueError(f"Confidence order needs a masked process, not {type(diffusion.process).__name__}.")
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> CategoricalTransition:
        assert isinstance(process, Masked)
        need_tokens(x, "Confidence order")
        masked = x == process.mask
        count = masked.sum(-1, keepdim=True)
        left = torch.round(count * process.stay(t, s, x)).to(count.dtype)
        # At least one site a step, so that a fine grid does not end with many at once.
        chosen = count - torch.minimum(left, (count - 1).clamp(min=0))
        score = torch.where(masked, self._score(clean), -math.inf)
        rank = score.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        stay = torch.where(rank < chosen, 0.0, 1.0).double()
        return UnmaskingTransition(x, truncate(clean, self.temperature, self.top_p), stay)

    def _score(self, clean: Tensor) -> Tensor:
        probs = clean.exp()
        if self.confidence == "probability":
            return probs.amax(-1)
        if self.confidence == "margin":
            best = probs.topk(2, -1).values
            return best[..., 0] - best[..., 1]
        return (probs * clean.clamp(min=-1e4)).sum(-1)
