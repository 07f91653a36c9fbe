"""What runs in worker processes: no torch here, so that they start quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...smiles import MoleculeError, parse
from .profile import Scorer, label

INVALID = math.inf  # the answer where there is no molecule; no scorer gives it


@dataclass(frozen=True)
class Scoring:
    """What runs in the workers: the score of one canonical SMILES."""

    scorer: Scorer
    max_atoms: int

    def __call__(self, smiles: str) -> float:
        try:
            mol = parse(smiles, self.max_atoms)
        except MoleculeError:
            return INVALID
        value = float(self.scorer(mol))
        if value == math.inf:
            raise ValueError(f"{label(self.scorer)} is +inf; expected a finite number, or -inf for never")
        return value
