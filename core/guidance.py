"""Conditional models: fix a condition, add a new one to a pretrained model, and choose how strongly it guides."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from .denoiser import Estimator, around, innermost
from .diffusion import Diffusion
from .networks.conditioned import Conditioned
from .states import log_normalise, match_rows


def add_condition(
    diffusion: Diffusion,
    conditions: Mapping[str, int | str],
    *,
    layers: Sequence[str] | None = None,
    width: int = 32,
    own: str | None = None,
    train_network: bool = True,
) -> Diffusion:
    """The same law with new conditions, which do nothing until they are trained; the given one stays as it is.

    A conditional model keeps its own conditions: `cond` is then one dict of old and new. Arguments are those of
    `networks.Conditioned`.

    Raises:
        ValueError: the network is not a module, or see `networks.Conditioned`.
    """
    network = innermost(diffusion.denoiser).network
    if not isinstance(network, nn.Module):
        raise ValueError(f"The network is a {type(network).__name__}; a condition is added to a torch.nn.Module.")
    options: dict[str, Any] = {"layers": layers, "width": width, "own": own, "train_network": train_network}
    augmented = Conditioned(copy.deepcopy(network), conditions, **options).train(network.training)
    return replace(diffusion, denoiser=around(diffusion.denoiser, augmented))


def given(diffusion: Diffusion, cond: Any) -> Diffusion:
    """The law under one condition: a tree of tensors with 1 row, or n rows where multiples of n samples are drawn.

    What is asked with a further condition, a dict, sees both.
    """
    return replace(diffusion, denoiser=Fixed(diffusion.denoiser, cond))


def ignore(diffusion: Diffusion, names: Sequence[str]) -> Diffusion:
    """The law that does not see the conditions `names`, which then are there for the reward alone (classifier guidance)."""
    return replace(diffusion, denoiser=Without(diffusion.denoiser, names))


def guide(
    diffusion: Diffusion, strength: float, *, base: Diffusion | None = None, drop: Sequence[str] = ()
) -> Diffusion:
    """A model pushed along its difference from a base: estimate = base + strength (model - base).

    For tokens of log-probabilities, renormalised, else of posterior means (which is the same for scores). Strength 1 is the
    model, 0 the base, and above 1 extrapolates. With a model tuned toward exp(r / alpha) and its pretrained parent as the
    base it aims at exp(strength r / alpha) (the strength of CTRL, Zhao et al. 2024; RLG, Jin et al. 2025); with `drop`, the
    base is the model itself without the conditions named (classifier-free guidance, Ho & Salimans 2022). A sample then
    follows p(x) p(y | x)^strength only as far as its steps are small and noised conditions behave like that: it is a
    heuristic for strengths other than 0 and 1.

    Costs two forward rows a step.

    Raises:
        ValueError: neither or both of `base` and `drop`, a strength that is not finite, or models of different processes.
    """
    if (base is None) == (not drop):
        raise ValueError("Give either a base model, or the names of the conditions to drop.")
    if not math.isfinite(strength):
        raise ValueError(f"strength is {strength}; expected a finite number (1 is the model itself).")
    if base is not None and (base.process != diffusion.process or base.shape != diffusion.shape):
        raise ValueError(
            f"Model and base differ: {diffusion.process} {diffusion.shape}, {base.process} {base.shape}. Guidance mixes "
            "estimates of one process."
        )
    other = ignore(diffusion, drop) if base is None else base
    return replace(diffusion, denoiser=Extrapolated(diffusion.denoiser, other.denoiser, strength, diffusion.is_tokens))


class Fixed(Estimator):
    """A denoiser under a condition that is kept with it."""

    def __init__(self, denoiser: Estimator, cond: Any):
        super().__init__()
        self.denoiser, self.cond = denoiser, cond
        self.time_invariant = bool(denoiser.time_invariant)

    def forward(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        own = match_rows(apply_to_collection(self.cond, Tensor, lambda leaf: leaf.to(x.device)), len(x))
        if cond is not None:
            if not isinstance(own, Mapping) or not isinstance(cond, Mapping):
                raise ValueError("This model has a fixed condition already; only dicts of conditions can be joined.")
            own = {**own, **match_rows(cond, len(x))}
        estimate: Tensor = self.denoiser(x, t, own)
        return estimate


class Without(Estimator):
    """A denoiser that does not see some conditions."""

    def __init__(self, denoiser: Estimator, names: Sequence[str]):
        super().__init__()
        self.denoiser, self.names = denoiser, tuple(names)
        self.time_invariant = bool(denoiser.time_invariant)

    def forward(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        kept = {} if cond is None else {name: leaf for name, leaf in cond.items() if name not in self.names}
        estimate: Tensor = self.denoiser(x, t, kept or None)
        return estimate


class Extrapolated(Estimator):
    """base + strength (denoiser - base); of log-probabilities, renormalised, for tokens."""

    def __init__(self, denoiser: Estimator, base: Estimator, strength: float, tokens: bool):
        super().__init__()
        self.denoiser, self.base, self.strength, self.tokens = denoiser, base, strength, tokens
        self.time_invariant = bool(denoiser.time_invariant) and bool(base.time_invariant)

    def forward(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        model, base = self.denoiser(x, t, cond), self.base(x, t, cond)
        if not self.tokens:
            return base + self.strength * (model - base)
        # What the model never gives stays impossible; where only the base never gives it, there is nothing to compare with.
        gap = torch.where(model.isinf() | base.isinf(), 0.0, model - base)
        mixed = log_normalise(torch.where(base.isinf(), model, base) + self.strength * gap)
        return torch.where(model.isinf(), -math.inf, mixed) if bool(model.isinf().any()) else mixed
