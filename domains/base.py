"""What every domain hands over: one object; the core never sees more of it than its `diffusion`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..core.denoiser import Restricted
from ..core.diffusion import Diffusion
from ..core.pretraining import nelbo

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Codec(Protocol):
    """Text and files to tensors and back, with errors that name file, line and fix."""

    def encode(self, sequences: list[str]) -> Tensor: ...

    def decode(self, tokens: Tensor) -> list[str]: ...


class Metrics(Protocol):
    """JSON-ready figures of a set of samples.

    `meanings`, where the object has it, says for each key what the number means, with its unit.
    """

    def __call__(
        self, x: Tensor, *, reward: Tensor | None = None, heldout: Tensor | None = None, nelbo: Tensor | None = None
    ) -> Mapping[str, float | int | None]: ...


class Drawing(NamedTuple):
    """A figure of a report."""

    name: str  # of its file, without an ending
    figure: Figure
    caption: str  # what to see in it, in a sentence or two


class Figures(Protocol):
    """Draw what only this field can: each set has `.x` `[n, *shape]` and `.reward`, `.nelbo` float64 `[n]` (or None).

    The sets are "pretrained", "steered", and "natural" where the domain has natural data. Reports draw rewards, naturalness
    and the trace themselves (`domains.figures`).
    """

    def __call__(self, sets: Mapping[str, Any]) -> Iterable[Drawing]: ...


def no_figures(sets: Mapping[str, Any]) -> Iterable[Drawing]:
    """Nothing that only this field could draw."""
    return ()


class Describe(Protocol):
    """What the field says of each sample x `[B, *shape]`, for tables: {column: B texts or numbers}."""

    def __call__(self, x: Tensor) -> Mapping[str, Sequence[Any]]: ...


def nothing_to_say(x: Tensor) -> Mapping[str, Sequence[Any]]:
    """No column."""
    return {}


class Export(Protocol):
    """Write samples in the field's own formats: returns the files written."""

    def __call__(self, folder: Path, samples: Any, columns: Mapping[str, Any]) -> list[Path]: ...


class Save(Protocol):
    """Write a model of the domain's own kind, such as a tuned one, to a file that the domain loads as `prior`.

    `facts` are JSON-ready; "data" says in words what the model learned from.
    """

    def __call__(self, path: Path, diffusion: Diffusion, facts: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Domain:
    """A pretrained model together with all that its field needs around it.

    Attributes:
        name: as in `tiltflow domain=<name>`.
        diffusion: the pretrained law.
        alphabet: tokens in index order, which a reward's `alphabet` must equal: a text of letters, or a sequence of symbols
            of more than one character; None for continuous domains.
        codec: text and files <-> tensors.
        metrics: numbers about a set of samples against the reference.
        export: writes samples in the field's formats.
        reference: statistics of natural data that metrics and figures compare with.
        figures: draws what only this field can; see `Figures`.
        describe: what it says of each sample, beside rewards, for tables; see `Describe`.
        site: what one site is called, for reports: "base".
        unit: what one sample is called, for reports: "sequence", "molecule".
        constraints: what the sampler enforces, in words, for reports; empty where nothing is constrained.
        source: where the model came from and how good it is, in words, for reports.
        save: writes a model of the same kind, which then loads as `prior`; None: tuning has nowhere to put its model.
    """

    name: str
    diffusion: Diffusion
    alphabet: str | Sequence[str] | None
    codec: Any
    metrics: Metrics
    export: Export
    reference: Any
    figures: Figures = no_figures
    describe: Describe = nothing_to_say
    site: str = "site"
    unit: str = "sequence"
    constraints: str = ""
    source: str = ""
    save: Save | None = None

    def nelbo(self, x: Tensor, *, draws: int = 16, generator: torch.Generator | None = None) -> Tensor:
        """How surprised the pretrained model is by x `[B, *shape]`: its NELBO in nats per site, float64 `[B]`.

        Low means easy to guess, and easier than natural data is no praise: sequences of long runs are easy. What the sampler
        enforces plays no part. More noise levels (`draws`) cost as many forwards and make the number steadier.
        """
        return nelbo(unrestricted(self.diffusion), x, draws=draws, generator=generator)


def unrestricted(diffusion: Diffusion) -> Diffusion:
    """The law before a template restricted it."""
    inner = diffusion.denoiser
    return replace(diffusion, denoiser=inner.denoiser, start=None) if isinstance(inner, Restricted) else diffusion


def check_reward(domain: Domain, reward: Any) -> None:
    """Refuse a reward made for another alphabet.

    Raises:
        ValueError: the reward's `alphabet` is not the domain's.
    """
    alphabet = getattr(reward, "alphabet", None)
    if alphabet is not None and _symbols(alphabet) != _symbols(domain.alphabet):
        name = getattr(reward, "__name__", type(reward).__name__)
        raise ValueError(
            f"Reward {name} takes tokens of {_shown(alphabet)}, and domain {domain.name} gives {_shown(domain.alphabet)}. "
            "Choose a reward made for this domain."
        )


def _symbols(alphabet: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """One symbol a token: "ACGT" and ("A", "C", "G", "T") are the same alphabet."""
    return None if alphabet is None else tuple(alphabet)


def _shown(alphabet: str | Sequence[str] | None) -> str:
    """An alphabet for a message: a text as it is, of a long list of symbols the first."""
    if alphabet is None or isinstance(alphabet, str):
        return repr(alphabet)
    return " ".join(alphabet[:6]) + (f" ... ({len(alphabet)} symbols)" if len(alphabet) > 6 else "")
