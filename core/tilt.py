"""The problem and its answer: a pretrained law p, a reward r and a temperature alpha define p* ~ p exp(r / alpha)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .cost import Cost, spend
from .denoiser import Known
from .diffusion import Diffusion
from .states import is_discrete, match_rows, rows_of, unique_rows
from .values import Completions, Evaluation, Given, PosteriorMean, Value


@runtime_checkable
class Reward(Protocol):
    """A number for each clean sample, higher is better.

    Any Python callable from samples `[B, *shape]` to `[B]` serves as a reward. The attributes below are read where present
    and otherwise take the value in brackets.

    Attributes:
        takes: "tokens" [default]: int64 `[B, L]` (continuous models: float `[B, *shape]`);
            "relaxed": the same, and also float `[B, L, K]` on the simplex, one-hot meaning a hard token.
        differentiable [False]: gradients flow to a relaxed (or continuous) input.
        alphabet [None]: tokens in index order, for instance "ACGT". A reward with an alphabet is refused by a domain
            with another one; None fits any model.
        conditional [False]: called as (x, cond), with the condition of each sample: the tilt's own, a row for each of B.
    """

    def __call__(self, x: Tensor) -> Any: ...


class RewardError(ValueError):
    """A reward returned something that is not one number (finite, or -inf) per sample."""


@dataclass(frozen=True)
class Tilt:
    """The law p*(x) ~ p_T(x) exp(r(x) / alpha), where p_T is the law of `diffusion`'s own sampler.

    Args:
        diffusion: the pretrained law.
        reward_function: callable `[B, *shape] -> [B]`; see `Reward`. Methods call `tilt.reward`, which checks and counts.
        alpha: temperature, > 0, in units of the reward. Small is greedy.
        value: soft value V(x_t, t) used by stepwise methods: a `Value` or a callable (x, t) -> `[B]`. Default: one sampled
            completion for tokens, the posterior mean for continuous states.
        cond: condition of the model, a tree of tensors with leading dimension 1 (shared) or n, or None.
        failures: what a NaN reward means: "raise", or "exclude" (weight zero, counted in the cost).

    Raises:
        ValueError: alpha is not a positive finite number, or an unknown failure policy.
        TypeError: `diffusion` is not a Diffusion, or the reward is not callable.
    """

    diffusion: Diffusion
    reward_function: Callable[[Tensor], Any]
    alpha: float
    value: Any = field(default=None)
    cond: Any = None
    failures: Literal["raise", "exclude"] = "raise"

    def __post_init__(self) -> None:
        if not isinstance(self.diffusion, Diffusion):
            raise TypeError(f"diffusion is a {type(self.diffusion).__name__}; expected a Diffusion.")
        if not callable(self.reward_function):
            raise TypeError(f"The reward is a {type(self.reward_function).__name__}; expected a callable on samples.")
        if isinstance(self.alpha, bool) or not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha is {self.alpha}; expected a positive number, in units of the reward.")
        if self.failures not in ("raise", "exclude"):
            raise ValueError(f"failures is {self.failures!r}; expected 'raise' or 'exclude'.")
        object.__setattr__(self, "value", self._as_value(self.value))

    def _as_value(self, value: Any) -> Value:
        if value is None:
            return Completions() if self.diffusion.is_tokens else PosteriorMean()
        if isinstance(value, type) and issubclass(value, Value):
            raise TypeError(f"value is the class {value.__name__}; expected an instance: {value.__name__}().")
        if isinstance(value, PosteriorMean) and value.decode == "soft":
            self.require("relaxed", "PosteriorMean('soft')")
        if isinstance(value, Value):
            return value
        if callable(value):
            return Given(value)
        raise TypeError(f"value is a {type(value).__name__}; expected a Value or a callable (x, t) -> [B].")

    def require(self, ability: Literal["relaxed", "differentiable"], by: str) -> None:
        """Refuse, before anything is computed, a reward that lacks what a method needs.

        Raises:
            ValueError: the reward does not take relaxed input, or is not differentiable.
        """
        reward = self.reward_function
        has = (
            getattr(reward, "takes", "tokens") == "relaxed"
            if ability == "relaxed"
            else getattr(reward, "differentiable", False)
        )
        if not has:
            name = getattr(reward, "__name__", type(reward).__name__)
            fix = "set `takes = 'relaxed'` on it" if ability == "relaxed" else "set `differentiable = True` on it"
            raise ValueError(
                f"{by} needs a reward that is {ability}, and {name} does not say it is. If it is, {fix}; else choose a "
                "method or value that needs only reward numbers."
            )

    def reward(self, x: Tensor) -> Tensor:
        """Rewards of clean samples, checked and counted; equal token rows are evaluated once.

        Args:
            x: int64 `[B, L]`, relaxed `[B, L, K]`, or continuous `[B, *shape]`. A conditional reward sees the condition of
                each row: B must be a multiple of the rows of `cond`, and equal conditions stand in one block.

        Returns:
            float64 `[B]`, finite or -inf.

        Raises:
            RewardError: wrong type, shape or dtype, +inf, or NaN under `failures="raise"`.
        """
        if not is_discrete(x) or (is_conditional(self.reward_function) and rows_of(self.cond) > 1):
            return self._evaluate(x)
        first, inverse = unique_rows(x)
        return self._evaluate(x[first])[inverse]

    def _evaluate(self, x: Tensor) -> Tensor:
        name = getattr(self.reward_function, "__name__", type(self.reward_function).__name__)
        values = _as_numbers(call_reward(self.reward_function, x, self.cond), len(x), name).to(x.device)
        failed = values.isnan()
        failures = int(failed.sum())
        spend(reward_calls=len(x), reward_failures=failures)
        if failures and self.failures == "raise":
            raise RewardError(
                f"Reward {name} returned NaN for {failures} of {len(x)} samples. Mend the reward, or pass "
                "failures='exclude' to give such samples weight zero and count them."
            )
        if bool((values == math.inf).any()):
            raise RewardError(
                f"Reward {name} returned +inf. Use a large finite number; -inf is allowed and means never."
            )
        return torch.where(failed, -math.inf, values) if failures else values

    def evaluate(
        self,
        x: Tensor,
        t: float,
        *,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        siblings: int = 1,
    ) -> Evaluation:
        """The value at (x, t): the reward itself at t = 0, the soft value before. See `Value.evaluate`."""
        if t <= 0:
            return Evaluation(self.reward(x))
        return self.value.evaluate(self, x, t, generator=generator, known=known, siblings=siblings)


def is_conditional(reward: Any) -> bool:
    """Whether the reward is called with the condition too."""
    return bool(getattr(reward, "conditional", False))


def call_reward(reward: Callable[..., Any], x: Tensor, cond: Any) -> Any:
    """What a reward returns for samples x `[B, *shape]` of a model with condition `cond` (see `match_rows`), or None.

    Raises:
        RewardError: a conditional reward and no condition.
    """
    if not is_conditional(reward):
        return reward(x)
    if cond is None:
        raise RewardError(
            f"Reward {type(reward).__name__} is conditional, and there is no condition. Give the tilt one: Tilt(..., cond=...)."
        )
    return reward(x, match_rows(cond, len(x)))


def _as_numbers(values: Any, count: int, name: str) -> Tensor:
    """float64 `[count]` from what a reward returned, or a RewardError that says what came."""
    try:
        numbers = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(
            f"Reward {name} returned {type(values).__name__} ({error}); expected {count} numbers, one per sample."
        ) from None
    if numbers.is_complex() or numbers.dtype == torch.bool:
        raise RewardError(f"Reward {name} returned {numbers.dtype}; expected real numbers.")
    if tuple(numbers.shape) == (count, 1):
        raise RewardError(f"Reward {name} returned shape ({count}, 1); expected ({count},). Add .squeeze(-1).")
    if tuple(numbers.shape) != (count,):
        raise RewardError(f"Reward {name} returned shape {tuple(numbers.shape)}; expected ({count},), one per sample.")
    return numbers.double()


@dataclass(frozen=True)
class Samples:
    """What a steering method returns. `samples[index]` are some of them, by a mask, indices or a slice.

    Attributes:
        x: `[n, *shape]` the samples.
        reward: float64 `[n]`.
        log_weight: float64 `[n]`; exp(log_weight) is an importance weight such that the mean of weight * f(x) is an unbiased
            estimate of Z E*[f] (methods with a law of their own, such as argmax picks, give zeros and say so).
        cost: what was spent.
        trace: per-step records of a `Trace` observer, 1-D float64 tensors by name, or None.
        stopped: the step after which an observer stopped the steering (the rest ran unguided), or None.
    """

    x: Tensor
    reward: Tensor
    log_weight: Tensor
    cost: Cost
    trace: dict[str, Tensor] | None = None
    stopped: int | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | Sequence[int] | Sequence[bool] | slice) -> Samples:
        """The samples that `index` chooses: a bool mask `[n]`, integers `[m]` (tensor, list, array), or a slice.

        cost, trace and stopped stay those of the whole run. `log_z` of a choice that looked at x, reward or log_weight
        estimates log Z no more.

        Raises:
            TypeError: a single number, or something else that does not choose samples; `samples[[3]]` is the fourth alone.
            IndexError: a mask of another length, or an index outside.
        """
        rows = index if isinstance(index, slice) else _as_rows(index)
        return replace(self, **{name: getattr(self, name)[rows] for name in ("x", "reward", "log_weight")})

    @property
    def best(self) -> Tensor:
        """Index of the highest reward: a choice, not a draw from p*."""
        return self.reward.argmax()

    @property
    def log_z(self) -> float:
        """log of the mean weight: an estimate of log Z, Z = E_p[exp(r / alpha)]."""
        return float(self.log_weight.logsumexp(0) - math.log(len(self.x)))


def _as_rows(index: Any) -> Tensor:
    """`index` as a bool or int64 tensor of one dimension, on the CPU, from which every device can be indexed."""
    try:
        rows = torch.as_tensor(index)
    except (TypeError, ValueError, RuntimeError):
        rows = torch.tensor(math.nan)
    rows = rows.long() if rows.numel() == 0 else rows  # an empty list has no type of its own
    if rows.dim() != 1 or rows.is_floating_point() or rows.is_complex():
        raise TypeError(
            f"samples[{index!r}]: expected a bool mask, a list of indices or a slice. For one sample write samples[[i]]."
        )
    return rows.cpu() if rows.dtype == torch.bool else rows.cpu().long()
