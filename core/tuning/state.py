"""What a training run carries from step to step, and what a checkpoint therefore holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..cost import Cost, Meter
from ..diffusion import Diffusion
from ..storage import StorageError, load_tensors, save_tensors
from ..training import check_owner, pack, unpack
from .roles import Roles, around, frozen, innermost

KEPT = "kept"  # the average whose weights are returned, where there is one


class State:
    """Roles, optimiser and position of a run. Random numbers follow from the seed and the position (`base._generator`).

    Attributes:
        step: optimiser steps done; stopped: an observer has ended the run.
        curve: the facts of every step so far; meter: what they cost this process.
    """

    def __init__(self, roles: Roles, learning_rate: float, fabric: Any, identity: dict[str, Any], path: Path | None):
        self.fabric, self.path = fabric, path
        self.identity = {**identity, "model": digest(roles.ref.denoiser)}
        self.seed: int = identity["seed"]
        self.step, self.stopped = 0, False
        self.curve: list[dict[str, float | None]] = []
        self.meter = Meter()
        for diffusion in (roles.theta, roles.ref, *roles.averages.values()):
            diffusion.denoiser.to(fabric.device)
        self.theta = roles.theta  # what is saved and averaged; it shares its weights with the role of the same name
        network = innermost(roles.theta.denoiser).network
        trained = [p for p in network.parameters() if p.requires_grad]  # type: ignore[attr-defined]
        optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
        self.network, self.optimiser = fabric.setup(network, optimiser)
        running = replace(roles.theta, denoiser=around(roles.theta.denoiser, self.network))
        self.roles = replace(roles, theta=running)

    @property
    def model(self) -> Diffusion:
        """What would be returned now, its weights still shared with the run."""
        return self.roles.averages.get(KEPT, self.theta)

    def unsynchronised(self, enabled: bool) -> AbstractContextManager[Any]:
        """No exchange of gradients among processes until the last micro-batch of a step."""
        return self.fabric.no_backward_sync(self.network, enabled=enabled) if enabled else nullcontext()

    def apply(self, rate: float, clip: float) -> float:
        """Clip, step, and forget the gradients; returns the norm before clipping.

        Raises:
            FloatingPointError: the norm is not finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        norm = self.fabric.clip_gradients(self.network, self.optimiser, max_norm=clip, error_if_nonfinite=False)
        check_finite("norm of the gradient", float(norm), self.step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        return float(norm)

    def mean(self, facts: list[dict[str, float]]) -> dict[str, float]:
        """Means over micro-batches and processes."""
        names = list(facts[0])
        table = torch.tensor([[row[name] for name in names] for row in facts], dtype=torch.float64).mean(0)
        if self.fabric.world_size > 1:
            table = self.fabric.all_reduce(table, reduce_op="mean")
        return dict(zip(names, table.tolist(), strict=True))

    def record(self, facts: Mapping[str, float]) -> None:
        """Add a row to the curve; what is not finite, which JSON cannot hold, becomes None."""
        row = {name: value if math.isfinite(value) else None for name, value in facts.items()}
        self.curve.append({"step": self.step, **row})

    def agree(self, stop: bool) -> bool:
        """Whether any process wants to stop; all must, or the others would wait for it for ever."""
        if self.fabric.world_size > 1:
            stop = bool(self.fabric.all_reduce(torch.tensor(float(stop)), reduce_op="sum") > 0)
        return stop

    def result(self) -> Diffusion:
        """The averaged weights where there are some, else theta; frozen."""
        return frozen(self.model)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        averages = {f"average.{name}": model.denoiser for name, model in self.roles.averages.items()}
        return {"theta": self.theta.denoiser, **averages}

    def save(self) -> None:
        """Write everything a resumed run needs to go on as if it had not stopped."""
        if self.path is None or not self.fabric.is_global_zero:
            return
        position = {"step": self.step, "stopped": self.stopped, "curve": self.curve, "cost": asdict(self.meter.cost)}
        save_tensors(self.path, pack(self._modules, self.optimiser), {**self.identity, **position})

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            StorageError: it is corrupt, or of a run with another seed, method, alpha or pretrained model.
        """
        if self.path is None or not self.path.exists():
            return
        tensors, metadata = load_tensors(self.path, "tuning")
        check_owner(self.path, metadata, self.identity)
        unpack(tensors, self._modules, self.optimiser, self.path)
        try:
            self.step, self.stopped = int(metadata["step"]), bool(metadata["stopped"])
            self.curve, self.meter.cost = list(metadata["curve"]), Cost(**metadata["cost"])
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{self.path} lacks its position: {error}. Use another file.") from error


def check_finite(what: str, value: float, step: int) -> None:
    """Raise FloatingPointError unless `value` is finite."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The {what} is {value} at step {step}. Lower the learning rate or `clip`; a reward of -inf (or NaN under "
            "failures='exclude') cannot be learnt from either. The last checkpoint is whole."
        )


def digest(module: nn.Module) -> str:
    """A fingerprint of all weights and buffers: the same for the same bits."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(f"{name} {flat.dtype} {tuple(tensor.shape)}".encode())
        total.update(flat.view(torch.uint8).numpy())
    return total.hexdigest()
