"""A new condition for a pretrained network: modulations of its layers that are zero at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.RMSNorm)
_CHANNELS_FIRST = (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Conditioned(nn.Module):
    """A network (x, t[, cond]) that also sees new conditions, and gives what it gave before until it is trained.

    Each condition is embedded; from the sum of embeddings come a scale and a shift for every channel of some inner layers,
    h (1 + scale) + shift, as in adaptive normalisation (Perez et al. 2018; Dhariwal & Nichol 2021). The maps to scale and
    shift start at zero, as in ControlNet (Zhang et al. 2023), so that the augmented model starts as the pretrained one. A
    condition that is not given, or whose label is -1, adds nothing: without any, the network is the original.

    Args:
        network: called as (x, t), or as (x, t, cond) with what is left of the condition: its own keys.
        conditions: name -> number of classes for labels int64 `[B]`, or "numbers:D" for float `[B, D]`.
        layers: names of the inner layers to modulate (None: all normalisations, or where there are none all convolutions
            and linear layers).
        width: of the embedding.
        own: name under which a condition of the network travels that is a bare tensor rather than a dict.
        train_network: train the original weights too, not only what is new. What the network gives without the new
            conditions is then no longer the pretrained law.

    Raises:
        ValueError: no such layer, or none that could be modulated; a malformed condition.
    """

    def __init__(
        self,
        network: nn.Module,
        conditions: Mapping[str, int | str],
        *,
        layers: Sequence[str] | None = None,
        width: int = 32,
        own: str | None = None,
        train_network: bool = True,
    ):
        super().__init__()
        self.network, self.own = network.requires_grad_(train_network), own
        self.time_invariant = bool(getattr(network, "time_invariant", False))
        first = next(network.parameters())
        place: dict[str, Any] = {"device": first.device, "dtype": first.dtype}
        with torch.random.fork_rng(devices=[]):  # embeddings draw from the global generator
            torch.manual_seed(0)
            self.embed = nn.ModuleDict({name: _embedding(name, kind, width) for name, kind in conditions.items()})
        self.embed.to(**place)
        chosen = _layers(network) if layers is None else {name: _channels(network, name) for name in layers}
        if not chosen:
            raise ValueError(f"{type(network).__name__} has no layer that could be modulated. Name some: layers=[...].")
        self.modulate = nn.ModuleDict()
        for name, channels in chosen.items():
            key = name.replace(".", "/") or "/"
            to_scale_and_shift = nn.Linear(width, 2 * channels, bias=False, **place)
            nn.init.zeros_(to_scale_and_shift.weight)
            self.modulate[key] = to_scale_and_shift
            network.get_submodule(name).register_forward_hook(partial(self._modulated, key))
        self._code: Tensor | None = None  # `[B, width]`, while a forward runs

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """What the network gives under the new conditions in the dict `cond`; its own are handed on."""
        new, rest = self._split(cond)
        with self._coded(self._embedded(new)):
            output: Tensor = self.network(x, t) if rest is None else self.network(x, t, rest)
        return output

    def _split(self, cond: Any) -> tuple[dict[str, Tensor], Any]:
        """The new conditions by name, and what belongs to the network (None: nothing)."""
        if cond is None:
            return {}, None
        if not isinstance(cond, Mapping):
            raise ValueError(
                f"The condition is a {type(cond).__name__}; expected a dict, with {', '.join(self.embed)} among its keys."
            )
        new = {name: leaf for name, leaf in cond.items() if name in self.embed}
        rest = {name: leaf for name, leaf in cond.items() if name not in self.embed}
        if self.own is not None:
            return new, rest.get(self.own)
        return new, rest or None

    def _embedded(self, new: Mapping[str, Tensor]) -> Tensor | None:
        codes = [self.embed[name](leaf) for name, leaf in new.items()]
        return sum(codes[1:], codes[0]) if codes else None

    @contextmanager
    def _coded(self, code: Tensor | None) -> Iterator[None]:
        self._code, before = code, self._code
        try:
            yield
        finally:
            self._code = before

    def _modulated(self, key: str, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """The output of an inner layer under the conditions of the forward that runs."""
        if self._code is None:
            return output
        scale, shift = self.modulate[key](self._code).to(output.dtype).chunk(2, -1)
        if isinstance(layer, _CHANNELS_FIRST):
            scale, shift = (part.reshape(*part.shape, *([1] * (output.ndim - 2))) for part in (scale, shift))
        else:
            scale, shift = (part.reshape(len(part), *([1] * (output.ndim - 2)), -1) for part in (scale, shift))
        return output * (1 + scale) + shift


class _Labels(nn.Module):
    """Labels int64 `[B]` to `[B, width]`; -1 means not known, and gives zeros."""

    def __init__(self, name: str, classes: int, width: int):
        super().__init__()
        self.name, self.classes = name, classes
        self.table = nn.Embedding(classes, width)

    def forward(self, label: Tensor) -> Tensor:
        label = label.reshape(-1)
        if label.is_floating_point() or bool(((label < -1) | (label >= self.classes)).any()):
            raise ValueError(
                f"Condition {self.name!r} is {label.dtype} from {float(label.min()):g} to {float(label.max()):g}; expected "
                f"int64 labels 0 to {self.classes - 1}, or -1 where there is none."
            )
        code: Tensor = self.table(label.clamp(min=0))
        return torch.where((label >= 0).unsqueeze(-1), code, 0.0)


class _Numbers(nn.Module):
    """Numbers float `[B, D]` to `[B, width]`; a row with NaN means not known, and gives zeros."""

    def __init__(self, name: str, size: int, width: int):
        super().__init__()
        self.name, self.size = name, size
        self.first, self.second = nn.Linear(size, width), nn.Linear(width, width)

    def forward(self, numbers: Tensor) -> Tensor:
        if numbers.shape[1:] != (self.size,):
            raise ValueError(
                f"Condition {self.name!r} has shape {tuple(numbers.shape)}; expected [B, {self.size}] numbers."
            )
        known = ~numbers.isnan().any(-1, keepdim=True)
        code = self.second(nn.functional.silu(self.first(numbers.nan_to_num().to(self.first.weight.dtype))))
        return torch.where(known, code, 0.0)


def _embedding(name: str, kind: int | str, width: int) -> nn.Module:
    if isinstance(kind, int) and not isinstance(kind, bool) and kind >= 2:
        return _Labels(name, kind, width)
    word, _, size = str(kind).partition(":")
    if word == "numbers" and size.isdigit() and int(size) > 0:
        return _Numbers(name, int(size), width)
    raise ValueError(f"Condition {name!r} is {kind!r}; expected the number of classes (at least 2), or 'numbers:D'.")


def _layers(network: nn.Module) -> dict[str, int]:
    """Channels of the layers that are modulated by default, by name."""
    for kinds in (_NORMS, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        found = {name: _channels(network, name) for name, layer in network.named_modules() if isinstance(layer, kinds)}
        if found:
            return found
    return {}


def _channels(network: nn.Module, name: str) -> int:
    """Channels that the layer `name` gives."""
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        raise ValueError(
            f"{type(network).__name__} has no layer {name!r}. See dict(network.named_modules())."
        ) from None
    for attribute in ("num_channels", "num_features", "out_channels", "out_features"):
        if hasattr(layer, attribute):
            return int(getattr(layer, attribute))
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and len(layer.normalized_shape) == 1:
        return int(layer.normalized_shape[0])
    raise ValueError(
        f"{name!r} is a {type(layer).__name__}, whose channels are not known. Name a norm, linear or convolution."
    )
