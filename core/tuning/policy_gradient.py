"""Step policy gradients: each reverse step is an action, and good samples make their steps more likely (PPO clip)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..diffusion import Diffusion, check_count
from ..tilt import Tilt
from .backprop import facts
from .base import Loss, Tuning
from .checks import need_density, need_steps
from .credit import Credit, LeaveOneOut, Normalised, group_size
from .roles import Roles


@dataclass(frozen=True)
class Trajectories:
    """B sampled paths of T steps, and what they are worth. Nothing here carries gradients.

    Attributes:
        x: `[T + 1, B, *shape]`, states from t = 1 to 0; moves: numbers k of the steps that have noise.
        log_prob: float64 `[T, B]`, of the steps taken, under the model that took them.
        ref: clean estimates of the reference `[B, ...]` by number of the step, or None where they are not kept.
        advantage, unit: `[T, B]`, see `Credit`; reward, kl: `[B]`, kl being the sum over steps (0 where not counted).
    """

    x: Tensor
    moves: tuple[int, ...]
    log_prob: Tensor
    ref: dict[int, Tensor] | None
    advantage: Tensor
    unit: Tensor
    reward: Tensor
    kl: Tensor


@dataclass(frozen=True)
class GRPO(Tuning):
    """Clipped policy gradient with advantages relative to the samples of the same condition (Shao et al. 2024; on diffusion
    steps: Flow-GRPO, Liu et al. 2025; DanceGRPO, Xue et al. 2025; masked: SEPO, Zekri and Boulle 2025).

        loss = sum over steps of -min(rho A, clip(rho, 1 -+ clip_ratio) A) + weight KL(theta's step || reference's step),
        rho = exp(lp_theta - lp_old), lp the log-probability of the step taken, KL in closed form.

    With `beta=None` the objective is the tilt's own, J = E[r] - alpha KL(path): the divergence of *later* steps also lowers
    the return of a step, and its weight is alpha in whatever unit the advantage has. Unclipped, its mean gradient is that of
    J (with `LeaveOneOut`; scaled by 1 / std otherwise), so p* is its fixed point. A number is the published form: weight
    beta against the advantage, later divergences not counted. That is not the gradient of any J, and where it comes to rest
    depends on the spread of the rewards.

    Args:
        group: samples compared with each other (None: all of one condition).
        beta: weight of the divergence, see above; 0 for none.
        credit: advantages from returns.
        updates: optimiser steps that a round of trajectories is used for.
        clip_ratio: epsilon of the clip. For a log-probability summed over sites; on large states use 1e-4 to 1e-2, or
        per_site: take the mean over sites for rho, for which .1 to .3 is usual. The gradient at rho = 1 is the same.
        stride: learn from every `stride`-th step from a random first one, weighted by `stride`: the same mean gradient.
        save_memory: recompute each step in the backward pass.
    """

    group: int | None = None
    beta: float | None = None
    credit: Credit = field(default_factory=Normalised)
    updates: int = 1  # type: ignore[misc]
    clip_ratio: float = 0.2
    per_site: bool = False
    stride: int = 1
    save_memory: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("updates", "stride"):
            check_count(name, getattr(self, name))
        if not self.clip_ratio > 0 or (self.beta is not None and not self.beta >= 0):
            raise ValueError(
                f"clip_ratio={self.clip_ratio}, beta={self.beta}: expected positive, and at least 0 or None."
            )
        if self.beta is None:
            self.credit.unit(torch.zeros(2), 2)  # raises where advantages have no unit that alpha could be given in

    def check(self, tilt: Tilt) -> None:
        """A sampler whose steps have no density, or groups that do not fit, are refused."""
        name = type(self).__name__
        need_steps(tilt, name, noise=True)
        need_density(tilt, name)
        if self.stride > len(tilt.diffusion.times) - 2:
            raise ValueError(
                f"stride={self.stride} for {len(tilt.diffusion.times) - 1} steps: some rounds would have none."
            )
        group_size(self.batch, tilt.cond, self.group, name)

    @property
    def even(self) -> bool:
        return self.stride == 1  # else the first step is drawn

    def collect(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Trajectories:
        path = self._roll(tilt, roles, generator)
        reward = tilt.reward(path.x[-1])
        # What a step brings about: the reward, less the price of the steps after it. Its own price does not depend on it.
        returns = reward - tilt.alpha * (path.kl.sum(0) - path.kl.cumsum(0))
        size = group_size(self.batch, tilt.cond, self.group, type(self).__name__)
        advantage = self.credit(returns, size)
        unit = self.credit.unit(returns, size) if self.beta is None else torch.ones_like(advantage)
        return replace(path, reward=reward, advantage=advantage, unit=unit, kl=path.kl.sum(0))

    def _roll(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Trajectories:
        """Paths of theta with the divergence of every step, `[T, B]`, and nothing yet of what they are worth."""
        theta, x, moves, rows = roles.theta, [roles.theta.prior(self.batch, generator=generator)], [], []
        none = torch.zeros(self.batch, dtype=torch.float64, device=x[0].device)
        estimates = []
        for k, (t, s) in enumerate(pairwise(theta.times.tolist())):
            step = take(theta, x[k], t, s, tilt.cond)
            x.append(step.sample(generator=generator).to(x[k].dtype))
            if getattr(step, "deterministic", False):
                rows.append((none, none))
                continue
            moves.append(k)
            kl = none
            if self.beta is None:
                estimates.append(roles.ref.clean(x[k], t, tilt.cond))
                kl = step.kl(take(roles.ref, x[k], t, s, tilt.cond, estimates[-1]))
            rows.append((step.log_prob(x[k + 1]), kl))
        log_prob, kl = (torch.stack(column) for column in zip(*rows, strict=True))
        ref = dict(zip(moves, estimates, strict=True)) if estimates else None
        return Trajectories(torch.stack(x), tuple(moves), log_prob, ref, none, none, none, kl)

    def loss(self, tilt: Tilt, roles: Roles, batch: Trajectories, generator: torch.Generator, progress: float) -> Loss:
        first = int(torch.randint(self.stride, (), generator=generator))
        chosen = batch.moves[first :: self.stride]
        terms = [self._term(tilt, roles, batch, k) for k in chosen]
        value, kl, outside = (torch.stack(column) for column in zip(*terms, strict=True))
        kl_path = batch.kl if self.beta is None else kl.detach().sum(0) * self.stride
        found = facts(tilt, batch.reward, kl_path) | {"clipped": float(outside.double().mean())}
        return Loss(_attached(self.stride * value.sum(0).mean(), roles.theta), found)

    def _term(self, tilt: Tilt, roles: Roles, batch: Trajectories, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, divergence and whether the clip was active, `[B]` each, of step k."""
        t, s = roles.theta.times[k : k + 2].tolist()
        x, taken = batch.x[k], batch.x[k + 1]

        def scores(x: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
            step = take(roles.theta, x, t, s, tilt.cond)
            if self.beta == 0:
                return step.log_prob(taken), x.new_zeros(len(x), dtype=torch.float64)
            with torch.no_grad():
                other = roles.ref.clean(x, t, tilt.cond) if batch.ref is None else batch.ref[k]
            return step.log_prob(taken), step.kl(take(roles.ref, x, t, s, tilt.cond, other))

        log_prob, kl = (
            checkpoint(scores, x, taken, use_reentrant=False, preserve_rng_state=False)
            if self.save_memory
            else scores(x, taken)
        )
        # With one update theta is the model that took the steps: the ratio is 1 to the last bit on every device.
        old = batch.log_prob[k] if self.updates > 1 else log_prob.detach()
        surrogate, outside = clipped(log_prob - old, batch.advantage[k], self.clip_ratio, x[0].numel() * self.per_site)
        weight = tilt.alpha * batch.unit[k] if self.beta is None else self.beta
        return weight * kl - surrogate, kl, outside


@dataclass(frozen=True)
class DDPO(GRPO):
    """DDPO with importance sampling (Black et al. 2024): rewards alone, no divergence. It over-optimises: watch a held-out
    reward and stop early. Published: advantages normalised per prompt, clip 1e-4 on summed log-probabilities."""

    beta: float | None = 0.0
    clip_ratio: float = 1e-4


@dataclass(frozen=True)
class PolicyGradient(GRPO):
    """`GRPO` with leave-one-out advantages in units of the reward: an unbiased gradient of J = E[r] - alpha KL(path)."""

    credit: Credit = field(default_factory=LeaveOneOut)


def take(model: Diffusion, x: Tensor, t: float, s: float, cond: Any, clean: Tensor | None = None) -> Any:
    """The model's step as a distribution, float64: differences of log-probabilities summed over many sites stay exact."""
    clean = model.clean(x, t, cond) if clean is None else clean
    return model.transition(x, t, s, cond, clean=clean.double())


def clipped(gain: Tensor, advantage: Tensor, epsilon: float, sites: int = 0) -> tuple[Tensor, Tensor]:
    """min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A), rho = exp(gain), `[B]`, and where the clip is active, bool `[B]`.

    Args:
        gain: lp_theta - lp_old, `[B]`; sites: with L > 0, rho is exp(gain / L) and the result is multiplied by L.
    """
    scale = max(1, sites)
    ratio = (gain / scale).clamp(-20, 20).exp()  # beyond, the clip holds anyway, and inf would not be a number for long
    plain, cut = ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage
    return scale * torch.minimum(plain, cut), cut < plain


def _attached(value: Tensor, theta: Diffusion) -> Tensor:
    """A loss that reaches the network also where no chosen step had anything to decide."""
    return value if value.requires_grad else value + 0 * next(theta.denoiser.parameters()).sum()
