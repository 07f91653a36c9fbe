"""Steps of a jump process from its rates: tau-leaping and Euler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..processes.base import Process
from ..states import one_hot, safe_log
from ..transitions import CategoricalTransition
from .base import Sampler, check_truncation, need_tokens, truncate

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class _FromRates(Sampler):
    """What tau-leaping and Euler share: the rates R(k) of leaving x_t for k, frozen over the step t -> s.

    The last step, to s = 0, is the process's own: rates can grow like 1 / t there, and would leave masks at the end.
    `Ancestral` integrates the change of rates in time exactly and costs the same; use these to compare with published
    samplers, or for their corrector.

    Args:
        corrector: eta >= 0. The rates become (1 + eta) R + eta R_forward: a detailed-balance part that keeps p_t where it is
            and lets sites change that were decided wrongly (Campbell et al. 2022, 2024: predictor and corrector in one
            step). Masks come back to masked samples with it.
        temperature, top_p: as in `Ancestral`.

    Raises:
        ValueError: a negative corrector, or (when run) a process without rates, or a relaxed state.
    """

    corrector: float = 0.0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_truncation(self.temperature, self.top_p)
        if not 0 <= self.corrector < float("inf"):
            raise ValueError(f"corrector is {self.corrector}; expected a number of at least 0.")

    def times(self, diffusion: Diffusion) -> Tensor:
        if not hasattr(diffusion.process, "rates"):
            raise ValueError(
                f"{type(self).__name__} needs a process of tokens with rates, not {type(diffusion.process).__name__}."
            )
        if self.corrector and diffusion.start is not None:
            raise ValueError("A corrector would change the fixed sites. Use corrector=0, Ancestral or FirstHitting.")
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> CategoricalTransition:
        need_tokens(x, type(self).__name__)
        clean = truncate(clean, self.temperature, self.top_p)
        leap = self._leap(process, clean, x, t, s)
        last = torch.as_tensor(s, dtype=torch.float64, device=x.device) <= 0
        if not bool(last.any()):
            return leap
        end = process.transition(clean, x, t, s)
        log_probs = torch.where(last.reshape(-1, 1, 1), end.log_probs, leap.log_probs)  # type: ignore[attr-defined]
        return CategoricalTransition(log_probs)

    def _leap(
        self, process: Any, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> CategoricalTransition:
        rates = process.rates(clean, x, t)
        if self.corrector:
            rates = (1 + self.corrector) * rates + self.corrector * process.forward_rates(x, t)
        step = torch.as_tensor(t, dtype=torch.float64) - torch.as_tensor(s, dtype=torch.float64)
        expected = rates * step.to(x.device).reshape(-1, 1, 1)
        total = expected.sum(-1, keepdim=True)
        jump = self._jump(total)
        target = expected / torch.where(total > 0, total, 1.0)
        probs = jump * target + (1 - jump) * one_hot(x, rates.shape[-1], rates.dtype)
        return CategoricalTransition(safe_log(probs).to(clean.dtype))

    def _jump(self, expected: Tensor) -> Tensor:
        """Probability of a jump from the number of jumps expected."""
        raise NotImplementedError


@dataclass(frozen=True)
class TauLeaping(_FromRates):
    """A site jumps with probability 1 - exp(-dt sum_k R(k)), to k in proportion to R(k) (Gillespie 2001; Campbell et al. 2022).

    Sites jump independently and at most once a step. The law tends to the model's at order 1 in the step size.
    """

    def _jump(self, expected: Tensor) -> Tensor:
        return -torch.expm1(-expected)


@dataclass(frozen=True)
class EulerCtmc(_FromRates):
    """A site jumps to k with probability dt R(k), cut off where the sum passes 1 (Lou et al. 2024; Gat et al. 2024). Order 1."""

    def _jump(self, expected: Tensor) -> Tensor:
        return expected.clamp(max=1)
