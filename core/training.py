"""What every training run shares: modules and an optimiser as tensors by name, moving averages, and whose checkpoint it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .storage import StorageError


def pack(
    modules: Mapping[str, nn.Module], optimiser: Any, leave_out: Mapping[str, Collection[str]] | None = None
) -> dict[str, Tensor]:
    """All that modules and optimiser hold, named "<module>.<key>" and "optimiser.<index>.<slot>".

    Copies: weights that a network uses twice would share memory, which safetensors refuses. Sharded tensors are gathered,
    so every process must take part.

    Args:
        leave_out: keys of a module that are not wanted, by the module's name.
    """
    states = {name: module.state_dict() for name, module in modules.items()}
    for name, keys in (leave_out or {}).items():
        states[name] = {key: tensor for key, tensor in states[name].items() if key not in keys}
    states |= {f"optimiser.{index}": slot for index, slot in optimiser.state_dict()["state"].items()}
    named = {f"{name}.{key}": torch.as_tensor(v) for name, state in states.items() for key, v in state.items()}
    return {name: whole(tensor).clone() for name, tensor in named.items()}


def unpack(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimiser: Any,
    path: Path,
    leave_out: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Put back what `pack` gave; what it left out stays as it is.

    Raises:
        StorageError: names or shapes are those of another model; `path` is for the message.
    """
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under(tensors, "optimiser.").items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = tensor
    try:
        for name, module in modules.items():
            _load(module, under(tensors, f"{name}."), (leave_out or {}).get(name, ()))
        trained = [p for group in optimiser.param_groups for p in group["params"]]
        slots = {index: {key: like(v, trained[index]) for key, v in slot.items()} for index, slot in slots.items()}
        optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    except (RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise StorageError(f"{path} does not fit this model: {error}. Use another file.") from error


def _load(module: nn.Module, tensors: Mapping[str, Tensor], left_out: Collection[str]) -> None:
    wrong = set(module.state_dict()) - set(left_out) ^ set(tensors)
    if wrong:
        raise KeyError(f"{', '.join(sorted(wrong)[:3])} missing or unknown")
    module.load_state_dict(dict(tensors), strict=False)


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
    """average <- decay average + (1 - decay) model, of what is trained; buffers are copied.

    The average's own precision decides: with a decay of .999 in bfloat16 nothing would ever move.
    """
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        if new.requires_grad:
            kept.lerp_(new.to(kept.dtype), 1 - decay)
    for buffer, current in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(current)


def warm(decay: float, step: int) -> float:
    """An average that starts faster: min(decay, (1 + step) / (10 + step)), so that it soon forgets where it began."""
    return min(decay, (1 + step) / (10 + step))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and bits: the same for the same bits."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(f"{name} {flat.dtype} {tuple(tensor.shape)}".encode())
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


# --- tensors that several processes hold in parts ------------------------------------------------------------------


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is sharded among processes, gathered on each of them; others as they are."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, sharded as `other` of the same shape is; all processes must take part."""
    if not hasattr(other, "full_tensor") or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
