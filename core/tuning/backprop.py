"""Reward backpropagation: maximise E[r] - alpha KL(path || pretrained path) by the gradient of the reward itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..diffusion import check_count
from ..samplers import Ancestral, complete
from ..tilt import Tilt
from .base import Loss, Tuning
from .credit import LeaveOneOut, group_size
from .gradients import GumbelSoftmax, Reinforce
from .roles import Roles
from .rollouts import backprop, scored


@dataclass(frozen=True)
class RewardBackprop(Tuning):
    """Maximise J = E[r] - alpha KL(path of theta || path of the pretrained sampler), whose maximum is Doob's transform.

    The divergence is the sum of the closed-form KL of every step, the step's size in it: alpha is the alpha of p*, whatever
    the number of steps, and alpha log Z - J = alpha KL(path, path*) is what is left to gain.

    Args:
        kl: count the divergence; without it the reward is over-optimised.
        last: steps at the end through which the state carries gradients (None: all). The divergence of the steps before
            still counts, and still teaches each of them by itself.
        random_last: draw that number anew for every micro-batch, uniformly from 1 to `last` (AlignProp).
        save_memory: recompute each step in the backward pass; memory then grows by the state alone with every step.
        estimator: for tokens, `GumbelSoftmax` (straight-through or soft, annealed); for any model `Reinforce`, which needs
            no gradient of the reward and is unbiased.
    """

    kl: bool = True
    last: int | None = None
    random_last: bool = False
    save_memory: bool = True
    estimator: GumbelSoftmax | Reinforce = field(default_factory=GumbelSoftmax)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last is not None:
            check_count("last", self.last)

    def check(self, tilt: Tilt) -> None:
        """A sampler that gives no transition, or a reward without the gradient that is needed, is refused."""
        name, sampler = type(self).__name__, tilt.diffusion.sampler
        if isinstance(self.estimator, Reinforce):
            need_steps(tilt, f"{name} with Reinforce", noise=True)
            group_size(self.batch, tilt.cond, None, "Reinforce")
            return
        if tilt.diffusion.is_tokens and sampler != Ancestral():
            raise ValueError(
                f"{name} backpropagates through plain ancestral steps, not through {sampler}. Use Ancestral(), or "
                "estimator=Reinforce(), which needs only draws and their log-probabilities."
            )
        need_steps(tilt, name)
        if self.kl and not sampler.stochastic:
            raise ValueError("The steps of an ODE have no divergence from each other: use kl=False or Ancestral().")
        tilt.require("differentiable", name)
        if tilt.diffusion.is_tokens:
            tilt.require("relaxed", name)

    def loss(self, tilt: Tilt, roles: Roles, batch: Any, generator: torch.Generator, progress: float) -> Loss:
        if isinstance(self.estimator, Reinforce):
            return self._score_function(tilt, roles, generator)
        last = len(roles.theta.times) - 1 if self.last is None else self.last
        if self.random_last:
            last = 1 + int(torch.randint(last, (), generator=generator))
        path = backprop(
            roles.theta,
            roles.ref if self.kl else None,
            self.batch,
            self.estimator,
            generator=generator,
            progress=progress,
            last=last,
            save_memory=self.save_memory,
            cond=tilt.cond,
        )
        reward = tilt.reward(path.x0)
        return Loss((tilt.alpha * path.kl - reward).mean(), facts(tilt, reward, path.kl))

    def _score_function(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Loss:
        ref = roles.ref if self.kl else None
        path = scored(roles.theta, ref, self.batch, generator=generator, save_memory=self.save_memory, cond=tilt.cond)
        reward = tilt.reward(path.x0)
        returns = (reward - tilt.alpha * path.kl).detach()
        advantage = LeaveOneOut()(returns, group_size(self.batch, tilt.cond, None, "Reinforce"))
        assert path.log_prob is not None
        value = tilt.alpha * path.kl - advantage * path.log_prob
        return Loss(value.mean(), facts(tilt, reward, path.kl))


def facts(tilt: Tilt, reward: Tensor, kl: Tensor) -> dict[str, float]:
    """What every run records: mean reward, path divergence in nats, and their balance J."""
    r, d = float(reward.detach().mean()), float(kl.detach().mean())
    return {"reward": r, "kl": d, "objective": r - tilt.alpha * d}


def need_steps(tilt: Tilt, name: str, *, noise: bool = False) -> None:
    """Raise ValueError unless the sampler gives transitions (`noise`: random ones)."""
    sampler = tilt.diffusion.sampler
    if not sampler.single_step or (noise and not sampler.stochastic):
        lack = "several estimates a step" if not sampler.single_step else "steps without noise, which have no density"
        raise ValueError(f"{name} follows the sampler step by step, and {sampler} has {lack}. Use Ancestral().")


@dataclass(frozen=True)
class DRAKES(RewardBackprop):
    """Reward backpropagation through discrete trajectories (Wang et al. 2025, "Fine-tuning discrete diffusion models via
    reward optimization"), for masked and uniform processes.

    Differs from the published code on purpose: the KL is that of the steps taken at masked sites with the size of the step
    (published: of sites that are unmasked already, where both models agree on hard states, and without it); hard tokens
    forward by default (published: soft states that inference never sees).
    `PublishedDRAKES` is the published objective.
    """

    def check(self, tilt: Tilt) -> None:
        if not tilt.diffusion.is_tokens:
            raise ValueError("DRAKES tunes models of tokens; for continuous states use AlignProp.")
        super().check(tilt)


@dataclass(frozen=True)
class AlignProp(RewardBackprop):
    """Reward backpropagation through continuous trajectories (Prabhudesai et al. 2023); with `last` = K it is DRaFT-K
    (Clark et al. 2024), which publishes no divergence: `kl=False`."""

    def check(self, tilt: Tilt) -> None:
        if tilt.diffusion.is_tokens:
            raise ValueError(f"{type(self).__name__} tunes models of continuous states; for tokens use DRAKES.")
        super().check(tilt)


@dataclass(frozen=True)
class REFL(AlignProp):
    """One late step (Xu et al. 2023): sample without gradient to a random late time, denoise once with it, and maximise
    the reward of the clean estimate, up to a ceiling.

    No trajectory carries gradients, so there is no path divergence: stop early, or watch a held-out reward.

    Args:
        late: part of the steps, counted from the end, that the time is drawn from.
        ceiling: rewards above it are not pushed further, relu(ceiling - r); None: no ceiling.
    """

    kl: Literal[False] = False
    late: float = 0.3
    ceiling: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl or not 0 < self.late <= 1 or isinstance(self.estimator, Reinforce):
            raise ValueError(
                f"REFL(kl={self.kl}, late={self.late}, estimator={self.estimator}): expected kl=False, 0 < late <= 1, and no "
                "Reinforce, since the reward's gradient is what it learns from."
            )

    def loss(self, tilt: Tilt, roles: Roles, batch: Any, generator: torch.Generator, progress: float) -> Loss:
        theta, times = roles.theta, roles.theta.times
        steps = len(times) - 1
        first = min(round(steps * (1 - self.late)), steps - 1)
        stop = first + int(torch.randint(steps - first, (), generator=generator))
        with torch.no_grad():
            x = theta.prior(self.batch, generator=generator)
            if stop:
                x = complete(theta, x, times[: stop + 1], generator=generator, cond=tilt.cond)
        reward = tilt.reward(theta.clean(x, float(times[stop]), tilt.cond))
        gain = reward if self.ceiling is None else -(self.ceiling - reward).clamp(min=0)
        return Loss(-gain.mean(), facts(tilt, reward, torch.zeros(())))
