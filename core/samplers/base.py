"""The sampler contract, the one unguided loop, and the truncations that samplers of tokens share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..denoiser import Known
from ..processes.base import Process
from ..processes.gaussian import Gaussian
from ..states import is_discrete, log_normalise
from ..transitions import Transition

if TYPE_CHECKING:
    from ..diffusion import Diffusion


class Sampler(Protocol):
    """How one reverse step is taken. Derive from it: what is not overridden is as stated here.

    A single-step sampler gives `transition`. One that needs several estimates a step, or earlier ones, overrides `run` and
    only samples; its `transition` says what to use instead.
    """

    @property
    def single_step(self) -> bool:
        """It gives a transition, so that it can be steered and tuned."""
        return True

    @property
    def stochastic(self) -> bool:
        """Its steps have noise, which steering by candidates and policy gradients need; those of an ODE have none."""
        return True

    def times(self, diffusion: Diffusion) -> Tensor:
        """float64 `[S + 1]` grid that this sampler runs on.

        Raises:
            ValueError: this sampler cannot serve this diffusion.
        """
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> Transition:
        """p(x_s | x_t), given the clean estimate at (x, t)."""
        ...

    def run(
        self,
        diffusion: Diffusion,
        x: Tensor,
        times: Tensor,
        *,
        generator: torch.Generator | None = None,
        cond: Any = None,
        clean: Tensor | None = None,
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """The whole loop, see `denoise`."""
        known: Known | None = None
        for t, s in pairwise(times.tolist()):
            if clean is None:
                clean = diffusion.clean(x, t, cond, known=known, distinct=known is None)  # the prior repeats itself
            known = Known(x, clean)
            x = diffusion.transition(x, t, s, cond, clean=clean).sample(generator=generator)
            yield s, x, clean
            clean = None


def denoise(
    diffusion: Diffusion,
    x: Tensor,
    times: Tensor,
    *,
    generator: torch.Generator | None = None,
    cond: Any = None,
    clean: Tensor | None = None,
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Run the unguided sampler from x at times[0]: yields (s, x_s, clean estimate at the step's start) after every step.

    Args:
        x: `[B, *shape]`; times: descending `[S + 1]`; clean: the estimate at (x, times[0]), where at hand.
    """
    return diffusion.sampler.run(diffusion, x, times, generator=generator, cond=cond, clean=clean)


def complete(
    diffusion: Diffusion,
    x: Tensor,
    times: Tensor,
    *,
    generator: torch.Generator | None = None,
    cond: Any = None,
    clean: Tensor | None = None,
) -> Tensor:
    """Run `denoise` to the last of `times` and return what came out, `[B, *shape]`."""
    path = denoise(diffusion, x, times, generator=generator, cond=cond, clean=clean)
    return deque(path, maxlen=1).pop()[1]


def truncate(clean: Tensor, temperature: float, top_p: float) -> Tensor:
    """Temperature, then nucleus (Holtzman et al. 2020), each renormalised: `[B, L, K]` log-probabilities to the same.

    Renormalising matters: mass that is not put back would change how fast sites are unmasked.
    """
    if temperature != 1:
        clean = log_normalise(clean / temperature)
    if top_p < 1:
        ordered, order = clean.sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        kept = torch.where(before < top_p, ordered, -math.inf)  # the token that crosses top_p is kept
        clean = torch.empty_like(clean).scatter_(-1, order, kept)
        clean = log_normalise(clean)
    return clean


def need_tokens(x: Tensor, what: str) -> None:
    """Raise ValueError unless x is a discrete state."""
    if not is_discrete(x):
        raise ValueError(f"{what} is defined on tokens, int64 [B, L], not on {x.dtype} {tuple(x.shape)}.")


def check_truncation(temperature: float, top_p: float) -> None:
    """Raise ValueError unless temperature > 0 and 0 < top_p <= 1."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; expected a positive number.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; expected 0 < top_p <= 1.")


def need_gaussian(process: Process, what: str) -> Gaussian:
    """The process, or ValueError unless it is Gaussian."""
    if not isinstance(process, Gaussian):
        raise ValueError(f"{what} needs a Gaussian process, not {type(process).__name__}.")
    return process


def only_samples(why: str) -> ValueError:
    """The error of a sampler without a transition."""
    return ValueError(
        f"{why}, so it has no transition: it samples, and cannot be steered or tuned. Use Ancestral, DDIM(eta), "
        "ExponentialSDE or InterpolantSDE (with noise), or DDIM(eta=0) or EulerODE (without)."
    )
