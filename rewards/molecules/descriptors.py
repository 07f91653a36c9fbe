"""Properties that are computed from the structure alone, each with its unit, by rdkit's published definitions."""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdkit.Chem import Mol


@dataclass(frozen=True)
class Descriptor:
    """A property by name, in its own unit: Mol -> float. `DESCRIPTORS` says what there is.

    Raises:
        ValueError: no such property; names the nearest.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in DESCRIPTORS:
            near = difflib.get_close_matches(str(self.name), DESCRIPTORS, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"no descriptor {self.name!r}; choose one of {', '.join(DESCRIPTORS)}{hint}")

    def __call__(self, mol: Mol) -> float:
        return float(_FUNCTIONS[self.name](mol))

    @property
    def meaning(self) -> str:
        """What it is, its unit and its source."""
        return DESCRIPTORS[self.name]


#: What each descriptor means.
DESCRIPTORS: dict[str, str] = {
    "qed": "quantitative estimate of drug-likeness, 0 to 1 (Bickerton et al. 2012)",
    "sa": "synthetic accessibility, 1 (easy) to 10 (Ertl and Schuffenhauer 2009)",
    "sa_unit": "(10 - SA) / 9, 1 (easy) to 0",
    "np": "natural-product likeness, about -5 to 5 (Ertl et al. 2008)",
    "logp": "octanol-water partition coefficient, log10 units (Wildman and Crippen 1999)",
    "tpsa": "topological polar surface area, square angstrom (Ertl et al. 2000)",
    "weight": "average molecular weight, g/mol",
    "donors": "hydrogen-bond donors",
    "acceptors": "hydrogen-bond acceptors",
    "rotatable": "rotatable bonds",
    "rings": "rings, of the smallest set",
    "aromatic_rings": "aromatic rings",
    "fsp3": "fraction of carbons that are sp3 (Lovering et al. 2009)",
    "charge": "formal charge, elementary charges",
    "heavy_atoms": "atoms other than hydrogen",
    "bertz": "topological complexity index (Bertz 1981)",
}


def _qed(mol: Mol) -> float:
    from rdkit.Chem import QED

    return float(QED.qed(mol))


def _sa(mol: Mol) -> float:
    return float(_sascorer().calculateScore(mol))


def _sa_unit(mol: Mol) -> float:
    return (10 - _sa(mol)) / 9


def _np(mol: Mol) -> float:
    scorer, model = _npscorer()
    return float(scorer.scoreMol(mol, model))


@cache
def _sascorer() -> Any:
    from rdkit.Contrib.SA_Score import sascorer

    return sascorer


@cache
def _npscorer() -> tuple[Any, Any]:
    """rdkit's scorer and its table of fragments."""
    from rdkit.Contrib.NP_Score import npscorer

    with redirect_stderr(io.StringIO()):  # it reports there that it reads its table
        return npscorer, npscorer.readNPModel()


def _rdkit(module: str, name: str) -> Callable[[Mol], float]:
    """A function of rdkit, imported when it is first called."""

    def compute(mol: Mol) -> float:
        from importlib import import_module

        return float(getattr(import_module(f"rdkit.Chem.{module}"), name)(mol))

    return compute


_FUNCTIONS: dict[str, Callable[[Any], float]] = {
    "qed": _qed,
    "sa": _sa,
    "sa_unit": _sa_unit,
    "np": _np,
    "logp": _rdkit("Crippen", "MolLogP"),
    "tpsa": _rdkit("rdMolDescriptors", "CalcTPSA"),
    "weight": _rdkit("Descriptors", "MolWt"),
    "donors": _rdkit("rdMolDescriptors", "CalcNumHBD"),
    "acceptors": _rdkit("rdMolDescriptors", "CalcNumHBA"),
    "rotatable": _rdkit("rdMolDescriptors", "CalcNumRotatableBonds"),
    "rings": _rdkit("rdMolDescriptors", "CalcNumRings"),
    "aromatic_rings": _rdkit("rdMolDescriptors", "CalcNumAromaticRings"),
    "fsp3": _rdkit("rdMolDescriptors", "CalcFractionCSP3"),
    "charge": _rdkit("rdmolops", "GetFormalCharge"),
    "heavy_atoms": _rdkit("rdMolDescriptors", "CalcNumHeavyAtoms"),
    "bertz": _rdkit("GraphDescriptors", "BertzCT"),
}
