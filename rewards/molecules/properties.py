"""Measured properties, read off the structure by shipped oracles: logD at pH 7.4, and solubility in water.

Two oracles for each property that share no training molecule and no ring scaffold, and see molecules differently: one to
optimise, and one, held out, to judge by. Each is a kernel ridge regression on landmark molecules z_j:

    y(x) = offset + sum_j w_j k(x, z_j),   k = a minmax(x, z) + (1 - a) exp(-|d(x) - d(z)|^2 / (2 l^2))

minmax is the Tanimoto similarity of feature counts (a kernel: Ralaivola et al., Neural Networks 18:1093, 2005), d the
standardised descriptors. The weights solve (K'K + penalty K_zz) w = K'(y - offset) (Smola and Schoelkopf, ICML 2000).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .descriptors import Descriptor

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: What each property is, and its unit.
PROPERTIES = {
    "logd": "octanol-water distribution coefficient at pH 7.4, log10 units",
    "logs": "solubility in water, log10 of mol/L",
}
SEEN = ("logp", "tpsa", "weight", "donors", "acceptors", "rotatable", "rings", "aromatic_rings", "fsp3", "charge")
BITS = 1024
FORMAT = "tiltflow molecular property 1"
_CLIP = 4.0  # standard deviations: beyond, a descriptor says "far" and not how far

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Property:
    """A measured property as a scorer, in its own unit: Mol -> float; see the cards in `assets` for how far to trust it.

    Args:
        name: one of `PROPERTIES`.
        heldout: the judge instead of the oracle to optimise.

    Raises:
        ValueError: no such property; names the nearest.
    """

    name: str
    heldout: bool = False

    def __post_init__(self) -> None:
        if self.name not in PROPERTIES:
            near = difflib.get_close_matches(str(self.name), PROPERTIES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no measured property {self.name!r}; choose one of {', '.join(PROPERTIES)}{hint}")

    def __call__(self, mol: Mol) -> float:
        return self.model(mol)

    def interval(self, mol: Mol) -> tuple[float, float]:
        """Where the measured value is in 9 of 10 cases, for molecules like those of the test scaffolds."""
        value, half = self.model(mol), float(self.model.facts["half_width"])
        return value - half, value + half

    @property
    def model(self) -> KernelModel:
        """The oracle behind it, with its facts."""
        return _asset(asset_name(self.name, self.heldout))


@dataclass(frozen=True, eq=False)
class KernelModel:
    """A fitted kernel ridge regression on M landmark molecules.

    Attributes:
        kind: fingerprint, "ecfp4" or "ap", folded to `BITS` counts.
        share: a of the kernel, the part of the fingerprint; 1: no descriptors. width: l of the kernel.
        counts: uint8 `[M, BITS]`; described: float32 `[M, D]`, standardised descriptors of the landmarks.
        mean, std: of the descriptors, `[D]`.
        weights: `[M]`; offset: in the property's unit.
        facts: JSON-ready: how it was made and how good it is.
    """

    kind: str
    share: float
    width: float
    counts: NDArray[np.uint8]
    described: Floats
    mean: Floats
    std: Floats
    weights: Floats
    offset: float
    facts: Mapping[str, Any]

    def __call__(self, mol: Mol) -> float:
        """Predicted value, in the property's unit."""
        counts = folded(mol, self.kind)[None]
        described = standardised(descriptors(mol)[None], self.mean, self.std)
        row = kernel(counts, described, self.counts, self.described, self.share, self.width)
        return float(self.offset + row[0] @ self.weights)


def folded(mol: Mol, kind: str) -> NDArray[np.uint8]:
    """Feature counts uint8 `[BITS]`, cut at 255."""
    return np.minimum(_generator(kind).GetCountFingerprintAsNumPy(mol), 255).astype(np.uint8)


def descriptors(mol: Mol) -> Floats:
    """Those of `SEEN`, `[D]`, each in its unit."""
    return np.array([Descriptor(name)(mol) for name in SEEN])


def standardised(values: Floats, mean: Floats, std: Floats) -> Floats:
    """Descriptors `[N, D]` in standard deviations from the mean, cut where they are far out."""
    return np.clip((values - mean) / std, -_CLIP, _CLIP)


def kernel(
    counts: NDArray[np.uint8],
    described: Floats,
    landmark_counts: NDArray[np.uint8],
    landmark_described: Floats,
    share: float,
    width: float,
) -> Floats:
    """k of N molecules with M landmarks, `[N, M]`; see the module's docstring."""
    likeness = minmax(counts, landmark_counts)
    if share == 1:
        return likeness
    apart = ((described[:, None] - landmark_described[None]) ** 2).sum(-1)
    return share * likeness + (1 - share) * np.exp(-apart / (2 * width**2))


def minmax(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Floats:
    """sum min(a, b) / sum max(a, b) of all rows of `[N, P]` with all of `[M, P]`: `[N, M]`; 0 for two empty rows."""
    sizes = other.sum(1, dtype=np.int64)
    table = np.zeros((len(one), len(other)))
    for row, counts in enumerate(one):
        there = np.flatnonzero(counts)
        shared = np.minimum(counts[there], other[:, there]).sum(1, dtype=np.int64)
        table[row] = shared / np.maximum(counts.sum(dtype=np.int64) + sizes - shared, 1)
    return table


def asset_name(name: str, heldout: bool) -> str:
    """File name of a shipped oracle, without its ending."""
    return f"{name}_heldout" if heldout else name


def read_model(path: str | Path) -> KernelModel:
    """A file written by `tiltflow.rewards.molecules.train_properties`.

    Read here and not by `tiltflow.core.storage`, which loads torch: worker processes do without.

    Raises:
        ValueError: something else, or cut short.
        FileNotFoundError: no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {}).get("tiltflow", "{}"))
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
        if facts.get("format") != FORMAT:
            raise ValueError("written by something else")
        return _restored(arrays, facts)
    except (SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not an oracle of a molecular property ({error}); make it again") from error


def _restored(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> KernelModel:
    lengths = arrays["lengths"].astype(np.int64)
    counts = np.zeros((len(lengths), BITS), dtype=np.uint8)
    counts[np.repeat(np.arange(len(lengths)), lengths), arrays["features"].astype(np.int64)] = arrays["counts"]
    described, mean, std, weights = (arrays[name].astype(float) for name in ("described", "mean", "std", "weights"))
    if described.shape != (len(lengths), len(SEEN)) or weights.shape != lengths.shape:
        raise ValueError("arrays of shapes that do not fit each other")
    kind, share, width, offset = (facts[name] for name in ("kind", "share", "width", "offset"))
    return KernelModel(kind, share, width, counts, described, mean, std, weights, offset, facts)


@cache
def _asset(name: str) -> KernelModel:
    """A shipped oracle, read once per process."""
    with as_file(files(__package__) / "assets" / f"{name}.safetensors") as path:
        return read_model(path)


@cache
def _generator(kind: str) -> Any:
    from rdkit.Chem import rdFingerprintGenerator as made

    if kind == "ap":
        return made.GetAtomPairGenerator(maxDistance=10, fpSize=BITS, countSimulation=False)
    return made.GetMorganGenerator(radius=2, fpSize=BITS)
