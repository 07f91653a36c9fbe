"""Low-rank adapters: few trained weights beside the pretrained ones, which stay as they are and are held once."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import around, innermost
from ..diffusion import Diffusion, check_count
from ..storage import StorageError, load_tensors, save_tensors
from ..training import fingerprint
from .roles import on_shared_weights

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
NAME = "default"  # what peft calls an adapter that nobody named


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al. 2022): W becomes W + scale B A, where A and B are trained and B = 0 at the start.

    The layers are peft's. For a convolution A has its kernel and B a kernel of 1; for an embedding A and B are tables. There
    is no dropout, since a policy must not be random beside its draws.

    Args:
        rank: r of A `[r, in]` and B `[out, r]`.
        scale: published: alpha / r.
        targets: layers to adapt, by full name or its end ("blocks.0.mix" or "mix"); None: all linear layers, convolutions
            and embeddings that can be adapted.
    """

    rank: int = 8
    scale: float = 1.0
    targets: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_count("rank", self.rank)
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; expected a positive number.")
        if self.targets is not None:
            names = None if isinstance(self.targets, str) else tuple(self.targets)
            if not names or not all(isinstance(name, str) and name for name in names):
                raise ValueError(
                    f"targets is {self.targets!r}; expected names of layers, such as ['mix', 'out'], or None."
                )
            object.__setattr__(self, "targets", names)

    def check(self, network: nn.Module) -> None:
        """Whether this network can be adapted, before anything is done to it.

        Raises:
            ValueError: no layer to adapt, one that cannot be, or adapters are there already.
            ModuleNotFoundError: peft is missing; the message names the extra.
        """
        self.choose(network)
        _peft()

    def choose(self, network: nn.Module) -> list[str]:
        """Full names of the layers that get an adapter; errors as in `check`."""
        if adapters(network):
            raise ValueError("The network has adapters already: merge them first, merged(diffusion), or train them on.")
        obstacles = dict(_obstacles(network))
        if self.targets is None:
            chosen = [name for name, obstacle in obstacles.items() if obstacle is None]
            if not chosen:
                raise ValueError(
                    f"No layer of the {type(network).__name__} can have an adapter: it holds {_inventory(network)}, and "
                    f"adapters fit plain {_kinds()} inside a network. Use full fine-tuning, adapter=None."
                )
            return chosen
        chosen = []
        for target in self.targets:
            named = [name for name in obstacles if name == target or name.endswith(f".{target}")]
            if not named:
                able = [name for name, obstacle in obstacles.items() if obstacle is None]
                raise ValueError(
                    f"targets: no layer is called {target!r}. Layers that can have an adapter: {', '.join(able) or 'none'}."
                )
            for name in named:
                if obstacles[name] is not None:
                    raise ValueError(f"targets: {name} cannot have an adapter: {obstacles[name]}. Leave it out.")
            chosen += [name for name in named if name not in chosen]
        return chosen

    def attach(self, network: nn.Module, seed: int) -> None:
        """Put adapters into `network`, in place, and freeze all else. First weights depend on the seed only.

        The class, attributes and call of the network stay. Errors as in `check`.
        """
        chosen = self.choose(network)
        peft = _peft()
        # Exact names: peft's own matching of endings would take more layers than were chosen.
        pattern = "|".join(map(re.escape, chosen))
        config = peft.LoraConfig(r=self.rank, lora_alpha=self.rank * self.scale, target_modules=pattern)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # peft draws A from the global generator
            peft.inject_adapter_in_model(config, network)
        for layer in adapters(network).values():
            base = layer.get_base_layer()
            layer.scaling[NAME] = self.scale  # not (rank scale) / rank, which may differ in the last bit
            if not isinstance(base, nn.Linear | nn.Embedding):
                _like_base(layer.lora_A[NAME], base)
            # The fused kernel of a TransformerEncoderLayer reads weights past the layers; it keeps off layers with hooks.
            layer.register_forward_pre_hook(_nothing)
        for parameter in _own(network).values():
            if parameter.dtype.itemsize < 4:  # small steps would be lost; peft's layers convert what comes in
                parameter.data = parameter.data.float()
        network.eval()


def _nothing(module: nn.Module, args: Any) -> None:
    """A hook that only is there."""


def _like_base(conv: Any, base: Any) -> None:
    """Peft gives A the base's kernel, stride and padding, but neither its dilation nor its padding mode."""
    conv.dilation, conv.padding_mode = base.dilation, base.padding_mode
    conv._reversed_padding_repeated_twice = base._reversed_padding_repeated_twice


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Adapters need peft: pip install 'tiltflow[lora]'.") from error
    return peft


# --- which layers --------------------------------------------------------------------------------------------------


def _obstacles(network: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Every module inside `network` by full name, and why it cannot have an adapter, or None."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append(name)
    parents = {name: network.get_submodule(name.rpartition(".")[0]) for name, _ in network.named_modules() if name}
    for name, parent in parents.items():
        module = network.get_submodule(name)
        weight = module._parameters.get("weight")
        tied = [other for other in owners.get(id(weight), []) if other != name] if weight is not None else []
        yield name, _obstacle(module, parent, tied)


def _obstacle(module: nn.Module, parent: nn.Module, tied: list[str]) -> str | None:
    if not isinstance(module, KINDS):
        return f"it is a {type(module).__name__}, and adapters fit {_kinds()}"
    if module._parameters.get("weight") is None:
        return "its weight is computed from others (weight norm or the like)"
    if getattr(module, "groups", 1) > 1:
        return "it is a grouped convolution, whose adapters could not be merged"
    if isinstance(parent, nn.MultiheadAttention):
        return "its attention reads the weight past the layer"
    return f"it shares its weight with {', '.join(tied)}" if tied else None


def _kinds() -> str:
    return ", ".join(kind.__name__ for kind in KINDS)


def _inventory(network: nn.Module) -> str:
    """The types of the layers that hold weights."""
    kinds = sorted(
        {
            type(module).__name__
            for module in network.modules()
            if any(p is not None for p in module._parameters.values())
        }
    )
    return ", ".join(kinds) or "no layers with weights"


def adapters(network: Any) -> dict[str, Any]:
    """Peft's layers by name; none where peft was never imported."""
    if "peft" not in sys.modules or not isinstance(network, nn.Module):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}


# --- into the weights, and into files --------------------------------------------------------------------------------


def merged(diffusion: Diffusion) -> Diffusion:
    """The same law with its adapters in the weights, W + scale B A, and the pretrained architecture: frozen, a copy of its
    own. What has no adapters comes back as it is."""
    given: Any = innermost(diffusion.denoiser).network
    if not adapters(given):
        return diffusion
    # Weights that are no longer `Shared`: all may be trained again.
    network = copy.deepcopy(given, {id(p): nn.Parameter(p.detach().clone(), False) for p in given.parameters()})
    for name, layer in adapters(network).items():
        if not layer.merged:
            layer.merge(safe_merge=True)
        network.set_submodule(name, layer.get_base_layer())
    vars(network).pop("peft_config", None)
    return replace(diffusion, denoiser=around(diffusion.denoiser, network).eval().requires_grad_(False))


def save_adapter(path: str | Path, diffusion: Diffusion) -> None:
    """Write the adapters alone, with what they were made by and a digest of the weights that they belong to.

    Raises:
        ValueError: there are none, or not those of `LoRA`.
        StorageError: the file cannot be written.
    """
    network: Any = innermost(diffusion.denoiser).network
    layers = adapters(network)
    if not layers:
        raise ValueError("The model has no adapters to save. A merged or fully tuned one is saved whole.")
    made = {(layer.r.get(NAME), layer.scaling.get(NAME)) for layer in layers.values() if hasattr(layer, "lora_A")}
    if len(made) != 1 or any(set(layer.r) != {NAME} for layer in layers.values()):
        raise ValueError(f"The adapters are not those of LoRA: ranks and scales {made}. Use peft to save them.")
    ((rank, scale),) = made
    facts = {"kind": "adapter", "rank": rank, "scale": scale, "targets": list(layers), "base": base_digest(network)}
    save_tensors(path, {name: p.clone() for name, p in _own(network).items()}, facts)


def load_adapter(path: str | Path, diffusion: Diffusion) -> Diffusion:
    """`diffusion` with the adapters of a file, frozen. The pretrained weights are shared with it, not copied.

    Raises:
        FileNotFoundError: no such file.
        StorageError: it is corrupt, or its adapters belong to other weights.
        ValueError: the diffusion has adapters already.
    """
    tensors, facts = load_tensors(path, "adapter")
    if adapters(innermost(diffusion.denoiser).network):
        raise ValueError("The diffusion has adapters already. Give the pretrained one, or merged(diffusion).")
    own = on_shared_weights(diffusion)
    network: Any = innermost(own.denoiser).network
    if base_digest(network) != facts.get("base"):
        raise StorageError(
            f"The adapters of {path} belong to a model with other weights. Give the one that they were trained on."
        )
    try:
        LoRA(facts["rank"], facts["scale"], facts["targets"]).attach(network, 0)
        wanted = _own(network)
        if wanted.keys() != tensors.keys():
            raise KeyError(f"{', '.join(sorted(wanted.keys() ^ tensors.keys())[:3])} missing or unknown")
        with torch.no_grad():
            for name, parameter in wanted.items():
                parameter.copy_(tensors[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{path} does not fit this model: {error}. Use another file.") from error
    own.denoiser.requires_grad_(False)
    return own


def _own(network: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights by name."""
    return {
        f"{name}.{key}": p
        for name, layer in adapters(network).items()
        for key, p in layer.named_parameters()
        if not key.startswith("base_layer.")
    }


def base_digest(network: nn.Module) -> str:
    """A fingerprint of the weights without adapters, under the names that they have without them."""
    own = _own(network)
    plain = {name: tensor for name, tensor in network.state_dict().items() if name not in own}
    for layer in adapters(network):
        plain = {name.replace(f"{layer}.base_layer.", f"{layer}."): tensor for name, tensor in plain.items()}
    return fingerprint(dict(sorted(plain.items())))
