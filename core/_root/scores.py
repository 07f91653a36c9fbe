"""Sequences with all that is asked about them: reward, held-out reward, naturalness; and sets of them compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .core.tilt import Samples, Tilt

if TYPE_CHECKING:
    from .domains import Domain
    from .settings import Plan

ROWS = 256  # samples scored at once


@dataclass(frozen=True)
class Scored:
    """A set of n samples: x `[n, *shape]` and float64 `[n]` each: reward, heldout, nelbo (nats per site), parts by name."""

    x: Tensor
    reward: Tensor
    heldout: Tensor | None = None
    nelbo: Tensor | None = None
    parts: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def columns(self) -> dict[str, Tensor]:
        """What tables show beside the reward."""
        named = {"heldout": self.heldout, "nelbo": self.nelbo}
        parts = {f"part_{name}": values for name, values in (self.parts or {}).items()}
        return {name: values for name, values in named.items() if values is not None} | parts

    def rows(self, index: Tensor) -> Scored:
        """The samples at `index`, int64 or bool."""
        parts = None if self.parts is None else {name: values[index] for name, values in self.parts.items()}
        heldout, nelbo = (None if values is None else values[index] for values in (self.heldout, self.nelbo))
        return Scored(self.x[index], self.reward[index], heldout, nelbo, parts)


@dataclass(frozen=True)
class Made:
    """What a method made: the designs, all sets to compare (theirs among them), and how a training went.

    Attributes:
        training: facts for run.json; empty where nothing was trained.
        curves: of each training, the looks at the model on the way.
    """

    samples: Samples
    sets: dict[str, Scored]
    training: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


@torch.no_grad()
def score(plan: Plan, x: Tensor, reward: Tensor | None = None) -> Scored:
    """Rewards of x `[n, *shape]`; `reward` where it is known already. Everything comes back on the CPU."""
    pieces = x.split(ROWS)
    tilt = replace(plan.tilt, failures="exclude")  # only steering may stop at a failure
    known = torch.cat([tilt.reward(piece) for piece in pieces]) if reward is None else reward
    heldout = None
    if plan.heldout is not None:
        judge = Tilt(plan.tilt.diffusion, plan.heldout, plan.tilt.alpha, failures="exclude")
        heldout = torch.cat([judge.reward(piece) for piece in pieces]).cpu()
    split = getattr(plan.tilt.reward_function, "parts", None)
    parts = _parts([split(piece) for piece in pieces]) if callable(split) else None
    return Scored(x.cpu(), known.cpu(), heldout, None, parts)


def _parts(pieces: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([piece[name] for piece in pieces]).double().cpu() for name in pieces[0]}


def naturalness(plan: Plan, scored: Scored, draws: int, generator: torch.Generator) -> Scored:
    """The same set with its NELBO in nats per site, under the pretrained law without any template."""
    return replace(scored, nelbo=plan.domain.nelbo(scored.x, draws=draws, generator=generator))


def natural(domain: Domain, n: int, generator: torch.Generator) -> Tensor | None:
    """Up to n natural samples out of the domain's reference, or None where it has none of this shape."""
    tokens = getattr(domain.reference, "tokens", None)
    if n == 0 or tokens is None or tuple(tokens.shape[1:]) != domain.diffusion.shape:
        return None
    return tokens[torch.randperm(len(tokens), generator=generator)[:n]].to(domain.diffusion.device)


def compare(domain: Domain, sets: Mapping[str, Scored], designs: str = "steered") -> dict[str, Any]:
    """The domain's metrics of each set, and how far `designs` are above the pretrained samples."""
    report: dict[str, Any] = {
        name: dict(domain.metrics(each.x, reward=each.reward, heldout=each.heldout, nelbo=each.nelbo))
        for name, each in sets.items()
    }
    gains = {}
    for key in ("reward", "heldout"):
        spread = _spread(getattr(sets["natural"], key)) if "natural" in sets else None
        after, before = (report[name].get(f"{key}_median") for name in (designs, "pretrained"))
        if after is not None and before is not None:
            gains[f"{key}_median_gain"] = after - before
            gains[f"{key}_median_gain_in_natural_sd"] = (after - before) / spread if spread else None
    return {**report, "gain": gains}


def _spread(values: Tensor | None) -> float | None:
    """Standard deviation of the finite values; None where there is none to speak of."""
    finite = values[values.isfinite()] if values is not None else torch.zeros(0)
    spread = float(finite.std()) if len(finite) > 1 else 0.0
    return spread if spread > 1e-12 else None
