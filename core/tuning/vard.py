"""VARD: a value of partly denoised samples gives every step a gradient of its own, whatever the reward."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..diffusion import check_count
from ..processes.product import Product
from ..samplers import Ancestral, denoise
from ..states import one_hot
from ..tilt import Tilt
from ..values import Given, PosteriorMean
from .backprop import facts, need_steps
from .base import Loss, Tuning
from .gradients import GumbelSoftmax
from .roles import Roles
from .rollouts import one_step


@dataclass(frozen=True)
class Visited:
    """States that theta passed, `[T + 1, B, *shape]` from t = 1 to 0, and the rewards of the last, float64 `[B]`."""

    x: Tensor
    reward: Tensor


@dataclass(frozen=True)
class VARD(Tuning):
    """Value-based reinforced diffusion (Dai et al. 2025): sample a path, and at every state of it move the next step up the
    tilt's value, by the value's own gradient through that single step.

        loss = sum over steps of alpha KL(theta's step || reference's step) - V(x_s, s),   x_s drawn from theta's step

    No gradient runs through more than one step, so memory does not grow with the path, and the reward itself may be a black
    box: only its value must have a gradient in x_s. `fit_value(tilt, network, target="soft")` learns the soft value
    V = alpha log E[exp(r / alpha) | x_s] under the pretrained model, with which each step's optimum is that of Doob's
    transform: p* is the fixed point as far as V is right, also where theta leads. Published is the mean E[r | x_s]
    (`target="mean"`) with a weight eta on the divergence (here alpha): its fixed point is not p*. `PosteriorMean` serves where
    the reward is differentiable.

    Args:
        kl: count the divergence.
        stride: learn from every `stride`-th step from a random first one, weighted by `stride`.
        estimator: how tokens carry the gradient.
        save_memory: recompute each step in the backward pass.
    """

    kl: bool = True
    stride: int = 1
    estimator: GumbelSoftmax = field(default_factory=GumbelSoftmax)
    save_memory: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("stride", self.stride)

    def check(self, tilt: Tilt) -> None:
        """A value without gradient, or a sampler whose steps cannot be taken one by one, is refused."""
        diffusion = tilt.diffusion
        need_steps(tilt, "VARD")
        if isinstance(diffusion.process, Product):
            raise ValueError("VARD takes models of tokens or of numbers, not joint states.")
        if diffusion.is_tokens and diffusion.sampler != Ancestral():
            raise ValueError(f"VARD takes gradients through plain ancestral steps, not through {diffusion.sampler}.")
        if self.kl and not diffusion.sampler.stochastic:
            raise ValueError("The steps of an ODE have no divergence from each other: use kl=False or Ancestral().")
        if self.stride > len(diffusion.times) - 1:
            raise ValueError(f"stride={self.stride} for {len(diffusion.times) - 1} steps: some rounds would have none.")
        self._need_gradient(tilt)

    def _need_gradient(self, tilt: Tilt) -> None:
        """Raise ValueError unless the tilt's value can be differentiated: tried on one state."""
        name, diffusion = type(tilt.value).__name__, tilt.diffusion
        fix = "Give Tilt(value=...) a differentiable one, such as fit_value(tilt, network, steps=...)."
        if not isinstance(tilt.value, (Given, PosteriorMean)):
            raise ValueError(f"VARD takes the gradient of the value, and {name} draws at random. {fix}")
        if isinstance(tilt.value, PosteriorMean):
            tilt.require("differentiable", "VARD with PosteriorMean")
            if diffusion.is_tokens and tilt.value.decode != "soft":
                raise ValueError(f"An argmax has no gradient: use PosteriorMean('soft'). Or: {fix}")
            return
        x = diffusion.prior(1, generator=torch.Generator().manual_seed(0))
        x = (one_hot(x, diffusion.symbols) if diffusion.is_tokens else x).requires_grad_()
        with torch.enable_grad():
            value = torch.as_tensor(tilt.value.function(x, float(diffusion.times[1])))
        if not value.requires_grad:
            states = "relaxed tokens [B, L, S]" if diffusion.is_tokens else "states"
            raise ValueError(f"The value {tilt.value.function} has no gradient in {states}. {fix}")

    def collect(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Visited:
        theta = roles.theta
        x = [theta.prior(self.batch, generator=generator)]
        x += [y for _, y, _ in denoise(theta, x[0], theta.times, generator=generator, cond=tilt.cond)]
        return Visited(torch.stack(x), tilt.reward(x[-1]))

    def loss(self, tilt: Tilt, roles: Roles, batch: Visited, generator: torch.Generator, progress: float) -> Loss:
        first = int(torch.randint(self.stride, (), generator=generator))
        steps = list(enumerate(pairwise(roles.theta.times.tolist())))[first :: self.stride]
        total = kl = torch.zeros(self.batch, dtype=torch.float64, device=batch.x.device)
        for k, (t, s) in steps:
            x_s, spent = one_step(
                roles.theta,
                roles.ref if self.kl else None,
                batch.x[k],
                t,
                s,
                self.estimator,
                generator=generator,
                progress=progress,
                save_memory=self.save_memory,
                cond=tilt.cond,
            )
            total, kl = total + tilt.alpha * spent - tilt.value.evaluate(tilt, x_s, s).value, kl + spent
        return Loss(self.stride * total.mean(), facts(tilt, batch.reward, self.stride * kl))
