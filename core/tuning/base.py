"""The tuning contract: what a method says of itself, what a micro-batch gives, and what observers see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..cost import Cost
from ..diffusion import Diffusion, check_count
from ..tilt import Tilt
from ..training import half_cosine
from .conditions import Conditions
from .roles import Decay, Guidance, Roles


@dataclass(frozen=True)
class Loss:
    """What one micro-batch gives.

    Attributes:
        value: 0-d, minimised.
        facts: numbers to record, such as the mean reward and the divergence from the reference.
    """

    value: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """The state of a training run after an optimiser step.

    Attributes:
        step, total: optimiser steps done and to do; facts: means over the step's micro-batches, with "loss" and
            "gradient" (its norm); cost: spent so far by this process, before an interruption too.
        model: what would be returned now (theta, or its average); its weights change as training goes on.
        curve: the facts of all steps so far, one row a step with its "step"; numbers that are not finite are None.
    """

    step: int
    total: int
    facts: Mapping[str, float]
    cost: Cost
    model: Diffusion
    curve: Sequence[Mapping[str, float | None]] = ()


@dataclass(frozen=True)
class Tuning:
    """A tuning method: hyper-parameters only. A new one gives `loss`, and `collect` if it learns from plain samples.

    Args:
        steps: rounds of collecting and learning.
        batch: samples a micro-batch.
        accumulate: micro-batches a step, shared among processes. Their random numbers depend on the seed, the step and
            their own number only, so that one process with `accumulate=2` and two with 1 each compute the same.
        learning_rate: of AdamW (no weight decay), reached linearly over `warmup` steps.
        final_rate: part of the learning rate that is left at the end, reached by a half cosine after the warmup; 1 keeps it.
        clip: largest gradient norm (inf: none).
        average: decay of the averaged weights that are returned, which starts faster (`training.warm`), or 0 for the last
            weights themselves.
        guidance: roles that are asked under classifier-free guidance, each at its own strength: "theta", "ref", or an average
            such as "old". What is returned is the model itself, to be guided as one likes.
        conditions: what every micro-batch draws its conditions from, beside those of the tilt (None: the tilt's alone).
        adapter: None trains all weights, or those that require gradients where some do not; `LoRA` trains low-rank
            adapters beside them. What is not trained is held once, by all roles, the given model and the returned one.
    """

    steps: int = 500
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: int = 0
    final_rate: float = 1.0
    clip: float = 1.0
    average: float = 0.0
    guidance: Mapping[str, Guidance] = field(default_factory=dict)
    conditions: Conditions | None = None
    adapter: Any = None

    updates: ClassVar[int] = 1  # optimiser steps a round of collected samples is used for
    needs: ClassVar[tuple[str, ...]] = ()  # roles that the objective asks besides theta

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate"):
            check_count(name, getattr(self, name))
        if not self.learning_rate > 0 or not self.clip > 0 or not 0 <= self.average < 1:
            raise ValueError(
                f"learning_rate={self.learning_rate}, clip={self.clip}, average={self.average}: expected the first two "
                "positive and the last in [0, 1)."
            )
        if not 0 <= self.final_rate <= 1 or self.warmup < 0:
            raise ValueError(
                f"final_rate={self.final_rate}, warmup={self.warmup}: expected a part in [0, 1] and at least 0 steps."
            )

        if self.adapter is not None and not hasattr(self.adapter, "attach"):
            raise ValueError(f"adapter is {self.adapter!r}; expected None, or an adapter such as LoRA(rank=8).")

    def check(self, tilt: Tilt) -> None:
        """Raise ValueError for a tilt that this method cannot serve, before anything is computed."""

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step `step` (from 0)."""
        part = (step - self.warmup) / max(1, self.steps * self.updates - 1 - self.warmup)
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * rise * half_cosine(part, self.final_rate)

    @property
    def averages(self) -> dict[str, Decay]:
        """Averages of theta that the objective asks for, by name, with their decay by step."""
        return {}

    @property
    def even(self) -> bool:
        """Whether all micro-batches ask the network equally often, which sharded weights need: each call gathers them from
        all processes. A method that draws anew for every micro-batch how many steps it takes must say that it does not."""
        return True

    def collect(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Any:
        """What a micro-batch learns from: samples, rewards, advantages. Runs without gradient. Default: nothing."""
        return None

    def loss(self, tilt: Tilt, roles: Roles, batch: Any, generator: torch.Generator, progress: float) -> Loss:
        """The objective on one micro-batch; `progress` is the part of the run that is done, in [0, 1]."""
        raise NotImplementedError

    def fit(
        self,
        tilt: Tilt,
        *,
        generator: torch.Generator | None = None,
        observe: Sequence[Callable[[Progress], Any]] = (),
        **options: Any,
    ) -> Diffusion:
        """The tuned model. See `tiltflow.core.tuning.fit`, which has the other options."""
        from .loop import fit  # the loop runs methods, and so needs to know what one is

        return fit(self, tilt, generator=generator, observe=observe, **options)
