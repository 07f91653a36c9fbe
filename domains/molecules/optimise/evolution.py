"""Evolution of molecules in which the diffusion model writes the mutations, and learns on the way from what was good."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ....core.denoiser import innermost
from ....core.diffusion import Diffusion
from ....core.samplers import FirstHitting
from ....molecules import MASK, PAD, decode, encode_one
from ....smiles import MoleculeError
from ...base import Domain
from ..remasking import remask
from .base import OnRound, Scored, natural, numpy_generator, rounds, until_spent
from .crossover import crossover
from .mutation import mutate

OPERATORS = ("remask", "splice", "crossover", "mutate", "draw")


@dataclass(frozen=True)
class Learning:
    """Tuning of the prior while it searches: its ELBO on the best molecules, weighted by rank, is pushed up.

    Args:
        steps: optimiser steps a generation; batch: molecules a step.
        learning_rate: Adam's.
        elite: how many of the best molecules are learned from.
        start: calls before the first step.
    """

    steps: int = 1
    batch: int = 32
    learning_rate: float = 3e-4
    elite: int = 200
    start: int = 500


@dataclass(frozen=True)
class Evolution:
    """A population of molecules whose children are made by the prior and by graph operators.

    * remask: a run of words of a parent is masked and drawn again by the prior (as GenMol does: Lee et al. 2025);
    * splice: the first words of one parent and the last of another, with words drawn between them;
    * crossover, mutate: the graph operators of the genetic algorithm (Jensen 2019), see `crossover` and `mutate`; a
      crossing is also mutated with probability `mutation_rate`;
    * draw: a new sample of the prior, worth having once it has learned (`learning`).

    Parents are drawn by rank, much as Tripp & Hernandez-Lobato (2023) do: evenly among the best share 10^-u of the
    population, u even on [0, `greed`]. A search begins on `islands`, populations that know nothing of each other, and goes
    on with the best of each once `apart` of the budget is spent: one population alone often settles on what it found first.

    Args:
        population: molecules that parents are drawn from, the best ever asked for (of all islands together).
        offspring: children of a generation.
        start: molecules of the first generation, natural ones at random (of all islands together).
        shares: how large a part of the children each operator makes, in any unit.
        mutation_rate: share of the crossings that are mutated too.
        greed: see above; 0 draws all parents evenly.
        islands, apart: see above.
        longest: most words that are masked in a parent.
        learning: None leaves the prior as it is.
    """

    population: int = 400
    offspring: int = 20
    start: int = 200
    shares: Mapping[str, float] = field(default_factory=lambda: {"crossover": 0.6, "remask": 0.2, "mutate": 0.2})
    mutation_rate: float = 0.067
    greed: float = 2.0
    islands: int = 1
    apart: float = 0.2
    longest: int = 6
    learning: Learning | None = None

    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least in (("population", 2), ("offspring", 2), ("start", 2), ("islands", 1), ("longest", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of at least {least}")
        unknown = [name for name in self.shares if name not in OPERATORS]
        if unknown or not sum(self.shares.values()) > 0 or min(self.shares.values()) < 0:
            raise ValueError(
                f"shares are {dict(self.shares)}; expected numbers of at least 0, not all 0, for some of {', '.join(OPERATORS)}"
            )
        for name in ("mutation_rate", "apart"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1")
        if 2 * self.islands > min(self.population, self.start):
            raise ValueError(
                f"{self.islands} islands share a population of {self.population} and {self.start} molecules at the start; "
                "expected at least two of both for each"
            )
        if not self.greed >= 0:
            raise ValueError(f"greed is {self.greed}; expected a number of at least 0")

    def run(
        self, domain: Domain, reward: Scored, *, generator: torch.Generator, on_round: OnRound | None = None
    ) -> None:
        """See `Optimiser.run`.

        Raises:
            ValueError: a domain with a template or scaffold, which children would not keep.
        """
        if domain.constraints:
            raise ValueError(
                f"Evolution does not keep to {domain.constraints}. Load the domain without, and let the reward forbid what "
                "must not be, as Smarts and ScaffoldLock do."
            )
        rng = numpy_generator(generator)
        law = _Law(domain.diffusion, self.learning, generator)
        record = _Record(domain.diffusion.shape[0])
        with until_spent(reward):
            total = reward.budget.left
            isles = [_People(record, -(-self.population // self.islands), self.greed) for _ in range(self.islands)]
            for isle, names in zip(isles, _parted(natural(domain, self.start, rng), self.islands), strict=True):
                isle.add(names, reward)
            for turn, _ in enumerate(rounds(reward, on_round)):
                if len(isles) > 1 and reward.budget.left <= (1 - self.apart) * total:
                    isles = [_People.merged(isles, self.population)]
                people = isles[turn % len(isles)]
                children = self._children(people, law, rng)
                people.add(children, reward)
                if self.learning is not None and len(record.scores) >= self.learning.start:
                    law.learn(people.elite(self.learning.elite), self.learning)

    def _children(self, people: _People, law: _Law, rng: np.random.Generator) -> list[str]:
        """A generation: canonical SMILES that were never asked for."""
        parts = np.array([self.shares.get(name, 0.0) for name in OPERATORS])
        counts = dict(zip(OPERATORS, rng.multinomial(self.offspring, parts / parts.sum()).tolist(), strict=True))
        pairs = people.parents(2 * counts["crossover"], rng)
        crossed = [crossover(pair, rng) for pair in zip(pairs[::2], pairs[1::2], strict=True)]
        touched = [
            mutate(born, rng) or born if born and rng.random() < self.mutation_rate else born for born in crossed
        ]
        mutated = [mutate(parent, rng) for parent in people.parents(counts["mutate"], rng)]
        drawn = law.fill(_templates(counts, people, self.longest, rng, law.generator))
        known = people.record.scores
        return [born for born in dict.fromkeys([*touched, *mutated, *drawn]) if born and born not in known]


def _parted(names: Sequence[str], parts: int) -> list[Sequence[str]]:
    """The names in so many parts of equal size, but for one."""
    return [names[part::parts] for part in range(parts)]


class _Record:
    """All molecules that were asked for, their scores, and their words where they can be written in these."""

    def __init__(self, length: int):
        self.length = length
        self.scores: dict[str, float] = {}
        self._rows: dict[str, list[int] | None] = {}

    def written(self, smiles: Sequence[str]) -> Tensor:
        """Those of the molecules that can be written, int64 `[n, L]`."""
        rows = [row for text in smiles if (row := self._row(text)) is not None]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, self.length)

    def _row(self, smiles: str) -> list[int] | None:
        if smiles not in self._rows:
            try:
                self._rows[smiles] = encode_one(smiles, self.length)[1]
            except MoleculeError:
                self._rows[smiles] = None
        return self._rows[smiles]


class _People:
    """A population: the best `size` molecules that it asked for, best first."""

    def __init__(self, record: _Record, size: int, greed: float):
        self.record, self.size, self.greed = record, size, greed
        self.best: list[str] = []

    @classmethod
    def merged(cls, isles: Sequence[_People], size: int) -> _People:
        """One population of the best of each island."""
        whole = cls(isles[0].record, size, isles[0].greed)
        whole._keep([name for isle in isles for name in isle.best[: size // len(isles)]])
        return whole

    def add(self, smiles: Sequence[str], reward: Scored) -> None:
        """Ask for new molecules; NaN is the worst there is."""
        asked: list[float] = reward.score(smiles, are_canonical=True).nan_to_num(nan=-math.inf).tolist()
        self.record.scores.update(zip(smiles, asked, strict=True))
        self._keep([*self.best, *smiles])

    def parents(self, count: int, rng: np.random.Generator) -> list[str]:
        """`count` molecules by rank, as in `Evolution`."""
        among = np.ceil(len(self.best) * 10 ** (-self.greed * rng.random(count)))
        return [self.best[index] for index in (rng.random(count) * among).astype(int)]

    def elite(self, count: int) -> Tensor:
        """The best molecules, best first, int64 `[E, L]`."""
        return self.record.written(self.best[:count])

    def _keep(self, names: Sequence[str]) -> None:
        self.best = sorted(dict.fromkeys(names), key=self.record.scores.__getitem__, reverse=True)[: self.size]


class _Law:
    """The prior, one site at a time, which may learn; the domain's own stays as it is."""

    def __init__(self, diffusion: Diffusion, learning: Learning | None, generator: torch.Generator):
        self.generator = generator
        self.diffusion = replace(diffusion, denoiser=copy.deepcopy(diffusion.denoiser), sampler=FirstHitting())
        if learning is not None:
            weights = [weight.requires_grad_() for weight in innermost(self.diffusion.denoiser).parameters()]
            self._optimiser = torch.optim.Adam(weights, lr=learning.learning_rate)

    def fill(self, templates: Tensor) -> list[str]:
        """Canonical SMILES of templates int64 `[n, L]` with their masks drawn; "" for no molecule."""
        if not len(templates):
            return []
        return decode(self.diffusion.infill(templates).sample(len(templates), generator=self.generator))

    def learn(self, elite: Tensor, learning: Learning) -> None:
        """Push up the ELBO of molecules int64 `[E, L]`, best first, of which the better are drawn more often."""
        process, denoiser = self.diffusion.process, self.diffusion.denoiser
        for _ in range(learning.steps if len(elite) else 0):
            draw = torch.rand(learning.batch, generator=self.generator, dtype=torch.float64)
            x0 = elite[(draw.square() * len(elite)).long()].to(self.diffusion.device)
            noised = process.noise(x0, generator=self.generator)
            elbo = process.elbo(denoiser(noised.x, noised.t), x0, noised.x, noised.t)
            loss = -(noised.importance * elbo).mean() / x0.shape[1]
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()


def _templates(
    counts: Mapping[str, int], people: _People, longest: int, rng: np.random.Generator, generator: torch.Generator
) -> Tensor:
    """What the prior fills in for the operators remask, splice and draw, int64 `[n, L]`."""
    tokens = people.record.written(people.parents(counts["remask"], rng))
    sizes = rng.integers(1, longest + 1, len(tokens))
    chosen = [torch.from_numpy(np.flatnonzero(sizes == size)) for size in range(1, longest + 1)]
    rows = [
        remask(tokens[rows], words=size, slack=1, generator=generator)
        for size, rows in enumerate(chosen, 1)
        if len(rows)
    ]
    pairs = people.record.written(people.parents(2 * counts["splice"], rng))
    half = len(pairs) // 2
    rows.append(spliced(pairs[:half], pairs[half : 2 * half], rng))
    rows.append(torch.full((counts["draw"], people.record.length), MASK))
    return torch.cat(rows)


def spliced(first: Tensor, second: Tensor, rng: np.random.Generator, most: int = 3) -> Tensor:
    """Templates int64 `[n, L]`: words of the first molecules up to a place, 1 to `most` masks, the second from a place on.

    Args:
        first, second: int64 `[n, L]`, padded at the end.
    """
    n, length = first.shape
    ends = [(tokens != PAD).sum(1).numpy() for tokens in (first, second)]
    left, right = ((rng.random(n) * end).astype(int) for end in ends)  # words of the first; first word of the second
    gap = rng.integers(1, most + 1, n)
    start, after, skip = (torch.from_numpy(each)[:, None] for each in (left, left + gap, right))
    sites = torch.arange(length)
    source = sites - after + skip
    tail = torch.where(source < length, second.gather(1, source.clamp(0, length - 1)), PAD)
    return torch.where(sites < start, first, torch.where(sites < after, MASK, tail))
