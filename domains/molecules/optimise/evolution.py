"""Evolution of molecules in which the diffusion model writes the mutations, and learns on the way from what was good."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

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

Operator = Literal["remask", "splice", "crossover", "mutate", "draw"]
OPERATORS: tuple[Operator, ...] = ("remask", "splice", "crossover", "mutate", "draw")
_FORGET = 0.98  # a generation: how fast old successes of an operator stop to count
_FLOOR = 0.05  # smallest share of an operator that is switched on


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
    """A population of molecules whose children come from several operators, each used as often as it succeeds.

    * remask: a run of words of a parent is masked and drawn again by the prior (as GenMol does: Lee et al. 2025);
    * splice: the first words of one parent and the last of another, with words drawn between them;
    * crossover, mutate: the graph operators of the genetic algorithm (Jensen 2019), see `crossover` and `mutate`;
    * draw: a new sample of the prior, which by then has learned (`learning`).

    Parents are drawn by rank as Tripp & Hernandez-Lobato (2023) do: evenly among the best share 10^-u of the population,
    u even on [0, 3]. An operator's part of the next generation goes with how often its children beat their parents.

    Args:
        population: molecules that parents are drawn from, the best ever asked for.
        offspring: children of a generation.
        start: molecules of the first generation, natural ones at random.
        operators: which are used.
        longest: most words that are drawn anew in a child.
        learning: None leaves the prior as it is.
    """

    population: int = 1000
    offspring: int = 40
    start: int = 200
    operators: Sequence[Operator] = OPERATORS
    longest: int = 6
    learning: Learning | None = Learning()

    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("population", "offspring", "start"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of at least 2")
        unknown = [name for name in self.operators if name not in OPERATORS]
        if unknown or not self.operators:
            raise ValueError(f"operators are {list(self.operators)}; expected some of {', '.join(OPERATORS)}")
        if self.longest < 1:
            raise ValueError(f"longest is {self.longest}; expected at least 1 word")

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
        people = _People(self.population, domain.diffusion.shape[0])
        shares = _Shares(self.operators)
        with until_spent(reward):
            people.add(natural(domain, self.start, rng), reward)
            for _ in rounds(reward, on_round):
                counts = shares.divide(self.offspring, rng)
                children = _children(counts, people, law, self.longest, rng)
                shares.learn([child.operator for child in children], people.beaten(children, reward))
                if self.learning is not None and len(people.scores) >= self.learning.start:
                    law.learn(people.elite(self.learning.elite), self.learning)


@dataclass(frozen=True)
class _Child:
    """A molecule to ask for: its canonical SMILES, who made it, and the best score of its parents."""

    smiles: str
    operator: Operator
    bar: float


class _People:
    """All molecules that were asked for; the best `size` are the population, best first."""

    def __init__(self, size: int, length: int):
        self.size, self.length = size, length
        self.scores: dict[str, float] = {}
        self.best: list[str] = []
        self._rows: dict[str, list[int] | None] = {}

    def add(self, smiles: Sequence[str], reward: Scored) -> list[float]:
        """Ask for new molecules; NaN is the worst there is. Their scores."""
        asked: list[float] = reward.score(smiles, are_canonical=True).nan_to_num(nan=-math.inf).tolist()
        self.scores.update(zip(smiles, asked, strict=True))
        self.best = sorted([*self.best, *smiles], key=self.scores.__getitem__, reverse=True)[: self.size]
        return asked

    def beaten(self, children: Sequence[_Child], reward: Scored) -> list[bool]:
        """Ask for the children; which of them are better than the best of their parents."""
        scores = self.add([child.smiles for child in children], reward)
        return [score > child.bar for score, child in zip(scores, children, strict=True)]

    def parents(self, count: int, rng: np.random.Generator) -> list[str]:
        """`count` molecules by rank, as in `Evolution`."""
        among = np.ceil(len(self.best) * 10 ** (-3 * rng.random(count)))
        return [self.best[index] for index in (rng.random(count) * among).astype(int)]

    def written(self, smiles: Sequence[str]) -> tuple[list[str], Tensor]:
        """Those of the molecules that can be written as words, and these: int64 `[n, L]`."""
        rows = {text: row for text in smiles if (row := self._row(text)) is not None}
        kept = [text for text in smiles if text in rows]
        return kept, torch.tensor([rows[text] for text in kept], dtype=torch.int64).reshape(-1, self.length)

    def elite(self, count: int) -> Tensor:
        """The best molecules, best first, int64 `[E, L]`."""
        return self.written(self.best[:count])[1]

    def _row(self, smiles: str) -> list[int] | None:
        if smiles not in self._rows:
            try:
                self._rows[smiles] = encode_one(smiles, self.length)[1]
            except MoleculeError:
                self._rows[smiles] = None
        return self._rows[smiles]


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


class _Shares:
    """How much each operator makes, by how often its children beat their parents; old generations are forgotten."""

    def __init__(self, operators: Sequence[Operator]):
        self.operators = tuple(operators)
        self.won = np.ones(len(self.operators))
        self.tried = np.full(len(self.operators), 2.0)

    def divide(self, count: int, rng: np.random.Generator) -> dict[Operator, int]:
        """How many of `count` children each operator makes."""
        rate = self.won / self.tried
        floor = min(_FLOOR, 1 / len(rate))
        parts = rng.multinomial(count, floor + (1 - floor * len(rate)) * rate / rate.sum())
        return dict(zip(self.operators, parts.tolist(), strict=True))

    def learn(self, made: Sequence[Operator], won: Sequence[bool]) -> None:
        """Enter who made the children of a generation, and which of them beat their parents."""
        self.won *= _FORGET
        self.tried *= _FORGET
        for operator, success in zip(made, won, strict=True):
            place = self.operators.index(operator)
            self.tried[place] += 1
            self.won[place] += success


def _children(
    counts: dict[Operator, int], people: _People, law: _Law, longest: int, rng: np.random.Generator
) -> list[_Child]:
    """A generation: molecules that were never asked for."""
    made: list[tuple[Operator, tuple[str, ...], str | None]] = []  # operator, parents, child
    for operator in ("crossover", "mutate"):
        for _ in range(counts.get(operator, 0)):
            parents = people.parents(2 if operator == "crossover" else 1, rng)
            born = crossover((parents[0], parents[-1]), rng) if operator == "crossover" else mutate(parents[0], rng)
            made.append((operator, tuple(parents), born))
    sources, templates = _templates(counts, people, longest, rng, law.generator)
    drawn = law.fill(templates) if len(templates) else []
    made += [(operator, parents, born) for (operator, parents), born in zip(sources, drawn, strict=True)]
    children: dict[str, _Child] = {}
    for operator, parents, born in made:
        if born and born not in people.scores:
            bar = max((people.scores[parent] for parent in parents), default=people.scores[people.best[0]])
            children.setdefault(born, _Child(born, operator, bar))
    return list(children.values())


def _templates(
    counts: dict[Operator, int], people: _People, longest: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[list[tuple[Operator, tuple[str, ...]]], Tensor]:
    """(operator, parents) of each template, and the templates int64 `[n, L]`."""
    sources: list[tuple[Operator, tuple[str, ...]]] = []
    rows: list[Tensor] = []
    names, tokens = people.written(people.parents(counts.get("remask", 0), rng))
    sizes = rng.integers(1, longest + 1, len(names))
    for size in range(1, longest + 1):
        chosen = np.flatnonzero(sizes == size)
        if len(chosen):
            rows.append(remask(tokens[torch.from_numpy(chosen)], words=size, slack=1, generator=generator))
            sources += [("remask", (names[index],)) for index in chosen]
    names, tokens = people.written(people.parents(2 * counts.get("splice", 0), rng))
    half = len(names) // 2
    rows.append(spliced(tokens[:half], tokens[half : 2 * half], rng))
    sources += [("splice", pair) for pair in zip(names[:half], names[half : 2 * half], strict=True)]
    rows.append(torch.full((counts.get("draw", 0), people.length), MASK))
    sources += [("draw", ())] * counts.get("draw", 0)
    return sources, torch.cat(rows)


def spliced(first: Tensor, second: Tensor, rng: np.random.Generator, most: int = 3) -> Tensor:
    """Templates int64 `[n, L]`: words of the first molecules up to a place, 1 to `most` masks, the second from a place on.

    Args:
        first, second: int64 `[n, L]`, padded at the end.
    """
    n, length = first.shape
    ends = [(tokens != PAD).sum(1).numpy() for tokens in (first, second)]
    left, right = ((rng.random(n) * end).astype(int) for end in ends)  # words of the first; first word of the second
    gap = rng.integers(1, most + 1, n)
    start, after, gap, skip = (torch.from_numpy(each)[:, None] for each in (left, left + gap, gap, right))
    sites = torch.arange(length)
    source = sites - after + skip
    tail = torch.where(source < length, second.gather(1, source.clamp(0, length - 1)), PAD)
    return torch.where(sites < start, first, torch.where(sites < after, MASK, tail))
