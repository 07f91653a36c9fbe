"""What every domain hands over: one object; the core never sees more of it than its `diffusion`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..core.diffusion import Diffusion


class Codec(Protocol):
    """Text and files to tensors and back, with errors that name file, line and fix."""

    def encode(self, sequences: list[str]) -> Tensor: ...

    def decode(self, tokens: Tensor) -> list[str]: ...


class Metrics(Protocol):
    """JSON-ready figures of a set of samples."""

    def __call__(
        self, x: Tensor, *, reward: Tensor | None = None, heldout: Tensor | None = None, nelbo: Tensor | None = None
    ) -> Mapping[str, float | int | None]: ...


class Export(Protocol):
    """Write samples in the field's own formats: returns the files written."""

    def __call__(self, folder: Path, samples: Any, columns: Mapping[str, Any]) -> list[Path]: ...


@dataclass(frozen=True)
class Domain:
    """A pretrained model together with all that its field needs around it.

    Attributes:
        name: as in `tiltflow domain=<name>`.
        diffusion: the pretrained law.
        alphabet: tokens in index order, which a reward's `alphabet` must equal; None for continuous domains.
        codec: text and files <-> tensors.
        metrics: figures of a set of samples against the reference.
        export: writes samples in the field's formats.
        reference: statistics of natural data that metrics and figures compare with.
        constraints: what the sampler enforces, in words, for reports; empty where nothing is constrained.
        source: where the model came from: asset or file, and its card's figures.
    """

    name: str
    diffusion: Diffusion
    alphabet: str | None
    codec: Any
    metrics: Metrics
    export: Export
    reference: Any
    constraints: str = ""
    source: str = ""


def check_reward(domain: Domain, reward: Any) -> None:
    """Refuse a reward made for another alphabet.

    Raises:
        ValueError: the reward's `alphabet` is not the domain's.
    """
    alphabet = getattr(reward, "alphabet", None)
    if alphabet is not None and alphabet != domain.alphabet:
        name = getattr(reward, "__name__", type(reward).__name__)
        raise ValueError(
            f"Reward {name} takes tokens of {alphabet!r}, and domain {domain.name} gives {domain.alphabet!r}. "
            "Choose a reward made for this domain."
        )
