"""What a training run carries from step to step, and what a checkpoint therefore holds."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser, Estimator
from ..diffusion import Diffusion
from ..storage import StorageError, load_tensors, save_tensors
from .roles import Roles, frozen, innermost

SAVE_EVERY = 50  # optimiser steps between checkpoints


class State:
    """Roles, optimiser and position of a run. Random numbers follow from the seed and the position (`base._generator`)."""

    def __init__(self, roles: Roles, learning_rate: float, fabric: Any, identity: dict[str, Any], path: Path | None):
        self.fabric, self.identity, self.path = fabric, identity, path
        self.seed: int = identity["seed"]
        self.step = 0
        for diffusion in (roles.theta, roles.ref, *roles.averages.values()):
            diffusion.denoiser.to(fabric.device)
        self.theta = roles.theta  # what is saved and averaged; it shares its weights with the role of the same name
        network = innermost(roles.theta.denoiser).network
        trained = [p for p in network.parameters() if p.requires_grad]  # type: ignore[attr-defined]
        optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
        self.network, self.optimiser = fabric.setup(network, optimiser)
        running = replace(roles.theta, denoiser=around(roles.theta.denoiser, self.network))
        self.roles = replace(roles, theta=running)

    def unsynchronised(self, enabled: bool) -> AbstractContextManager[Any]:
        """No exchange of gradients among processes until the last micro-batch of a step."""
        return self.fabric.no_backward_sync(self.network, enabled=enabled) if enabled else nullcontext()

    def apply(self, rate: float, clip: float) -> float:
        """Clip, step, and forget the gradients; returns the norm before clipping."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        norm = self.fabric.clip_gradients(self.network, self.optimiser, max_norm=clip, error_if_nonfinite=True)
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

    def result(self) -> Diffusion:
        """The averaged weights where there are some, else theta; frozen."""
        return frozen(self.roles.averages.get("kept", self.theta))

    def maybe_save(self) -> None:
        """Save at every `SAVE_EVERY`-th step."""
        if self.step % SAVE_EVERY == 0:
            self.save()

    def save(self) -> None:
        """Write everything a resumed run needs to go on as if it had not stopped."""
        if self.path is None or not self.fabric.is_global_zero:
            return
        tensors = {f"theta.{k}": v for k, v in self.theta.denoiser.state_dict().items()}
        for name, average in self.roles.averages.items():
            tensors |= {f"average.{name}.{k}": v for k, v in average.denoiser.state_dict().items()}
        for index, slot in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v).clone() for k, v in slot.items()}
        save_tensors(self.path, tensors, {**self.identity, "step": self.step})

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            StorageError: it is corrupt, or of a run with another seed or method.
        """
        if self.path is None or not self.path.exists():
            return
        tensors, metadata = load_tensors(self.path, "tuning")
        for name in ("seed", "method"):
            if metadata.get(name) != self.identity[name]:
                raise StorageError(
                    f"{self.path} belongs to a run with another {name}: {metadata.get(name)}, now {self.identity[name]}. Use "
                    "the same, or another file."
                )
        try:
            self.theta.denoiser.load_state_dict(under(tensors, "theta."))
            for name, average in self.roles.averages.items():
                average.denoiser.load_state_dict(under(tensors, f"average.{name}."))
            load_optimiser(self.optimiser, under(tensors, "optimiser."))
            self.step = int(metadata["step"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{self.path} does not fit this model: {error}. Use another file.") from error


def around(estimator: Estimator, network: nn.Module) -> Estimator:
    """The same estimator with another network inside, which synchronises gradients and sets the precision. Nothing is
    copied: weights stay shared."""
    shell = copy.copy(estimator)
    shell._modules = dict(estimator._modules)
    if isinstance(shell, Denoiser):
        shell.network = network
    else:
        shell.denoiser = around(estimator.denoiser, network)  # type: ignore[arg-type]
    return shell


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_optimiser(optimiser: Any, tensors: dict[str, Tensor]) -> None:
    """Restore the slots of an optimiser from tensors named "<index>.<slot>"."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
