"""Which share of a data set a name falls into: the same on every machine and in every version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def assign(names: Sequence[str], shares: Mapping[str, float], seed: int = 0) -> NDArray[np.str_]:
    """Share that each name falls into, by a hash of the name alone: same name, same share, whatever else is there.

    Args:
        names: for instance genes, scaffolds, or one sequence that stands for its family; length N.
        shares: probability of each share; they must add up to 1.
        seed: another seed gives another split.

    Returns:
        N keys of `shares`.

    Raises:
        ValueError: a negative share, or a sum other than 1.
    """
    check_shares(shares)
    edges = np.cumsum(list(shares.values()))[:-1]
    uniforms = np.array([uniform(f"{seed}:{name}") for name in names])
    return np.array(list(shares))[np.searchsorted(edges, uniforms, side="right")]


def check_shares(shares: Mapping[str, float]) -> None:
    """Raise ValueError unless the shares are probabilities that add up to 1."""
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {dict(shares)} must be at least 0 and add up to 1")


def uniform(text: str) -> float:
    """A number in [0, 1) that looks random and is always the same for a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64
