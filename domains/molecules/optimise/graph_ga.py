"""The graph-based genetic algorithm of Jensen (Chemical Science 10:3567, 2019), the classic baseline of the PMO benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ...base import Domain
from .base import OnRound, Scored, distinct, natural, numpy_generator, rounds, until_spent
from .crossover import crossover
from .mutation import mutate

_FLOOR = 1e-10  # chance of a parent whose score is 0, relative to one of score 1


@dataclass(frozen=True)
class GraphGA:
    """A population of molecules, of which pairs are crossed and some children mutated; the best of old and new stay.

    Each generation `offspring` parents are drawn in proportion to their scores, then as many pairs of them; a child is
    mutated with probability `mutation_rate`. The defaults are those of the PMO benchmark (Gao et al., NeurIPS 2022). The
    benchmark ends a run once it stagnates; this one goes on until the budget is spent. Molecules that were asked before
    cost no call.

    Args:
        population: molecules that are kept, and natural ones that it starts from.
        offspring: children of a generation.
        mutation_rate: share of children that are mutated.
    """

    population: int = 120
    offspring: int = 70
    mutation_rate: float = 0.067

    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("population", "offspring"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of at least 2")
        if not 0 <= self.mutation_rate <= 1:
            raise ValueError(f"mutation_rate is {self.mutation_rate}; expected a share between 0 and 1")

    def run(
        self, domain: Domain, reward: Scored, *, generator: torch.Generator, on_round: OnRound | None = None
    ) -> None:
        """See `Optimiser.run`."""
        rng = numpy_generator(generator)
        with until_spent(reward):
            people = self._best({}, natural(domain, self.population, rng), reward)
            for _ in rounds(reward, on_round):
                people = self._best(people, self._children(people, rng), reward)

    def _children(self, people: dict[str, float], rng: np.random.Generator) -> list[str]:
        """Children that are molecules and not in the population."""
        pool = parents(people, self.offspring, rng)
        pairs = rng.integers(len(pool), size=(self.offspring, 2))
        born = [self._child((pool[a], pool[b]), rng) for a, b in pairs]
        return [smiles for smiles in distinct(born) if smiles not in people]

    def _child(self, pair: tuple[str, str], rng: np.random.Generator) -> str:
        child = crossover(pair, rng)
        if child is not None and rng.random() < self.mutation_rate:
            child = mutate(child, rng) or child
        return child or ""

    def _best(self, people: dict[str, float], new: list[str], reward: Scored) -> dict[str, float]:
        """The best molecules and their scores, NaN counting as the worst there is."""
        scores = reward.score(new, are_canonical=True).nan_to_num(nan=-torch.inf).tolist()
        together = people | dict(zip(new, scores, strict=True))
        order = sorted(together, key=together.__getitem__, reverse=True)
        return {smiles: together[smiles] for smiles in order[: self.population]}


def parents(people: dict[str, float], count: int, rng: np.random.Generator) -> list[str]:
    """`count` molecules drawn with replacement in proportion to their scores; of negative scores the lowest counts as 0."""
    scores = np.array(list(people.values()))
    finite = scores[np.isfinite(scores)]
    least = min(0.0, float(finite.min())) if len(finite) else 0.0
    weights = np.where(np.isfinite(scores), scores - least, 0.0) + _FLOOR
    names = list(people)
    return [names[index] for index in rng.choice(len(names), size=count, p=weights / weights.sum())]
