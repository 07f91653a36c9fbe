"""Soft values V(x_t, t) = alpha log E[exp(r(x0) / alpha) | x_t]: what a partly denoised sample is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .denoiser import Known
from .samplers import FirstHitting, complete, denoise
from .states import is_discrete, match_rows
from .transitions import categorical, uniform

if TYPE_CHECKING:
    from .tilt import Tilt


@dataclass(frozen=True)
class Evaluation:
    """Values, and the clean estimate where one was made on the way, so that no point is denoised twice.

    Attributes:
        value: float64 `[B]`, in units of the reward.
        clean: the clean estimate at the same points, or None if the value needed none.
    """

    value: Tensor
    clean: Tensor | None = None


@runtime_checkable
class Value(Protocol):
    """A soft value. A plain callable (x, t) -> `[B]` is taken too: `Tilt` wraps it in `Given`."""

    def evaluate(
        self,
        tilt: Tilt,
        x: Tensor,
        t: float,
        *,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        siblings: int = 1,
    ) -> Evaluation:
        """The value at x `[B, *shape]`, time t.

        Args:
            known: earlier clean estimates of the same rows.
            siblings: consecutive rows that are candidates for one place; a random value may give them the same noise.
        """
        ...


def log_mean_exp(x: Tensor, dim: int) -> Tensor:
    """log of the mean of exp along `dim`."""
    return x.logsumexp(dim) - math.log(x.shape[dim])


@dataclass(frozen=True)
class Completions:
    """alpha log (1/n) sum_j exp(r(x0_j) / alpha), x0_j drawn from a clean estimate, all sites at once. The default.

    exp(V / alpha) is then unbiased for E[exp(r / alpha)] under that factorised estimate, whatever n. Costs n reward calls a
    point. Discrete states only.

    Candidates that compete for one place (SVDD) are compared on equal terms: with `shared` they are completed with the same
    random numbers, so that their values differ by what they are and not by luck, and an unchanged candidate costs no
    reward call. With `estimate="parent"` they are completed from the estimate of the state they all came from, which
    is at hand: then no candidate costs a forward, only the one that is kept. Weights stay exact in any case, since any
    positive potential leaves them so; the law of the unweighted draws is each choice's own.

    Args:
        n: completions a point; more lower the variance.
        shared: common random numbers among siblings.
        estimate: "parent", or "own" (the estimate at the candidate itself, one forward row each). Points without siblings,
            and processes without a mask, always have their own.
    """

    n: int = 1
    shared: bool = True
    estimate: Literal["parent", "own"] = "parent"

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"Completions(n={self.n!r}): expected an integer of at least 1.")
        if self.estimate not in ("parent", "own"):
            raise ValueError(f"Completions(estimate={self.estimate!r}): expected 'parent' or 'own'.")

    def evaluate(
        self,
        tilt: Tilt,
        x: Tensor,
        t: float,
        *,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        siblings: int = 1,
    ) -> Evaluation:
        _need_discrete(x, "Completions", "PosteriorMean")
        mask = getattr(tilt.diffusion.process, "mask", None)
        inherited = self.estimate == "parent" and siblings > 1
        copies = siblings if self.shared else 1
        u = uniform((self.n, len(x) // copies, *x.shape[1:]), x, generator)
        clean: Tensor | None = None
        if inherited and known is not None and mask is not None:
            completed = categorical(known.clean[::copies], u).repeat_interleave(copies, 1)
            completed = torch.where(x == mask, completed, x)
        else:
            clean = tilt.diffusion.clean(x, t, tilt.cond, known=known, distinct=True)
            completed = categorical(clean, u.repeat_interleave(copies, 1))
        rewards = tilt.reward(completed.transpose(0, 1).flatten(0, 1)).reshape(
            len(x), self.n
        )  # those of a row together
        return Evaluation(tilt.alpha * log_mean_exp(rewards / tilt.alpha, 1), clean)


@dataclass(frozen=True)
class PosteriorMean:
    """r at the clean estimate itself: one forward row and one reward call a point, no randomness, biased.

    Args:
        decode: discrete states: "argmax", the most probable token of each site, or "soft", the probabilities themselves
            (the reward must take relaxed input). Continuous states: ignored, the estimate is the mean.
    """

    decode: Literal["argmax", "soft"] = "argmax"

    def __post_init__(self) -> None:
        if self.decode not in ("argmax", "soft"):
            raise ValueError(f"decode is {self.decode!r}; expected 'argmax' or 'soft'.")

    def evaluate(
        self,
        tilt: Tilt,
        x: Tensor,
        t: float,
        *,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        siblings: int = 1,
    ) -> Evaluation:
        clean = tilt.diffusion.clean(x, t, tilt.cond, known=known, distinct=True)
        if not tilt.diffusion.is_tokens:
            decode = getattr(tilt.diffusion.process, "decode", None)  # joint states hold tokens and numbers
            guess = clean if decode is None else decode(clean, soft=self.decode == "soft")
            return Evaluation(tilt.reward(guess), clean)
        guess = clean.argmax(-1) if self.decode == "argmax" else clean.exp()
        return Evaluation(tilt.reward(guess), clean)


@dataclass(frozen=True)
class Rollout:
    """Monte Carlo: n unguided rollouts from x_t to the end. Consistent as n grows, and costly (all remaining steps).

    Args:
        n: rollouts a point.
        steps: use only this many of the remaining grid times, evenly spaced (None: all, which is the sampler's own law).
    """

    n: int = 4
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("steps", 1 if self.steps is None else self.steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Rollout({name}={value!r}): expected an integer of at least 1.")

    def evaluate(
        self,
        tilt: Tilt,
        x: Tensor,
        t: float,
        *,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        siblings: int = 1,
    ) -> Evaluation:
        diffusion = tilt.diffusion
        if self.steps is not None and isinstance(diffusion.sampler, FirstHitting):
            raise ValueError(
                "Rollout(steps=...) skips steps, and first-hitting sampling needs one for every mask. Use Rollout(n), or "
                "the ancestral sampler."
            )
        clean = diffusion.clean(x, t, tilt.cond, known=known, distinct=True)
        x0 = x.repeat_interleave(self.n, 0)
        started = clean.repeat_interleave(self.n, 0)
        cond = match_rows(tilt.cond, len(x0))
        x0 = complete(diffusion, x0, self._times(diffusion.times, t), generator=generator, cond=cond, clean=started)
        rewards = tilt.reward(x0).reshape(len(x), self.n)
        return Evaluation(tilt.alpha * log_mean_exp(rewards / tilt.alpha, 1), clean)

    def _times(self, grid: Tensor, t: float) -> Tensor:
        rest = torch.cat([torch.tensor([t], dtype=grid.dtype), grid[grid < t - 1e-12]])
        if self.steps is None or self.steps >= len(rest) - 1:
            return rest
        picked = torch.linspace(0, len(rest) - 1, self.steps + 1).round().long()
        return rest[picked]


@dataclass(frozen=True)
class Given:
    """A value that is simply given: `function(x, t) -> [B]` (a learned network, or the exact value of a small world)."""

    function: Callable[[Tensor, float], Tensor]

    def evaluate(
        self,
        tilt: Tilt,
        x: Tensor,
        t: float,
        *,
        generator: torch.Generator | None = None,
        known: Known | None = None,
        siblings: int = 1,
    ) -> Evaluation:
        value = torch.as_tensor(self.function(x, t), device=x.device).double()
        if value.shape != x.shape[:1]:
            raise ValueError(f"The value returned {tuple(value.shape)}; expected [{len(x)}], one number per sample.")
        if not bool((value < math.inf).all()):  # false for NaN too
            raise ValueError(f"The value returned NaN or +inf at t = {t:g}; expected numbers, or -inf for never.")
        return Evaluation(value)


def _need_discrete(x: Tensor, name: str, instead: str) -> None:
    if not is_discrete(x):
        raise ValueError(f"{name} draws tokens, and this state is continuous. Use {instead}() or Rollout().")


def fit_value(
    tilt: Tilt,
    network: torch.nn.Module,
    *,
    steps: int,
    batch: int = 64,
    target: Literal["soft", "mean"] = "soft",
    learning_rate: float = 1e-3,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, float], Any] | None = None,
) -> Given:
    """Learn V from unguided rollouts of the model: a regression on (x_t, t, r(x0)) of the same trajectory.

    "mean" regresses r itself (the SVDD-MC recipe, Li et al. 2024): the fit is E[r | x_t], the value at alpha = infinity.
    "soft" fits f = V / alpha by the Bregman loss exp(f - c) - exp(r / alpha - c) f, whose minimum is exactly
    log E[exp(r / alpha) | x_t]; c is the largest r / alpha seen, so nothing overflows.

    Args:
        network: (x `[B, *shape]`, t `[B]`) -> `[B]`, trained in place, in units of r (its output starts near the mean reward).
        steps: optimiser steps; each uses one new rollout of `batch` samples at one random time each.
        on_step: called with (step, loss).

    Returns:
        the value, ready for `Tilt(value=...)`.

    Raises:
        ValueError: an unknown target, or a mean that a reward of -inf makes meaningless.
    """
    if target not in ("soft", "mean"):
        raise ValueError(f"target is {target!r}; expected 'soft' or 'mean'.")
    optimiser = torch.optim.Adam(network.requires_grad_(True).parameters(), lr=learning_rate)
    peak = -math.inf
    for step in range(steps):
        x, t, reward = _rollout_pairs(tilt, batch, generator)
        peak = max(peak, float(reward.max()) / tilt.alpha)
        shift = peak if math.isfinite(peak) else 0.0  # no possible sample seen yet
        prediction = network(x, t).double()
        if target == "mean":
            if bool((reward == -math.inf).any()):
                raise ValueError("The mean reward is -inf: some samples are impossible. Use target='soft'.")
            loss = ((prediction - reward) ** 2).mean()
        else:
            score = prediction / tilt.alpha - shift
            # Past the peak the exponential is continued linearly: same minimum, finite gradient.
            growth = torch.where(score > 1, math.e * score, score.clamp(max=1).exp())
            loss = (growth - (reward / tilt.alpha - shift).exp() * score).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))
    return Given(_frozen(network))


@torch.no_grad()
def _rollout_pairs(tilt: Tilt, batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """x_t `[B, *shape]` at one uniformly chosen grid time per row, t `[B]`, and the final reward float64 `[B]`."""
    diffusion = tilt.diffusion
    times = diffusion.times
    x = diffusion.prior(batch, generator=generator)
    chosen = (uniform((batch,), x, generator) * len(times)).long()
    kept = x.clone()
    path = denoise(diffusion, x, times, generator=generator, cond=tilt.cond)
    for index, (_, x, _) in enumerate(path, start=1):
        kept[chosen == index] = x[chosen == index]
    return kept, times.to(x.device)[chosen].to(torch.get_default_dtype()), tilt.reward(x)


def _frozen(network: torch.nn.Module) -> Callable[[Tensor, float], Tensor]:
    """The value (x, t) -> `[B]`; its weights are fixed, and gradients flow to a relaxed or continuous x."""
    network.eval().requires_grad_(False)

    def value(x: Tensor, t: float) -> Tensor:
        out: Tensor = network(x, torch.full((len(x),), t, device=x.device))
        return out

    return value
