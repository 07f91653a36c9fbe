"""Ancestral sampling: draw x_s from the process's own reverse step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..processes.base import Process
from ..transitions import Transition
from .base import Sampler, check_truncation, need_tokens, truncate


@dataclass(frozen=True)
class Ancestral(Sampler):
    """x_s ~ p(x_s | x_t) with p(x0 | x_t) in place of x0.

    Sites that are unmasked in the same step are drawn independently, so the law p_T approaches the model's own as the
    number of steps grows (total variation about c / T); `FirstHitting` has no such error.

    Args:
        temperature: sharpens (< 1) or flattens the token law; applied before normalisation.
        top_p: nucleus mass kept, renormalised; 1 keeps all.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_truncation(self.temperature, self.top_p)

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> Transition:
        if (self.temperature, self.top_p) != (1, 1):
            need_tokens(x, "A temperature or top_p")
            clean = truncate(clean, self.temperature, self.top_p)
        return process.transition(clean, x, t, s)
