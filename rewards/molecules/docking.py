"""Docking with AutoDock Vina: how well a molecule fits a pocket, in kcal/mol. Seconds to minutes for each molecule.

Eberhardt, Santos-Martins, Tillack and Forli, Journal of Chemical Information and Modeling 61:3891 (2021). The ligand is
built by rdkit (ETKDG, Riniker and Landrum 2015, then MMFF94) and written as PDBQT by meeko.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_PACKAGES = ("vina", "meeko", "scipy")  # meeko needs scipy without saying so


class DockingError(RuntimeError):
    """A molecule that could not be built or docked; the message says at which step."""


@dataclass(frozen=True)
class Docking:
    """Binding energy that Vina predicts, kcal/mol: the lower, the better it binds, so minimise it (or give it a curve).

    It is a black box of seconds: give the `Molecular` around it a timeout, workers and a cache_file. The same molecule
    gets the same energy each time, since its shape and the search start from `seed`.

    Args:
        receptor: PDBQT file of the rigid receptor.
        center: of the box, x, y, z in angstrom, in the receptor's frame.
        size: of the box, three lengths in angstrom.
        exhaustiveness: how long Vina searches; its own default is 8.
        seed: of the conformer and of the search.
        cpus: threads of one search; with several workers, 1.

    Raises:
        ImportError: vina or meeko is missing; names the extra.
        FileNotFoundError: no receptor file.
        ValueError: an impossible box or number.
    """

    receptor: str | os.PathLike[str]
    center: Sequence[float]
    size: Sequence[float]
    exhaustiveness: int = 8
    seed: int = 1
    cpus: int = 1

    def __post_init__(self) -> None:
        path = Path(self.receptor).expanduser()
        object.__setattr__(self, "receptor", str(path))
        object.__setattr__(self, "center", tuple(map(float, self.center)))
        object.__setattr__(self, "size", tuple(map(float, self.size)))
        _check(self)
        _require()
        if not path.is_file():
            raise FileNotFoundError(
                f"no receptor {path}; expected a PDBQT file (meeko's mk_prepare_receptor.py makes one)"
            )

    def __call__(self, mol: Mol) -> float:
        """Raises DockingError where no conformer, no PDBQT or no pose can be made."""
        engine = _engine(self)
        text = ligand(mol, self.seed)
        try:
            engine.set_ligand_from_string(text)
            engine.dock(exhaustiveness=self.exhaustiveness, n_poses=1)
            return float(engine.energies(n_poses=1)[0][0])
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            raise DockingError(f"Vina could not dock it: {error}") from error

    @property
    def name(self) -> str:
        """In reports."""
        return f"docking to {Path(self.receptor).stem}"


def ligand(mol: Mol, seed: int = 1) -> str:
    """PDBQT text of one low-energy conformer, hydrogens added.

    Raises:
        DockingError: no conformer, or atoms that meeko cannot type.
    """
    from meeko import MoleculePreparation, PDBQTWriterLegacy
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    with rdBase.BlockLogs():
        whole = Chem.AddHs(mol)
        if rdDistGeom.EmbedMolecule(whole, randomSeed=seed) != 0:
            raise DockingError("rdkit found no conformer for it")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(whole):
            rdForceFieldHelpers.MMFFOptimizeMolecule(whole)
    try:
        setups = MoleculePreparation().prepare(whole)
        text, good, error = PDBQTWriterLegacy.write_string(setups[0])
    except Exception as problem:  # meeko raises what it happens to raise
        raise DockingError(f"meeko could not prepare it: {problem}") from problem
    if not good:
        raise DockingError(f"meeko could not write it: {error}")
    return str(text)


@lru_cache(maxsize=2)
def _engine(docking: Docking) -> Any:
    """Vina with the receptor's maps, which take seconds, made once per process."""
    from vina import Vina

    engine = Vina(sf_name="vina", cpu=docking.cpus, seed=docking.seed, verbosity=0)
    engine.set_receptor(docking.receptor)
    engine.compute_vina_maps(center=list(docking.center), box_size=list(docking.size))
    return engine


def _require() -> None:
    from importlib.util import find_spec

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"docking needs {', '.join(missing)}: pip install 'tiltflow[docking]'")


def _check(docking: Docking) -> None:
    for name in ("center", "size"):
        values = getattr(docking, name)
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise ValueError(f"{name} {values}: expected three finite lengths in angstrom")
    if min(docking.size) <= 0:
        raise ValueError(f"size {docking.size}: expected lengths above 0, in angstrom")
    for name in ("exhaustiveness", "cpus"):
        value = getattr(docking, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} {value!r}: expected a whole number, at least 1")
