"""DRAKES as published, with the faults that `DRAKES` mends: for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..diffusion import Diffusion
from ..processes.masked import Masked
from ..samplers import complete
from ..states import one_hot
from ..tilt import Tilt
from ..transitions import CategoricalTransition, uniform
from .backprop import RewardBackprop
from .base import Loss
from .gradients import Reinforce
from .roles import Roles
from .rollouts import Step, reseed, take


@dataclass(frozen=True)
class PublishedDRAKES(RewardBackprop):
    """The objective of the published code of DRAKES (Wang et al. 2025), for masked processes. Use `DRAKES`.

    States are soft: a site is a mixture of tokens and mask, x' = c x + (1 - c) x_new with c = 1 - x[mask], x_new a
    Gumbel-softmax draw at one temperature over tokens and mask, and the gradient runs through c too (it can explode). At the
    end the most probable token of each site is taken, straight-through. Steps before the `last` are hard draws without
    gradient. The penalty, with weight alpha, is the sum over steps, sites and tokens k of

        c x[k] (p_theta[k] log(p_theta[k] / p_ref[k]) - p_theta[k] + p_ref[k]) / (1 - a_t)

    with the size of the step left out: its weight grows with the number of steps, and since x[k] is the mass of tokens that
    are there already, it is exactly zero on hard states. alpha is not the alpha of p*, and no law is aimed at.

    Args:
        temperature: of the Gumbel-softmax, all along.
    """

    last: int | None = 50
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or isinstance(self.estimator, Reinforce) or self.random_last:
            raise ValueError("Published DRAKES has one positive temperature, no Reinforce, and a fixed `last`.")

    def check(self, tilt: Tilt) -> None:
        if not isinstance(tilt.diffusion.process, Masked):
            raise ValueError(f"Published DRAKES takes masked processes, not {type(tilt.diffusion.process).__name__}.")
        super().check(tilt)

    def loss(self, tilt: Tilt, roles: Roles, batch: Any, generator: torch.Generator, progress: float) -> Loss:
        theta, ref = roles.theta, roles.ref if self.kl else None
        times = theta.times
        first = 0 if self.last is None else max(0, len(times) - 1 - self.last)
        x = theta.prior(self.batch, generator=generator)
        with torch.no_grad():
            if first:
                x = complete(theta, x, times[: first + 1], generator=generator, cond=tilt.cond)
        x = one_hot(x, theta.symbols, next(theta.denoiser.parameters()).dtype)
        penalty = torch.zeros(self.batch, dtype=torch.float64, device=x.device)
        for t, s in pairwise(times[first:].tolist()):
            x, spent = take(self._step(theta, ref, t, s, generator, tilt.cond), x, self.save_memory)
            penalty = penalty + spent
        soft = x[..., :-1]
        hard = one_hot(soft.argmax(-1), soft.shape[-1], soft.dtype)
        reward = tilt.reward(hard + (soft - soft.detach()))
        found = {"reward": float(reward.detach().mean()), "penalty": float(penalty.detach().mean())}
        return Loss((tilt.alpha * penalty - reward).mean(), found)

    def _step(
        self, theta: Diffusion, ref: Diffusion | None, t: float, s: float, generator: torch.Generator, cond: Any
    ) -> Step:
        """x_t `[B, L, K + 1]` -> (x_s, penalty float64 `[B]`)."""
        again = reseed(generator)
        process: Any = theta.process

        def run(x: Tensor) -> tuple[Tensor, Tensor]:
            log_p, (stay,) = estimate(theta, x, t, cond), process.stay(t, s, x)
            masses = torch.cat([(1 - stay) * log_p.exp(), stay.expand(*x.shape[:2], 1)], -1)
            drawn = CategoricalTransition(masses.clamp(min=1e-30).log().to(x.dtype))
            new = drawn.relax(uniform(tuple(x.shape), x, again()), self.temperature)
            copied = 1 - x[..., -1:]
            penalty = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            if ref is not None:
                level = 1 - float(process.schedule.alpha(torch.tensor(t, dtype=torch.float64)))
                other = estimate(ref, x, t, cond)
                gap = log_p.exp() * (log_p - other).nan_to_num() - log_p.exp() + other.exp()
                penalty = (copied * x[..., :-1] * gap).double().sum((1, 2)) / level
            return copied * x + (1 - copied) * new, penalty

        return run


def estimate(model: Diffusion, x: Tensor, t: float, cond: Any) -> Tensor:
    """log p(x0 | x_t) `[B, L, K]` by the published rule for soft states: a site that is mostly one token is that token, and
    a site that is mostly mask is predicted whole."""
    clean = model.clean(x, t, cond).exp()
    # Ours is the mixture x[k] + x[mask] p[k]; where the mask is the largest of K + 1 masses it can be divided by.
    masked = (x.argmax(-1) == x.shape[-1] - 1).unsqueeze(-1)
    predicted = (clean - x[..., :-1]) / torch.where(masked, x[..., -1:], 1.0)
    token = one_hot(x[..., :-1].argmax(-1), x.shape[-1] - 1, x.dtype)
    return torch.where(masked, predicted, token).clamp(min=1e-30).log()
