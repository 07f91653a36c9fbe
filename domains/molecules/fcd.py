"""The Frechet ChemNet distance (Preuer et al., Journal of Chemical Information and Modeling 58:1736, 2018), an extra.

ChemNet is a network of convolutions and LSTMs that predicts bioassays from SMILES; its last layer but one has 512 numbers a
molecule. With their means m and covariances C over two sets of molecules, as if both were Gaussian,

    FCD = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

Small sets have a large distance even from their own source, so only sets of the same size can be compared.

Weights, layers and the way SMILES are read are those of fcd-torch (MIT), which lie in that package: nothing is downloaded, and
the file is read as tensors and plain containers only, so that it executes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

WEIGHTS = "ChemNet_v0.13_pretrained.pt"
ROWS = 256  # molecules a forward


class Moments(NamedTuple):
    """Mean `[512]` and covariance `[512, 512]` of the activations of a set, float64, and how many molecules it has."""

    mean: Tensor
    covariance: Tensor
    molecules: int


def available() -> bool:
    """Whether fcd-torch is installed."""
    return find_spec("fcd_torch") is not None


def distance(smiles: Sequence[str], other: Sequence[str] | Moments) -> float:
    """FCD of two sets of canonical SMILES, >= 0; NaN where one has fewer than two molecules.

    Args:
        other: SMILES too, or their `moments`, to have them once.

    Raises:
        ModuleNotFoundError: fcd-torch is not installed; says how to.
    """
    theirs = other if isinstance(other, Moments) else moments(other)
    return frechet(moments(smiles), theirs)


def moments(smiles: Sequence[str]) -> Moments:
    """Mean and covariance of ChemNet's activations. Raises as `distance` does."""
    found = activations(smiles).double()
    many = len(found) > 1
    covariance = torch.cov(found.T) if many else torch.full((found.shape[1],) * 2, math.nan, dtype=torch.float64)
    return Moments(found.mean(0), covariance, len(found))


def frechet(one: Moments, other: Moments) -> float:
    """The distance of two Gaussians; tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2)."""
    if min(one.molecules, other.molecules) < 2:
        return math.nan
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    both = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    apart = (one.mean - other.mean).square().sum()
    return max(0.0, float(apart + one.covariance.trace() + other.covariance.trace() - 2 * both))


@torch.no_grad()
def activations(smiles: Sequence[str]) -> Tensor:
    """ChemNet's last layer but one, float32 `[N, 512]`, of canonical SMILES. Raises as `distance` does."""
    network, read = _chemnet()
    texts = list(dict.fromkeys(smiles))
    parts = [texts[start : start + ROWS] for start in range(0, len(texts), ROWS)]
    rows = [network(torch.stack([torch.from_numpy(row) for row in map(read, part)]).transpose(1, 2)) for part in parts]
    found = torch.cat(rows) if rows else torch.zeros(0, 512)
    place = {text: index for index, text in enumerate(texts)}
    return found[[place[text] for text in smiles]]


@cache
def _chemnet() -> tuple[torch.nn.Module, Any]:
    """The network, and what makes float32 `[350, 35]` of a SMILES."""
    try:
        from fcd_torch import utils
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The Frechet ChemNet distance needs fcd-torch: pip install 'tiltflow[fcd]'."
        ) from error
    with as_file(files("fcd_torch") / WEIGHTS) as path:
        network = utils.load_imported_model(torch.load(path, weights_only=True))
    data = utils.SmilesDataset([], canonize=False)

    def read(text: str) -> Any:
        data.smiles_list = [text]
        return data[0].astype("float32")

    return network.eval().requires_grad_(False), read
