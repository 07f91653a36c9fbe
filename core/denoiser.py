"""A network and its parameterisation, seen from outside as one thing: (x, t, cond) -> clean estimate.

The clean estimate is the one language between networks and methods: log p(x0 | x_t) `[B, L, K]` for discrete states, the
posterior mean `[B, *shape]` for continuous ones. Whatever a network predicts is converted here and nowhere else.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .cost import charge, open_meters, spend
from .parameterisations import Parameterisation
from .states import index_tree, is_discrete, log_normalise, match_rows, per_sample, unique_rows


class Estimator(nn.Module):
    """Anything that gives the clean estimate from (x, t, cond); `Diffusion` takes it as it is.

    Attributes:
        time_invariant: the estimate does not depend on t.
    """

    time_invariant: bool


class Denoiser(Estimator):
    """Network plus parameterisation. Counts the rows that really go through the network.

    Args:
        network: callable (x, t) or, with a condition, (x, t, cond) -> output; t is `[B]`.
        parameterisation: how to read the output.
        max_rows: split larger batches (None: never). Draws do not depend on it, since noise is made outside; outputs may
            differ in the last bit where a kernel is not batch-invariant.
        time_invariant: the output does not depend on t. Lets samplers reuse estimates of rows that did not change.
            Read from `network.time_invariant` when not given; False if absent.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        parameterisation: Parameterisation,
        *,
        max_rows: int | None = None,
        time_invariant: bool | None = None,
    ):
        super().__init__()
        if not callable(network):
            raise TypeError(f"network is a {type(network).__name__}; expected a callable (x, t) -> output.")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}; expected at least 1, or None.")
        self.network = network
        self.parameterisation = parameterisation
        self.max_rows = max_rows
        self.time_invariant = bool(
            getattr(network, "time_invariant", False) if time_invariant is None else time_invariant
        )

    def forward(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        """The clean estimate at x `[B, ...]`, t a number or `[B]`; rows that need no network skip it."""
        time = per_sample(t, x)
        settled = self.parameterisation.settled(x)
        if settled is None or not bool(settled.any()):
            return self._estimate(x, time, cond)
        if bool(settled.all()):
            return self.parameterisation.settled_clean(x)
        open_rows = ~settled
        fresh = self._estimate(x[open_rows], time[open_rows], index_tree(match_rows(cond, len(x)), open_rows))
        clean = self.parameterisation.settled_clean(x).to(fresh.dtype)
        clean[open_rows] = fresh
        return clean

    def _estimate(self, x: Tensor, time: Tensor, cond: Any) -> Tensor:
        if self.max_rows is None or len(x) <= self.max_rows:
            return self._forward(x, time, cond)
        cond = match_rows(cond, len(x))
        parts = [slice(i, i + self.max_rows) for i in range(0, len(x), self.max_rows)]
        return torch.cat([self._forward(x[part], time[part], index_tree(cond, part)) for part in parts])

    def _forward(self, x: Tensor, time: Tensor, cond: Any) -> Tensor:
        output = self.network(x, time) if cond is None else self.network(x, time, match_rows(cond, len(x)))
        if not isinstance(output, Tensor):
            raise TypeError(
                f"The network returned a {type(output).__name__}; expected a tensor. Wrap the network so that it returns "
                "the logits only."
            )
        spend(forward_rows=len(x))
        if output.requires_grad:
            meters = open_meters()
            output.register_hook(lambda gradient: charge(meters, backward_rows=len(gradient)))
        return self.parameterisation.clean(output, x, time)


class Restricted(Estimator):
    """A masked denoiser that puts all its mass on allowed tokens, site by site, renormalised.

    With the one-at-a-time sampler, fixed sites give the exact conditional law p(x | fixed sites). A site with several
    allowed tokens is honoured too, but the law is then the product of renormalised steps, not the exact conditional.
    """

    def __init__(self, denoiser: Estimator, allowed: Tensor):
        super().__init__()
        self.denoiser = denoiser
        self.time_invariant = bool(denoiser.time_invariant)
        self.log_allowed: Tensor
        self.register_buffer("log_allowed", torch.where(allowed, 0.0, -math.inf))

    @property
    def allowed(self) -> Tensor:
        """bool `[L, K]`."""
        return self.log_allowed == 0

    def forward(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        return log_normalise(self.denoiser(x, t, cond) + self.log_allowed)


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


def around(estimator: Estimator, network: nn.Module, *, steady: bool = False) -> Estimator:
    """The same estimator with another network inside, which synchronises gradients and sets the precision. Nothing is
    copied: weights stay shared.

    Args:
        steady: ask the network for every row at every call (see `_Steady`).
    """
    shell = copy.copy(estimator)
    shell._modules = dict(estimator._modules)
    if isinstance(shell, Denoiser):
        shell.network = network
        if steady:
            shell.__class__ = _Steady
    else:
        shell.denoiser = around(estimator.denoiser, network, steady=steady)  # type: ignore[arg-type]
    return shell


class _Steady(Denoiser):
    """A denoiser whose network is called as often in every process, whatever the states are: where each call gathers
    sharded weights, a process that skips one leaves the others waiting."""

    def forward(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        clean = self._estimate(x, per_sample(t, x), cond)
        settled = self.parameterisation.settled(x)
        if settled is None or not bool(settled.any()):
            return clean
        rows = settled.reshape(-1, *[1] * (clean.ndim - 1))
        return torch.where(rows, self.parameterisation.settled_clean(x).to(clean), clean)


@dataclass(frozen=True)
class Known:
    """Clean estimates that are at hand: rows `x` `[B, ...]` were denoised to `clean` `[B, ...]`."""

    x: Tensor
    clean: Tensor


def denoise_once(
    denoiser: nn.Module,
    x: Tensor,
    t: float | Tensor,
    cond: Any = None,
    known: Known | None = None,
    distinct: bool = False,
) -> Tensor:
    """The clean estimate without denoising any point twice.

    Args:
        known: estimates at an earlier time, row by row; a row that did not change since takes its old one if the
            denoiser does not depend on time.
        distinct: denoise equal rows of a discrete state once (needs one time and one condition for all rows).
    """
    shared = not isinstance(t, Tensor) or t.ndim == 0
    if known is not None and denoiser.time_invariant:
        return _refresh(denoiser, x, t, match_rows(cond, len(x)), known, distinct and cond is None)
    if distinct and cond is None and (shared or denoiser.time_invariant) and is_discrete(x):
        return _denoise_distinct(denoiser, x, t)
    return denoiser(x, t, cond)


def _denoise_distinct(denoiser: nn.Module, x: Tensor, t: float | Tensor) -> Tensor:
    first, inverse = unique_rows(x)
    if len(first) == len(x):
        return denoiser(x, t)
    time = t if not isinstance(t, Tensor) or t.ndim == 0 else t[first]
    return denoiser(x[first], time)[inverse]


def _refresh(denoiser: nn.Module, x: Tensor, t: float | Tensor, cond: Any, known: Known, distinct: bool) -> Tensor:
    changed = (x != known.x).flatten(1).any(1)
    if bool(changed.all()):
        return denoise_once(denoiser, x, t, cond, distinct=distinct)
    if not bool(changed.any()):
        return known.clean
    time = t if not isinstance(t, Tensor) or t.ndim == 0 else t[changed]
    clean = known.clean.clone()
    fresh = denoise_once(denoiser, x[changed], time, index_tree(cond, changed), distinct=distinct)
    clean[changed] = fresh.to(clean.dtype)  # rows that skipped the network come in the default dtype
    return clean
