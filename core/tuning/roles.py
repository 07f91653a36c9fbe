"""Who takes part in training: theta (trained), ref (pretrained, frozen), and moving averages of theta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..denoiser import Denoiser, Estimator
from ..diffusion import Diffusion

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


def cast_roles(diffusion: Diffusion, averages: Mapping[str, Decay]) -> Roles:
    """theta as a trainable copy of `diffusion`, one more copy for each average, and `diffusion` itself, frozen, as ref.

    Raises:
        ValueError: the model has no parameters to train.
    """
    theta = trainable(diffusion)
    return Roles(theta, frozen(diffusion), {name: frozen(diffusion) for name in averages})


def trainable(diffusion: Diffusion) -> Diffusion:
    """A copy whose network can be trained; in evaluation mode, so that dropout does not make a policy random.

    Raises:
        ValueError: the network is not a module, or has no parameters.
    """
    network = innermost(diffusion.denoiser).network
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise ValueError(
            f"There is nothing to train: the network is a {type(network).__name__} without parameters. Give the Diffusion a "
            "torch.nn.Module."
        )
    own = replace(diffusion, denoiser=copy.deepcopy(diffusion.denoiser).eval())
    own.denoiser.requires_grad_(True)
    return own


def frozen(diffusion: Diffusion) -> Diffusion:
    """A copy that nothing trains."""
    return replace(diffusion, denoiser=copy.deepcopy(diffusion.denoiser).eval().requires_grad_(False))


def innermost(estimator: Estimator) -> Denoiser:
    """The denoiser inside whatever restricts or guides it."""
    while not isinstance(estimator, Denoiser):
        estimator = estimator.denoiser  # type: ignore[assignment]
    return estimator


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model; buffers are copied."""
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new.to(kept.dtype), 1 - decay)
    for buffer, current in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(current)
