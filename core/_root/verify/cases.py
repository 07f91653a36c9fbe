"""What `tiltflow verify` runs: worlds, methods and values by name. A new one is a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.cost import spend
from ..core.paths import VPCosine
from ..core.states import one_hot
from ..core.steering import SMC, SVDD, BestOfN, Doob, ImportanceResampling, Steering
from ..core.values import Completions, Given, PosteriorMean, Rollout
from ..core.worlds import MaskedWorld, MixtureWorld, UniformWorld, World
from ..landscapes import gb1, tfbind8

# name -> the world that a seed and the folder of public data make
WORLDS: dict[str, Callable[[int, Path | None], World]] = {
    "masked": lambda seed, data: MaskedWorld(4, 3, seed=seed, alpha=1.0),
    "masked-binary": lambda seed, data: MaskedWorld(6, 2, seed=seed + 100, alpha=1.0),
    "uniform": lambda seed, data: UniformWorld(3, 3, seed=seed, alpha=1.0, steps=16),
    "mixture": lambda seed, data: MixtureWorld(1, seed=seed, alpha=0.3, steps=16),
    "mixture-vp": lambda seed, data: MixtureWorld(1, seed=seed + 100, path=VPCosine(), alpha=0.3, steps=16),
    "mixture-2d": lambda seed, data: MixtureWorld(2, seed=seed, alpha=0.5, steps=16),
    "tfbind8": lambda seed, data: tfbind8(_given(data), "SIX6", alpha=0.1),
    "gb1": lambda seed, data: gb1(_given(data), alpha=1.0),
}


def _given(data: Path | None) -> Path:
    if data is None:
        raise FileNotFoundError("it is a measured landscape: name the folder of its data by --data-dir")
    return data


@dataclass(frozen=True)
class Method:
    """A method of the library as `verify` runs it.

    Attributes:
        label: in figures. build: from candidates or particles.
        values: names of the soft values that it is run with, "-" where it takes none.
        scales: whether it has candidates or particles at all. exact: with the exact value its law is p_T's own tilt.
        tokens: only for token sequences (on the line, the law of argmax picks is not resolved finely enough).
        drawn: whether it has a line in the figure.
    """

    label: str
    build: Callable[[int], Steering]
    values: tuple[str, ...]
    scales: bool = True
    exact: bool = False
    tokens: bool = False
    drawn: bool = True


METHODS: dict[str, Method] = {
    "best_of_n": Method("best of N", BestOfN, ("-",)),
    "importance": Method("importance resampling", ImportanceResampling, ("-",)),
    "svdd": Method("SVDD", SVDD, ("exact", "plug-in", "completions", "rollout")),
    "svdd_argmax": Method("SVDD, argmax", lambda m: SVDD(m, selection="argmax"), ("exact",), tokens=True),
    "smc": Method("SMC", SMC, ("exact", "plug-in", "completions")),
    "smc_max": Method("SMC, max", lambda n: SMC(n, potential="max"), ("plug-in",), drawn=False),
    "smc_sum": Method("SMC, sum", lambda n: SMC(n, potential="sum", interval=2), ("plug-in",), drawn=False),
    "smc_tempered": Method(
        "SMC, tempered", lambda n: SMC(n, tempering=1.0, resampling="stratified"), ("plug-in",), drawn=False
    ),
    "twisted_smc": Method("twisted SMC", lambda n: SMC(n, proposal=Doob()), ("exact", "plug-in")),
    "doob": Method("Doob", lambda _: Doob(), ("exact", "plug-in", "completions"), scales=False, exact=True),
    "doob_first_order": Method(
        "Doob, first order", lambda _: Doob("first-order"), ("multilinear",), scales=False, tokens=True, drawn=False
    ),
}

# name -> the soft value on a world; None is the world's exact one
VALUES: dict[str, Callable[[World], Any]] = {
    "-": lambda world: None,
    "exact": lambda world: None,
    "multilinear": lambda world: Given(multilinear(world)),
    "plug-in": lambda world: PosteriorMean(),
    "completions": lambda world: Completions(),
    "rollout": lambda world: Rollout(4),
}
TOKENS_ONLY = {"completions", "multilinear"}
COSTLY = {"rollout"}  # values that are left out at large budgets


@dataclass(frozen=True)
class Case:
    """One method with one value and budget."""

    key: str
    value: str
    method: Steering
    exact: bool

    def names(self, world: str) -> tuple[str, str, str]:
        """What `measure` calls it."""
        return world, self.key, self.value


def cases(world: World, methods: Sequence[str], budgets: tuple[int, ...]) -> Iterator[Case]:
    """Each method with each of its values that the world can have, at each budget."""
    tokens = world.diffusion.is_tokens
    for key in methods:
        kind = METHODS[key]
        for value in kind.values:
            if not tokens and (kind.tokens or value in TOKENS_ONLY):
                continue
            for size in budgets if kind.scales else budgets[:1]:
                yield Case(key, value, kind.build(size), kind.exact and value == "exact")


def multilinear(world: Any) -> Callable[[Tensor, float], Tensor]:
    """The exact value of relaxed tokens near a hard state x: V(x) + sum over sites and tokens of shift times V there.

    Linear in every site, so that a first-order expansion of it misses nothing.
    """

    def value(x: Tensor, t: float) -> Tensor:
        """float `[B, L, symbols]` -> `[B]`."""
        spend(reward_calls=len(x))
        hard, symbols = x.argmax(-1), x.shape[-1]
        near = hard.reshape(len(x), 1, 1, -1).repeat(1, hard.shape[1], symbols, 1)
        near.diagonal(dim1=1, dim2=3).copy_(torch.arange(symbols).unsqueeze(1))
        there = world.value(near.flatten(0, 2), t).reshape(x.shape)
        return world.value(hard, t) + ((x - one_hot(hard, symbols)) * there).sum((1, 2))

    return value
