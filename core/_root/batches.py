"""Samples in batches: of the pretrained model, steered, or of a tuned model; what is finished is kept however it ends."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from . import runs
from .core.observers import Progress, Trace
from .core.tilt import Samples
from .interrupt import Stop
from .scores import Scored, score

if TYPE_CHECKING:
    from rich.console import Console

    from .settings import Plan

AT_ONCE = 64  # pretrained samples drawn together
PATIENCE = 5.0  # seconds between two writings of the finished batches: each writes them all

Keep = Callable[[Samples, Scored], Any]


def stream(plan: Plan, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose, so that more draws for one change nothing for the others."""
    digest = hashlib.sha256(f"{plan.config['seed']} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def pretrained(plan: Plan) -> Scored:
    """Unguided samples with their rewards; their number is a key of its own, since a median of few is far off."""
    generator, diffusion = stream(plan, "pretrained"), plan.domain.diffusion
    n = int(plan.config["pretrained"])
    sizes = [min(AT_ONCE, n - start) for start in range(0, n, AT_ONCE)]
    pieces = [diffusion.sample(size, generator=generator) for size in sizes]
    return score(plan, torch.cat(pieces))


def steer(plan: Plan, console: Console, keep: Keep | None = None, words: str = "steering") -> tuple[Samples, Scored]:
    """The designs by the plan's steering method, batch by batch, the highest reward first.

    Args:
        keep: writes what is finished; called every few seconds, and in any case when this ends, however it ends.
        words: what is going on, for the progress bar and as the name of the random numbers.
    """
    generator, done, written = stream(plan, words), list[Samples](), 0.0
    scored: list[Scored] = []
    keep = keep or (lambda samples, scored: None)
    pending = False
    try:
        with Stop(console.print) as stop:
            for size in plan.batches:
                if stop.asked:
                    break
                done.append(_batch(plan, size, len(done), generator, stop, words))
                scored.append(score(plan, done[-1].x, done[-1].reward))
                pending = time.monotonic() - written < PATIENCE
                if not pending:
                    keep(*_ranked(done, scored))
                    written = time.monotonic()
    finally:
        if pending:
            keep(*_ranked(done[: len(scored)], scored))
    return _ranked(done, scored)


def _ranked(done: list[Samples], scored: list[Scored]) -> tuple[Samples, Scored]:
    """All batches as one, the highest reward first."""
    samples, together = runs.merge(done), _merge(scored)
    order = samples.reward.argsort(descending=True, stable=True)
    return samples[order], together.rows(order)


def _batch(plan: Plan, size: int, index: int, generator: torch.Generator, stop: Stop, words: str) -> Samples:
    count = len(plan.batches)
    progress = Progress(words if count == 1 else f"{words} {index + 1}/{count}")
    try:
        method: Any = plan.method
        samples = method.sample(plan.tilt, size, generator=generator, observe=[Trace(), progress, stop])
    finally:
        progress.close()
    moved = {name: getattr(samples, name).cpu() for name in ("x", "reward", "log_weight")}
    return replace(samples, **moved)


def _merge(pieces: list[Scored]) -> Scored:
    def joined(name: str) -> Any:
        values = [getattr(piece, name) for piece in pieces]
        return None if values[0] is None else torch.cat(values)

    parts = [piece.parts for piece in pieces if piece.parts is not None]
    merged = {name: torch.cat([each[name] for each in parts]) for name in parts[0]} if parts else None
    return Scored(joined("x"), joined("reward"), joined("heldout"), joined("nelbo"), merged)
