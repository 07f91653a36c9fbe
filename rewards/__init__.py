"""What to optimise: numbers for clean samples, higher is better.

Everything is imported where it is first used, so that this package costs nothing to import.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..lazily import lazily

if TYPE_CHECKING:
    from .blackbox import BlackBox, BlackBoxError
    from .budget import Budget, BudgetSpentError, top_auc
    from .compose import Chebyshev, GeometricMean, Require, Sum, Target, Term
    from .expression import expression
    from .learned import CnnSettings, fit_cnn, fit_kmer_ridge, fitted
    from .motifs import MotifOccupancy
    from .pareto import hypervolume, pareto_front
    from .sequences import ForbiddenSites, GcWindow, Homopolymer, MaxEdits, Repeats

__all__ = [
    "BlackBox",
    "BlackBoxError",
    "Budget",
    "BudgetSpentError",
    "Chebyshev",
    "CnnSettings",
    "ForbiddenSites",
    "GcWindow",
    "GeometricMean",
    "Homopolymer",
    "MaxEdits",
    "MotifOccupancy",
    "Repeats",
    "Require",
    "Sum",
    "Target",
    "Term",
    "expression",
    "fit_cnn",
    "fit_kmer_ridge",
    "fitted",
    "hypervolume",
    "pareto_front",
    "top_auc",
]

_HOMES = {
    "blackbox": ("BlackBox", "BlackBoxError"),
    "budget": ("Budget", "BudgetSpentError", "top_auc"),
    "compose": ("Chebyshev", "GeometricMean", "Require", "Sum", "Target", "Term"),
    "expression": ("expression",),
    "learned": ("CnnSettings", "fit_cnn", "fit_kmer_ridge", "fitted"),
    "motifs": ("MotifOccupancy",),
    "pareto": ("hypervolume", "pareto_front"),
    "sequences": ("ForbiddenSites", "GcWindow", "Homopolymer", "MaxEdits", "Repeats"),
}


__getattr__, __dir__ = lazily(__name__, _HOMES)


class _Package(ModuleType):
    """Keeps `expression` the function: the first import of the submodule so called would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
