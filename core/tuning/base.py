"""The tuning contract and the one training loop that all objectives share, on Lightning Fabric."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..cost import Cost, Meter
from ..diffusion import Diffusion, check_count
from ..tilt import Tilt
from .roles import Decay, Roles, cast_roles, follow
from .state import State


@dataclass(frozen=True)
class Loss:
    """What one micro-batch gives.

    Attributes:
        value: 0-d, minimised.
        facts: numbers to record, such as the mean reward and the divergence from the reference.
    """

    value: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """The state of a training run after an optimiser step.

    Attributes:
        step, total: optimiser steps done and to do; facts: means over the step's micro-batches, with "loss" and
            "gradient" (its norm); cost: spent so far by this process; model: theta, as it is now.
    """

    step: int
    total: int
    facts: Mapping[str, float]
    cost: Cost
    model: Diffusion


@dataclass(frozen=True)
class Tuning:
    """A tuning method: hyper-parameters only. A new one gives `loss`, and `collect` if it learns from plain samples.

    Args:
        steps: rounds of collecting and learning.
        batch: samples a micro-batch.
        accumulate: micro-batches a step, shared among processes. Their random numbers depend on the seed, the step and
            their own number only, so that one process with `accumulate=2` and two with 1 each compute the same.
        learning_rate: of AdamW (no weight decay), reached linearly over `warmup` steps.
        clip: largest gradient norm (inf: none).
        average: decay of the averaged weights that are returned, or 0 for the last weights themselves.
    """

    steps: int = 500
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: int = 0
    clip: float = 1.0
    average: float = 0.0

    updates: ClassVar[int] = 1  # optimiser steps a round of collected samples is used for

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate"):
            check_count(name, getattr(self, name))
        if not self.learning_rate > 0 or not self.clip > 0 or not 0 <= self.average < 1:
            raise ValueError(
                f"learning_rate={self.learning_rate}, clip={self.clip}, average={self.average}: expected the first two "
                "positive and the last in [0, 1)."
            )

    def check(self, tilt: Tilt) -> None:
        """Raise ValueError for a tilt that this method cannot serve, before anything is computed."""

    @property
    def averages(self) -> dict[str, Decay]:
        """Averages of theta that the objective asks for, by name, with their decay by step."""
        return {}

    def collect(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Any:
        """What a micro-batch learns from: samples, rewards, advantages. Runs without gradient. Default: nothing."""
        return None

    def loss(self, tilt: Tilt, roles: Roles, batch: Any, generator: torch.Generator, progress: float) -> Loss:
        """The objective on one micro-batch; `progress` is the part of the run that is done, in [0, 1]."""
        raise NotImplementedError

    def fit(
        self,
        tilt: Tilt,
        *,
        generator: torch.Generator | None = None,
        observe: Sequence[Callable[[Progress], Any]] = (),
        checkpoint: str | Path | None = None,
        fabric: Any = None,
    ) -> Diffusion:
        """The tuned model. See `tiltflow.core.tuning.fit`."""
        return fit(self, tilt, generator=generator, observe=observe, checkpoint=checkpoint, fabric=fabric)


def fit(
    method: Tuning,
    tilt: Tilt,
    *,
    generator: torch.Generator | None = None,
    observe: Sequence[Callable[[Progress], Any]] = (),
    checkpoint: str | Path | None = None,
    fabric: Any = None,
) -> Diffusion:
    """Train to the end and return the tuned model, frozen: again a `Diffusion`, to be sampled, steered or tuned.

    Args:
        generator: gives the run its seed.
        observe: called with a `Progress` after every step; a true answer stops the training.
        checkpoint: file to resume from if it is there, and to save to.
        fabric: a `lightning_fabric.Fabric` for other devices, precisions or several processes (default: where the model
            is, one process, 32 bits).

    Raises:
        ValueError: the method refuses the tilt, or there is nothing to train.
        FloatingPointError: the loss is not finite.
        StorageError: the checkpoint is corrupt or of another run.
        ModuleNotFoundError: lightning_fabric is missing; the message names the extra.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    state = _start(method, tilt, seed, checkpoint, fabric)
    for progress in _run(state, method, tilt):
        if any([observer(progress) for observer in observe]):
            break
    state.save()
    return state.result()


def train(
    method: Tuning, tilt: Tilt, *, seed: int = 0, checkpoint: str | Path | None = None, fabric: Any = None
) -> Iterator[Progress]:
    """The loop step by step, so that a caller can interleave code; arguments and errors as in `fit`.

    A run whose checkpoint is finished yields nothing.
    """
    state = _start(method, tilt, seed, checkpoint, fabric)
    yield from _run(state, method, tilt)


def _start(method: Tuning, tilt: Tilt, seed: int, checkpoint: str | Path | None, fabric: Any) -> State:
    method.check(tilt)
    roles = cast_roles(tilt.diffusion, method.averages | ({"kept": lambda step: 0.0} if method.average else {}))
    fabric = _fabric(tilt.diffusion) if fabric is None else fabric
    identity = {"kind": "tuning", "seed": seed, "method": repr(method)}
    state = State(roles, method.learning_rate, fabric, identity, None if checkpoint is None else Path(checkpoint))
    state.resume()
    return state


def _fabric(diffusion: Diffusion) -> Any:
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Tuning needs lightning-fabric: pip install 'tiltflow[tune]'.") from error
    return Fabric(accelerator=diffusion.device.type, devices=1)


def _run(state: State, method: Tuning, tilt: Tilt) -> Iterator[Progress]:
    """Rounds: every micro-batch is collected, then learnt from `updates` times."""
    meter, total = Meter(), method.steps * method.updates
    mine = range(state.fabric.global_rank, method.accumulate, state.fabric.world_size)
    if method.accumulate % state.fabric.world_size:
        raise ValueError(
            f"accumulate={method.accumulate} micro-batches cannot be shared among {state.fabric.world_size}."
        )
    while state.step < total:
        number = state.step // method.updates
        with meter, torch.no_grad():
            batches = {j: method.collect(tilt, state.roles, _generator(state.seed, number, j, 0)) for j in mine}
        for update in range(state.step % method.updates, method.updates):
            with meter:
                facts = _update(state, method, tilt, batches, number, update, total)
            yield Progress(state.step, total, facts, meter.cost, state.roles.theta)
            state.maybe_save()


def _update(
    state: State, method: Tuning, tilt: Tilt, batches: dict[int, Any], number: int, update: int, total: int
) -> dict[str, float]:
    """One optimiser step over all micro-batches of this process."""
    progress = state.step / max(1, total - 1)
    facts: list[dict[str, float]] = []
    for place, (j, batch) in enumerate(batches.items(), start=1):
        with state.unsynchronised(place < len(batches)):
            generator = _generator(state.seed, number, j, 1 + update)
            loss = method.loss(tilt, state.roles, batch, generator, progress)
            value = loss.value / len(batches)
            if not math.isfinite(float(value.detach())):
                raise FloatingPointError(
                    f"The loss is {float(value.detach())} at step {state.step}. Lower the learning rate or `clip`; the last "
                    "checkpoint is whole."
                )
            state.fabric.backward(value)
        facts.append({"loss": float(loss.value.detach()), **loss.facts})
    rate = method.learning_rate * min(1.0, (state.step + 1) / max(1, method.warmup))
    norm = state.apply(rate, method.clip)
    decays = method.averages | ({"kept": lambda step: method.average} if method.average else {})
    for name, decay in decays.items():
        follow(state.roles[name].denoiser, state.theta.denoiser, decay(state.step))
    return state.mean(facts) | {"gradient": norm}


def _generator(seed: int, number: int, micro: int, use: int) -> torch.Generator:
    """Random numbers of one use of one micro-batch: nothing else decides them, so nothing about them need be saved."""
    digest = hashlib.blake2b(f"{seed},{number},{micro},{use}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 2)
