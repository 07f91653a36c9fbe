"""What natural molecules look like, in numbers small enough to ship: the yardstick of `metrics`.

Natural are here molecules with scaffolds that were held out when the prior was trained. Beside them lies a Bloom filter
of the training molecules, by which `metrics` tells what is new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.storage import StorageError, load_tensors, save_tensors
from ...molecules import decode
from .bloom import Bloom
from .fcd import Moments, moments
from .properties import ALERTS, BITS, DESCRIPTORS, fingerprint, properties, tanimoto

KIND = "molecule reference"


@dataclass(frozen=True, eq=False)
class Reference:
    """Natural molecules and their descriptors.

    Attributes:
        tokens: int64 `[R, L]`.
        descriptors: float32 `[R, D]`, columns as in `DESCRIPTORS`.
        alert_free: share of them in which no structural alert is found, by catalogue.
        known: the training molecules, by canonical SMILES; None where they are not known.
        info: where it comes from; JSON.
    """

    tokens: Tensor
    descriptors: Tensor
    alert_free: Mapping[str, float]
    known: Bloom | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    held_out: ClassVar[bool] = True  # no prior was trained on these molecules

    @classmethod
    def build(cls, tokens: Tensor, known: Sequence[str] = (), info: Mapping[str, Any] | None = None) -> Reference:
        """Statistics of molecules int64 `[R, L]`; `known` are canonical SMILES of what a prior was trained on."""
        found = [properties(smiles) for smiles in decode(tokens)]
        free = {name: sum(name not in each.alerts for each in found) / len(found) for name in ALERTS}
        descriptors = torch.from_numpy(np.stack([each.descriptors for each in found])).float()
        return cls(tokens, descriptors, free, Bloom.build(known) if known else None, dict(info or {}))

    def nearest(self, smiles: Sequence[str]) -> list[tuple[str, float]]:
        """For each molecule the most similar one of these, as SMILES, and their Tanimoto similarity (Morgan, radius 2)."""
        if not smiles or not self._prints[0]:
            return [("", math.nan)] * len(smiles)
        names, prints = self._prints
        alike = tanimoto(np.stack([fingerprint(text) for text in smiles]), prints)
        return [(names[place], float(row[place])) for row, place in zip(alike, alike.argmax(1), strict=True)]

    @cached_property
    def _prints(self) -> tuple[list[str], NDArray[np.uint8]]:
        """SMILES and packed fingerprints `[R, BITS / 8]`: made when they are first needed, which takes seconds."""
        names = [text for text in decode(self.tokens) if text]
        return names, np.stack([fingerprint(text) for text in names]) if names else np.zeros((0, BITS // 8), np.uint8)

    @cached_property
    def chemnet(self) -> Moments:
        """What the Frechet ChemNet distance compares with: made when it is first needed. Raises as `fcd.moments` does."""
        return moments([text for text in decode(self.tokens) if text])

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all. Raises: StorageError if it cannot be written."""
        tensors = {"tokens": self.tokens.to(torch.int16), "descriptors": self.descriptors}
        header: dict[str, Any] = {"kind": KIND, "names": list(DESCRIPTORS), "alert_free": dict(self.alert_free)}
        if self.known is not None:
            tensors["known"] = self.known.table
            header |= {"hashes": self.known.hashes, "count": self.known.count}
        save_tensors(path, tensors, {**header, "info": dict(self.info)})

    @classmethod
    def load(cls, path: str | Path | None = None, name: str = "zinc") -> Reference:
        """The reference in a file, or the shipped one that belongs to the prior `name`.

        Raises:
            StorageError: a file that is corrupt or something else. FileNotFoundError: no such file.
        """
        if path is not None:
            return cls._read(Path(path))
        assets = resources.files(__package__) / "assets"
        own = assets / f"{name}_reference.safetensors"
        with resources.as_file(own if own.is_file() else assets / "zinc_reference.safetensors") as shipped:
            return cls._read(shipped)

    @classmethod
    def _read(cls, path: Path) -> Reference:
        tensors, facts = load_tensors(path, KIND)
        try:
            if facts["names"] != list(DESCRIPTORS):
                raise ValueError(f"its descriptors are {facts['names']}")
            known = Bloom(tensors["known"], facts["hashes"], facts["count"]) if "known" in tensors else None
            molecules, descriptors = tensors["tokens"].long(), tensors["descriptors"]
            if descriptors.shape != (len(molecules), len(DESCRIPTORS)):
                raise ValueError(f"{list(descriptors.shape)} descriptors for {len(molecules)} molecules")
            return cls(molecules, descriptors, dict(facts["alert_free"]), known, dict(facts["info"]))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StorageError(
                f"{path} is not a whole reference ({type(error).__name__}: {error}). Make it again with tiltflow pretrain."
            ) from error
