"""One trainer on one world: how far its model is from the best there is, where its law lies, and what training took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.cost import Cost
from ..core.diffusion import Diffusion
from ..core.samplers import Sampler
from ..core.tilt import Tilt
from ..core.tuning import Loss, Progress, Roles, Tuning
from ..core.worlds import total_variation, trainable_tilt
from .measure import generator


@dataclass(frozen=True)
class Trained:
    """What a trainer reached on a world.

    Attributes:
        world, method, variant: names.
        before, gap: alpha log Z - J of the pretrained and of the tuned model, in units of the reward; 0 is Doob's transform.
        floor: the gap that the best model with this sampler has: 0, or what ascent along the exact gradient reaches.
        tv: total variation of the tuned model's own law from p*. reward: its mean, exactly.
        kl: nats between the paths of the tuned and of the pretrained model.
        steps, batch: optimiser steps, and samples in each. training_rows, training_calls: network rows and reward calls in all.
        seconds: of training.
    """

    world: str
    method: str
    variant: str
    before: float
    gap: float
    floor: float
    tv: float
    reward: float
    kl: float
    steps: int
    batch: int
    training_rows: int
    training_calls: int
    seconds: float

    @property
    def excess(self) -> float:
        """How far the gap is above the floor."""
        return self.gap - self.floor


@dataclass(frozen=True)
class ExactAscent(Tuning):
    """Ascent along the exact gradient of J, which the world computes: what every trainer is compared with.

    No sample is drawn, so that `batch` says nothing.

    Args:
        world: that computes `objective(model, tilt)`. options: of that function.
    """

    steps: int = 200
    learning_rate: float = 0.1
    final_rate: float = 0.0
    clip: float = 1e6
    world: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def loss(self, tilt: Tilt, roles: Roles, batch: Any, generator: torch.Generator, progress: float) -> Loss:
        found = self.world.objective(roles.theta, tilt, **self.options)
        return Loss(-found, {"objective": float(found.detach())})


def measure_trainer(
    method: Tuning,
    world: Any,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    tilt: Tilt | None = None,
    floor: float | None = None,
    seed: int = 0,
    names: tuple[str, str, str] | None = None,
) -> Trained:
    """Train on a world and say how far the result is from the best.

    Args:
        world: a `MaskedWorld`, `UniformWorld`, or `MixtureWorld` of one coordinate.
        steps, sampler: of the model, in place of the world's own.
        tilt: with a trainable model of another kind (None: `trainable_tilt` of the world).
        floor: the gap of the best model with this sampler (None: found by `ExactAscent`, in seconds).
        seed: of the training. names: world, method and variant, as shown.

    Raises:
        ValueError: the trainer refuses the tilt.
        ModuleNotFoundError: lightning_fabric is missing; the message names the extra.
    """
    tilt = trainable_tilt(world, steps=steps, sampler=sampler) if tilt is None else tilt
    method.check(tilt)
    names = names or (type(world).__name__, type(method).__name__, "")
    tuned, cost = _fit(method, tilt, generator(seed, *names))
    with torch.no_grad():
        reward, kl = _parts(world, tuned, tilt)
        law = world.pool(world.base_law(tuned))
    gap = world.gap(tuned, tilt)
    return Trained(
        *names,
        before=world.gap(tilt.diffusion, tilt),
        gap=gap,
        floor=(gap if isinstance(method, ExactAscent) else lowest_gap(world, tilt)) if floor is None else floor,
        tv=total_variation(law, world.pool(world.tilted)),
        reward=reward,
        kl=kl,
        steps=method.steps * method.updates,
        batch=0 if isinstance(method, ExactAscent) else method.batch * method.accumulate,
        training_rows=cost.forward_rows,
        training_calls=cost.reward_calls,
        seconds=cost.seconds,
    )


def lowest_gap(world: Any, tilt: Tilt, ascent: ExactAscent | None = None) -> float:
    """The gap that `ExactAscent` reaches."""
    ascent = replace(ascent or ExactAscent(), world=world)
    return float(world.gap(ascent.fit(tilt, generator=generator(0)), tilt))


def gradient(value: Tensor, model: Diffusion) -> Tensor:
    """The gradient of a number with respect to all weights of a model, flat."""
    parameters = list(model.denoiser.parameters())
    parts = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(parts, parameters, strict=True)]
    )


def _fit(method: Tuning, tilt: Tilt, dice: torch.Generator) -> tuple[Diffusion, Cost]:
    spent = [Cost()]

    def watch(progress: Progress) -> None:
        spent[0] = progress.cost

    return method.fit(tilt, generator=dice, observe=[watch]), spent[0]


def _parts(world: Any, model: Diffusion, tilt: Tilt) -> tuple[float, float]:
    """E[r] and KL of J = E[r] - alpha KL, which is linear in alpha."""
    once, twice = (float(world.objective(model, replace(tilt, alpha=k * tilt.alpha))) for k in (1, 2))
    return 2 * once - twice, (once - twice) / tilt.alpha
