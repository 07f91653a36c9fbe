"""What every training run shares: modules and an optimiser as tensors by name, moving averages, and whose checkpoint it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .storage import StorageError


def pack(modules: Mapping[str, nn.Module], optimiser: Any) -> dict[str, Tensor]:
    """All that modules and optimiser hold, named "<module>.<key>" and "optimiser.<index>.<slot>".

    Copies: weights that a network uses twice would share memory, which safetensors refuses.
    """
    states = {name: module.state_dict() for name, module in modules.items()}
    states |= {f"optimiser.{index}": slot for index, slot in optimiser.state_dict()["state"].items()}
    return {f"{name}.{key}": torch.as_tensor(v).clone() for name, state in states.items() for key, v in state.items()}


def unpack(tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimiser: Any, path: Path) -> None:
    """Put back what `pack` gave.

    Raises:
        StorageError: names or shapes are those of another model; `path` is for the message.
    """
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under(tensors, "optimiser.").items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = tensor
    try:
        for name, module in modules.items():
            module.load_state_dict(under(tensors, f"{name}."))
        optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} does not fit this model: {error}. Use another file.") from error


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_owner(path: Path, metadata: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise StorageError where a checkpoint's metadata differ from the `identity` of the run that wants to go on from it."""
    differing = [name for name in identity if metadata.get(name) != identity[name]]
    if differing:
        raise StorageError(
            f"{path} belongs to a run with other {' and '.join(differing)}: {metadata.get(differing[0])}, now "
            f"{identity[differing[0]]}. Use the same, or another file or folder."
        )


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model; buffers are copied."""
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new.to(kept.dtype), 1 - decay)
    for buffer, current in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(current)


def warm(decay: float, step: int) -> float:
    """An average that starts faster: min(decay, (1 + step) / (10 + step)), so that it soon forgets where it began."""
    return min(decay, (1 + step) / (10 + step))
