"""Who takes part in training: theta (trained), ref (pretrained, frozen), and moving averages of theta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from ..denoiser import Estimator, innermost
from ..diffusion import Diffusion
from ..guidance import guide

Decay = Callable[[int], float]  # optimiser step (from 1) -> share of the average that stays; 0 copies theta


@dataclass(frozen=True)
class Roles:
    """The models that an objective may ask.

    Attributes:
        theta: the model being trained.
        ref: the pretrained law; never changes.
        averages: named moving averages of theta, such as "old" (behaviour policy) or "ema".
    """

    theta: Diffusion
    ref: Diffusion
    averages: Mapping[str, Diffusion]

    def __getitem__(self, name: str) -> Diffusion:
        """A role by its name."""
        return {"theta": self.theta, "ref": self.ref, **self.averages}[name]


class Shared(nn.Parameter):
    """A weight that nothing trains. Copies made here of a network that holds it (`frozen`, `trainable`) share its memory."""


class Adapter(Protocol):
    """Trained weights that are put into a network beside its own, such as `LoRA`."""

    def check(self, network: nn.Module) -> None:
        """Raise ValueError for a network that cannot be adapted."""
        ...

    def attach(self, network: nn.Module, seed: int) -> None:
        """Put them into `network`, in place, so that it still gives the same; freeze all else."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a role: what it is asked is `guide(role, strength, drop=drop)`.

    Args:
        strength: 1 is the role as it is. drop: conditions that its base does not see.
    """

    strength: float
    drop: Sequence[str]


def guided(roles: Roles, guidance: Mapping[str, Guidance]) -> Roles:
    """The roles under the guidance that is asked for, by name; it costs them a second forward row."""

    def under(name: str, model: Diffusion) -> Diffusion:
        found = guidance.get(name)
        return model if found is None else guide(model, found.strength, drop=found.drop)

    averages = {name: under(name, model) for name, model in roles.averages.items()}
    return Roles(under("theta", roles.theta), under("ref", roles.ref), averages)


def cast_roles(
    diffusion: Diffusion, averages: Mapping[str, Decay], adapter: Adapter | None = None, seed: int = 0
) -> Roles:
    """theta as a trainable copy of `diffusion`, one more copy for each average, and `diffusion` itself, frozen, as ref.

    What is not trained is held once: with an adapter, or where the user froze a part, all roles and `diffusion` share the
    memory of these weights.

    Args:
        adapter: is put into theta and the averages, and only it is trained; None: full fine-tuning. seed: of its first
            weights.

    Raises:
        ValueError: the model has no parameters to train, or the adapter does not fit.
    """
    if adapter is None:
        theta = trainable(diffusion)
        ref = frozen(diffusion)
    else:
        adapter.check(_trainable_network(diffusion))
        theta, ref = on_shared_weights(diffusion), on_shared_weights(diffusion)
        adapter.attach(_trainable_network(theta), seed)
    return Roles(theta, ref, {name: frozen(theta) for name in averages})


def trainable(diffusion: Diffusion) -> Diffusion:
    """A copy whose network can be trained; in evaluation mode, so that dropout does not make a policy random.

    Where some of the network's parameters require gradients and some do not (adapters), just the former are trained;
    where none does, as in a model that was tuned before, those are that were trained then: all, unless a part was frozen.

    Raises:
        ValueError: the network is not a module, or has no parameters.
    """
    network = _trainable_network(diffusion)
    own = replace(diffusion, denoiser=_copy(diffusion.denoiser, shared=_untrained(network)))
    if not any(p.requires_grad for p in network.parameters()):
        for parameter in _trainable_network(own).parameters():
            parameter.requires_grad_(not isinstance(parameter, Shared))
    return own


def frozen(diffusion: Diffusion) -> Diffusion:
    """A copy that nothing trains. What nothing trained before either is shared, not copied."""
    network = innermost(diffusion.denoiser).network
    shared = _untrained(network) if isinstance(network, nn.Module) else []
    return replace(diffusion, denoiser=_copy(diffusion.denoiser, shared).requires_grad_(False))


def on_shared_weights(diffusion: Diffusion) -> Diffusion:
    """A frozen copy whose weights have the memory of the given ones."""
    return replace(diffusion, denoiser=_copy(diffusion.denoiser, list(diffusion.denoiser.parameters())))


def _trainable_network(diffusion: Diffusion) -> nn.Module:
    network = innermost(diffusion.denoiser).network
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise ValueError(
            f"There is nothing to train: the network is a {type(network).__name__} without parameters. Give the Diffusion a "
            "torch.nn.Module."
        )
    return network


def _untrained(network: nn.Module) -> list[nn.Parameter]:
    """Parameters that are not trained, also where the model was frozen as a whole since."""
    every = list(network.parameters())
    partly = any(p.requires_grad for p in every)
    return [p for p in every if isinstance(p, Shared) or (partly and not p.requires_grad)]


def _copy(denoiser: Estimator, shared: Iterable[nn.Parameter]) -> Estimator:
    """A copy in evaluation mode; `shared` parameters become `Shared` ones on the same memory, and keep it until moved."""
    memo: dict[int, Any] = {id(p): Shared(p.detach(), requires_grad=False) for p in shared}
    return copy.deepcopy(denoiser, memo).eval()
