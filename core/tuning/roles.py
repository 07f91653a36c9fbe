"""Who takes part in training: theta (trained), ref (pretrained, frozen), and moving averages of theta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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

    Where some of the network's parameters require gradients and some do not (adapters), just the former are trained;
    where none does, as in a model that was tuned before, all are.

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
    if not any(p.requires_grad for p in network.parameters()):
        innermost(own.denoiser).network.requires_grad_(True)  # type: ignore[attr-defined]
    return own


def frozen(diffusion: Diffusion) -> Diffusion:
    """A copy that nothing trains."""
    return replace(diffusion, denoiser=copy.deepcopy(diffusion.denoiser).eval().requires_grad_(False))


def innermost(estimator: nn.Module) -> Denoiser:
    """The denoiser inside whatever restricts or guides it.

    Raises:
        ValueError: there is none, so that it is not known which network is meant.
    """
    while not isinstance(estimator, Denoiser):
        inside = getattr(estimator, "denoiser", None)
        if not isinstance(inside, nn.Module):
            raise ValueError(
                f"There is nothing to train: a {type(estimator).__name__} holds no Denoiser. Wrap the network in one: "
                "Denoiser(network, parameterisation)."
            )
        estimator = inside
    return estimator


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
