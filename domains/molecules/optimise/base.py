"""What an optimiser is: something that asks a reward with a budget for molecules until the budget is spent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ....core.cost import BudgetSpentError
from ....molecules import decode
from ...base import Domain

PATIENCE = 50  # rounds in a row without a molecule that was not asked before

OnRound = Callable[[Any], Any]


class Scored(Protocol):
    """A reward of molecules that keeps a record, such as `tiltflow.rewards.molecules.Molecular` with a `Budget`.

    Attributes:
        budget: `.calls` is the record, in order, and `.left` how many more may be made.
    """

    @property
    def budget(self) -> Any: ...

    def __call__(self, x: Tensor) -> Tensor: ...

    def score(self, smiles: Sequence[str], *, are_canonical: bool = False) -> Tensor: ...


class Optimiser(Protocol):
    """A way to spend a budget of calls well. Hyper-parameters only, in a frozen dataclass.

    How good it was is told by the record, `reward.budget.calls`: every molecule counts from the call at which it was asked
    for, so that an optimiser neither returns anything nor has to keep what it found. A class attribute `uses_prior = False`
    says that it takes no more than natural molecules from the domain: its records then outlive a change of the prior.
    """

    def run(
        self, domain: Domain, reward: Scored, *, generator: torch.Generator, on_round: OnRound | None = None
    ) -> None:
        """Ask for molecules until the budget is spent, or nothing new comes any more.

        Args:
            domain: the molecules domain: prior, codec and natural molecules to start from.
            reward: higher is better; tokens `[B, L]` or SMILES to float64 `[B]`. NaN counts as the worst.
            generator: all randomness comes from it.
            on_round: called with the budget after every round, for progress.

        Raises:
            ValueError: the reward has no budget, so that there would be no end.
        """


def rounds(reward: Scored, on_round: OnRound | None = None, patience: int = PATIENCE) -> Iterator[None]:
    """Once for each round of an optimiser: until the budget is spent, or `patience` rounds in a row asked nothing new.

    Use it as `with until_spent(reward): for _ in rounds(reward, on_round): ...`; on_round hears of every round.
    """
    idle = 0
    while reward.budget.left and idle < patience:
        before = reward.budget.left
        yield
        idle = idle + 1 if reward.budget.left == before else 0
        if on_round is not None:
            on_round(reward.budget)


@contextlib.contextmanager
def until_spent(reward: Scored) -> Iterator[None]:
    """The budget's end is the normal end of what is inside.

    Raises:
        ValueError: the reward has no budget.
    """
    if reward.budget is None:
        raise ValueError("the reward has no budget, so there is no end: give it one, such as budget=Budget(10000)")
    with contextlib.suppress(BudgetSpentError):
        yield


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A numpy generator whose seed is drawn from a torch one."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


def natural(domain: Domain, count: int, rng: np.random.Generator) -> list[str]:
    """At most `count` distinct natural molecules at random, as canonical SMILES.

    They are those of the reference, which no prior was trained on; the benchmarks' own start is random molecules of ZINC.

    Raises:
        ValueError: the domain has no natural molecules.
    """
    tokens = getattr(domain.reference, "tokens", None)
    if tokens is None or not len(tokens):
        raise ValueError("the domain has no natural molecules to start from: load it with a reference")
    chosen = rng.permutation(len(tokens))[: 2 * count]
    return distinct(decode(tokens[torch.from_numpy(chosen)]))[:count]


def distinct(smiles: Iterable[str]) -> list[str]:
    """Each molecule once, in order; what is none (empty) is left out."""
    return [text for text in dict.fromkeys(smiles) if text]
