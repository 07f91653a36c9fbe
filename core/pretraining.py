"""Pretraining a denoiser: minimise minus the ELBO, keep an average of the weights, resume after any interruption."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .denoiser import innermost
from .diffusion import Diffusion, check_count
from .optimisers import Muon, hidden_matrices
from .storage import StorageError, load_tensors, save_tensors
from .training import check_owner, follow, half_cosine, pack, unpack, warm

Batches = Callable[[int, torch.Generator], Tensor]
VALIDATION_DRAWS = 2  # noise levels behind the NELBO of each sample, at every validation the same


@dataclass(frozen=True)
class Pretraining:
    """How to train.

    Args:
        steps: optimiser steps.
        batch: samples a step.
        learning_rate: peak; rises linearly over `warmup` steps, then falls to a hundredth by a half cosine.
        weight_decay, clip: the optimiser's decay and the largest gradient norm.
        ema: decay of the averaged weights, which are the ones kept; it starts faster, (1 + step) / (10 + step).
        validate_every: steps between validations and checkpoints.
        optimiser: "adamw", or "muon", which learns transformers in fewer steps (see `optimisers.Muon`).
    """

    steps: int = 2500
    batch: int = 128
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 5e-2
    clip: float = 1.0
    ema: float = 0.999
    validate_every: int = 125
    optimiser: Literal["adamw", "muon"] = "adamw"

    def __post_init__(self) -> None:
        if self.optimiser not in ("adamw", "muon"):
            raise ValueError(f"optimiser is {self.optimiser!r}; expected 'adamw' or 'muon'.")
        for name in ("steps", "batch", "validate_every"):
            check_count(name, getattr(self, name))

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        fraction = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * half_cosine(fraction, final=0.01)


@dataclass(frozen=True)
class Progress:
    """Yielded at every validation: `curve` holds rows of step, training loss and validation NELBO (nats per site).

    The validation is of the averaged weights at `VALIDATION_DRAWS` noise levels a sample, the same each time: right for the
    shape of the curve, while a figure to quote takes more of them (`nelbo`).
    """

    step: int
    total: int
    curve: list[dict[str, float]]


def pretrain(
    diffusion: Diffusion,
    batches: Batches,
    validation: Tensor,
    settings: Pretraining,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_step: Callable[[int, float], Any] | None = None,
) -> Iterator[Progress]:
    """Train `diffusion`'s network in place, yielding at every validation; at the last it holds the averaged weights.

    A run whose checkpoint is finished yields the last progress, once.

    Args:
        batches: (n, generator) -> clean samples `[n, *shape]`.
        validation: `[V, *shape]`, scored with the same noise every time.
        checkpoint: file to resume from if it is there, and to save to at every validation.
        on_step: called with (step, loss in nats per site).

    Raises:
        StorageError: the checkpoint is corrupt or of another run (other settings, seed or shapes).
        FloatingPointError: the loss is not finite.
    """
    run = _Run(diffusion, settings, seed)
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    recent: list[float] = []
    for step in range(run.step, settings.steps):
        recent.append(run.update(batches))
        if on_step is not None:
            on_step(step + 1, recent[-1])
        if run.step % settings.validate_every == 0 or run.step == settings.steps:
            row = {"step": run.step, "train": sum(recent) / len(recent), "validation": run.validate(validation)}
            run.curve.append(row)
            recent.clear()
            if checkpoint is not None:
                run.save(checkpoint)
            if run.step < settings.steps:
                yield Progress(run.step, settings.steps, run.curve)
    diffusion.denoiser.load_state_dict(run.average.state_dict())
    diffusion.denoiser.eval()
    yield Progress(run.step, settings.steps, run.curve)


@torch.no_grad()
def nelbo(
    diffusion: Diffusion, x: Tensor, *, draws: int = 16, generator: torch.Generator | None = None, rows: int = 256
) -> Tensor:
    """Minus the evidence lower bound of x `[B, *shape]` in nats per site: float64 `[B]`, on the CPU.

    An upper bound, in expectation, of minus the log-probability of each sample divided by its number of sites.

    Args:
        draws: noise levels a sample; see `Diffusion.elbo`.
        rows: samples at a time; another number draws other noise.
    """
    parts = x.to(diffusion.device).split(rows)
    bounds = [diffusion.elbo(part, draws=draws, generator=generator).double().cpu() for part in parts]
    return -torch.cat(bounds) / math.prod(diffusion.shape)


def _optimiser(diffusion: Diffusion, settings: Pretraining) -> torch.optim.Optimizer:
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "betas": (0.9, 0.99),
    }
    weights = list(diffusion.denoiser.parameters())
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(weights, **options)
    matrices = hidden_matrices(innermost(diffusion.denoiser).network)
    inside = {id(weight) for weight in matrices}
    return Muon(matrices, [weight for weight in weights if id(weight) not in inside], **options)


class _Run:
    """What a training run carries from step to step, and what a checkpoint therefore holds."""

    def __init__(self, diffusion: Diffusion, settings: Pretraining, seed: int):
        self.diffusion, self.settings, self.seed = diffusion, settings, seed
        self.model: nn.Module = diffusion.denoiser
        self.average = copy.deepcopy(self.model).eval()
        self.optimiser = _optimiser(diffusion, settings)
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU: a run is the same on any device
        self.sites = math.prod(diffusion.shape)
        self.step = 0
        self.curve: list[dict[str, float]] = []

    def update(self, batches: Batches) -> float:
        """One optimiser step; returns the loss in nats per site."""
        self.model.train()
        settings, process = self.settings, self.diffusion.process
        x0 = batches(settings.batch, self.generator).to(self.diffusion.device)
        noised = process.noise(x0, generator=self.generator)
        # Dropout draws from the global generator: seeded here, so that a run is the same by its seed, resumed or not.
        with torch.random.fork_rng(devices=[x0.device] if x0.is_cuda else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            clean = self.model(noised.x, noised.t)
        elbo = process.elbo(clean, x0, noised.x, noised.t)
        loss = -(noised.importance * elbo).mean() / self.sites
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {self.step}. Lower the learning rate or `clip`; the last checkpoint is whole."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate(self.step)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimiser.step()
        follow(self.average, self.model, warm(settings.ema, self.step))
        self.step += 1
        return float(loss.detach())

    def validate(self, validation: Tensor) -> float:
        """NELBO of the averaged weights in nats per site, with the same noise at every call."""
        averaged = replace(self.diffusion, denoiser=self.average)
        generator = torch.Generator().manual_seed(self.seed + 1)
        return float(nelbo(averaged, validation, draws=VALIDATION_DRAWS, generator=generator).mean())

    def _identity(self) -> dict[str, Any]:
        return {"kind": "pretraining", "seed": self.seed, "settings": vars(self.settings)}

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average}

    def save(self, path: Path) -> None:
        """Everything a resumed run needs to go on as if it had not stopped."""
        tensors = pack(self._modules, self.optimiser) | {"generator": self.generator.get_state()}
        save_tensors(path, tensors, {**self._identity(), "step": self.step, "curve": self.curve})

    def load(self, path: Path) -> None:
        tensors, metadata = load_tensors(path, "pretraining")
        check_owner(path, metadata, self._identity())
        unpack(tensors, self._modules, self.optimiser, path)
        try:
            self.generator.set_state(tensors["generator"])
            self.step, self.curve = int(metadata["step"]), list(metadata["curve"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{path} does not fit this model: {error}. Use another file.") from error
