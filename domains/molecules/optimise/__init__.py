"""Optimisers of molecules under a budget of reward calls: the record of the calls tells how well each spent it.

    from tiltflow.domains import molecules
    from tiltflow.domains.molecules.optimise import GraphGA
    from tiltflow.rewards import Budget, top_auc
    from tiltflow.rewards.molecules import pmo

    reward = pmo("perindopril_mpo", budget=Budget(10_000))
    GraphGA().run(molecules.load(), reward, generator=torch.Generator().manual_seed(0))
    top_auc([call.value for call in reward.budget.calls], limit=10_000)

`tiltflow benchmark=pmo` runs them on the tasks of the PMO benchmark. One of your own is a class with `run`; see `Optimiser`.
"""

from .base import Optimiser, Scored, natural, numpy_generator, rounds, until_spent
from .crossover import crossover
from .evolution import Evolution, Learning
from .graph_ga import GraphGA
from .mutation import mutate
from .search import Search
from .steered import Random, Steered

__all__ = [
    "Evolution",
    "GraphGA",
    "Learning",
    "Optimiser",
    "Random",
    "Scored",
    "Search",
    "Steered",
    "crossover",
    "mutate",
    "natural",
    "numpy_generator",
    "rounds",
    "until_spent",
]
