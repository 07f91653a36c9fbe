"""Several properties of a molecule in one number: what is wanted of each, how much it counts, and what must hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .curves import Curve

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Scorer = Callable[[Any], float]  # an rdkit Mol -> a number; -inf means never
How = Literal["mean", "geometric", "chebyshev"]


@dataclass(frozen=True)
class Part:
    """A property and what is wanted of it.

    Args:
        scorer: Mol -> number, in the property's unit.
        curve: property -> desirability, 0 to 1; None takes the property as it is.
        weight: > 0.
        name: in reports (default: the scorer's own).
    """

    scorer: Scorer
    curve: Curve | None = None
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.scorer) or not (self.curve is None or callable(self.curve)):
            raise TypeError(f"{self.scorer!r}, {self.curve!r}: expected a scorer (Mol -> number) and a curve, or None")
        if isinstance(self.weight, bool) or not 0 < self.weight < math.inf:
            raise ValueError(f"weight {self.weight!r} of {self.label}: expected a number > 0; the curve says which way")

    def __call__(self, mol: Mol) -> float:
        value = self.scorer(mol)
        return value if self.curve is None or value == -math.inf else self.curve(value)

    @property
    def label(self) -> str:
        """Name in reports."""
        return self.name or label(self.scorer)


@dataclass(frozen=True)
class Profile:
    """A scorer made of parts d_i with weights w_i, under rules that each give 0 or -inf.

        mean        sum_i w_i d_i / sum_i w_i
        geometric   (prod_i d_i^w_i)^(1 / sum_i w_i)     one useless part makes the whole useless
        chebyshev   1 - max_i w_i (1 - d_i) - rho sum_i w_i (1 - d_i)     the worst part counts, the rest breaks ties

    Derringer and Suich, Journal of Quality Technology 12:214 (1980), eq. 3, for the geometric mean; Steuer and Choo,
    Mathematical Programming 26:326 (1983), for the augmented Chebyshev distance from the ideal, here all d_i = 1.

    Args:
        parts: at least one, with distinct names.
        how: see above.
        rules: scorers of 0 or -inf, asked first.
        rho: of chebyshev, >= 0.

    Raises:
        ValueError: no part, one name twice, an unknown `how`; when called, a part outside [0, inf) in a geometric mean.
    """

    parts: Sequence[Part]
    how: How = "geometric"
    rules: Sequence[Scorer] = ()
    rho: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.parts or not all(isinstance(part, Part) for part in self.parts):
            raise ValueError(f"parts {self.parts!r}: expected at least one Part(scorer, curve, weight)")
        labels = [part.label for part in self.parts]
        twice = sorted({name for name in labels if labels.count(name) > 1})
        if twice:
            raise ValueError(f"two parts are called {', '.join(twice)}; give them a name=")
        if self.how not in ("mean", "geometric", "chebyshev"):
            raise ValueError(f"how {self.how!r}: expected 'mean', 'geometric' or 'chebyshev'")
        if isinstance(self.rho, bool) or not 0 <= self.rho < math.inf:
            raise ValueError(f"rho {self.rho!r}: expected a number >= 0")

    def __call__(self, mol: Mol) -> float:
        if any(rule(mol) == -math.inf for rule in self.rules):
            return -math.inf
        return self.combine([part(mol) for part in self.parts])

    def values(self, mol: Mol) -> dict[str, float]:
        """Each part's own number by name, for reports."""
        return {part.label: part(mol) for part in self.parts}

    def combine(self, values: Sequence[float]) -> float:
        """One number from the parts' numbers, in the order of `parts`."""
        if -math.inf in values:
            return -math.inf
        weights = [part.weight for part in self.parts]
        if self.how == "mean":
            return sum(w * d for w, d in zip(weights, values, strict=True)) / sum(weights)
        if self.how == "geometric":
            return self._geometric(values, weights)
        misses = [w * (1 - d) for w, d in zip(weights, values, strict=True)]
        return 1 - max(misses) - self.rho * sum(misses)

    def _geometric(self, values: Sequence[float], weights: Sequence[float]) -> float:
        for part, value in zip(self.parts, values, strict=True):
            if value < 0:
                raise ValueError(
                    f"{part.label} is {value:g}: a geometric mean needs numbers >= 0; give the part a curve"
                )
        if 0 in values:
            return 0.0
        return math.exp(sum(w * math.log(d) for w, d in zip(weights, values, strict=True)) / sum(weights))

    @property
    def name(self) -> str:
        """In reports."""
        return f"{self.how} of {', '.join(part.label for part in self.parts)}"


def label(scorer: object) -> str:
    """What to call a scorer: its name, or what it is."""
    for attribute in ("name", "__name__"):
        name = getattr(scorer, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(scorer).__name__
