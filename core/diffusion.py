"""A pretrained law that can be sampled, scored and stepped: process + denoiser + grid + sampler."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser, Known, Restricted, denoise_once
from .processes.base import Process
from .samplers import Ancestral, Sampler, denoise
from .schedules import check_grid, uniform_grid
from .transitions import Transition


@dataclass(frozen=True)
class Diffusion:
    """The law p_T of a sampler: what steering tilts and tuning changes.

    Args:
        process: how data was noised.
        denoiser: a `Denoiser`, or any callable (x, t) -> network output, read in the process's default parameterisation.
        shape: shape of one sample, `(L,)` for tokens.
        steps: number of reverse steps on a uniform grid, unless `grid` is given.
        sampler: how one step is taken (default: ancestral).
        grid: times `[S + 1]`, strictly descending within [0, 1].
        start: int64 `[L]`, the state that sampling starts from instead of the prior: given tokens, masks elsewhere.

    Raises:
        ValueError: an empty shape, or a bad grid or number of steps.
        TypeError: a denoiser that is not callable.
    """

    process: Process
    denoiser: Any
    shape: tuple[int, ...]
    steps: int = 64
    sampler: Sampler = field(default_factory=Ancestral)
    grid: Tensor | None = None
    start: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"shape is {self.shape}; expected the shape of one sample, such as (128,).")
        denoiser = self.denoiser
        if not isinstance(denoiser, (Denoiser, Restricted)):
            denoiser = self.process.parameterise(denoiser)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "denoiser", denoiser)
        object.__setattr__(self, "grid", check_grid(uniform_grid(self.steps) if self.grid is None else self.grid))
        object.__setattr__(self, "steps", len(self.times) - 1)

    @property
    def times(self) -> Tensor:
        """float64 `[S + 1]`: the grid the sampler runs on, which may replace the given one (first-hitting)."""
        assert self.grid is not None
        return self.sampler.times(self)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        first = next((p for p in self.denoiser.parameters()), None)
        return first.device if first is not None else torch.device("cpu")

    def to(self, device: torch.device | str) -> Diffusion:
        """A copy of this law on another device; this one stays where it is."""
        return replace(self, denoiser=copy.deepcopy(self.denoiser).to(device))

    def prior(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n starting states `[n, *shape]`."""
        x = self.process.prior(n, self.shape, generator=generator).to(self.device)
        return x if self.start is None else self.start.to(x).expand_as(x).clone()

    def clean(
        self, x: Tensor, t: float | Tensor, cond: Any = None, *, known: Known | None = None, distinct: bool = False
    ) -> Tensor:
        """The clean estimate at (x, t); `known` and `distinct` save forwards, see `denoise_once`."""
        return denoise_once(self.denoiser, x, t, cond, known, distinct)

    def transition(
        self, x: Tensor, t: float | Tensor, s: float | Tensor, cond: Any = None, *, clean: Tensor | None = None
    ) -> Transition:
        """The sampler's step p(x_s | x_t); pass `clean` where the estimate at (x, t) is at hand."""
        clean = self.clean(x, t, cond) if clean is None else clean
        return self.sampler.transition(self.process, clean, x, t, s)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        cond: Any = None,
        on_step: Callable[[float, Tensor], None] | None = None,
    ) -> Tensor:
        """n draws `[n, *shape]` from p_T. `on_step(s, x)` is called after every step.

        Raises:
            ValueError: n is not a positive integer.
        """
        check_count("n", n)
        x = self.prior(n, generator=generator)
        path = denoise(self, x, self.times, generator=generator, cond=cond)
        for s, x, _ in path:
            if on_step is not None:
                on_step(s, x)
        return x

    def elbo(self, x0: Tensor, *, draws: int = 1, generator: torch.Generator | None = None, cond: Any = None) -> Tensor:
        """Evidence lower bound of x0 `[B, *shape]` in nats, `[B]`: the mean of `draws` noise levels per sample.

        The levels are stratified over (0, 1), so the error falls faster than 1 / sqrt(draws).
        """
        check_count("draws", draws)
        self.process.check(x0, clean=True)
        repeated = x0.repeat_interleave(draws, 0)
        # The strata are dealt in order, so that each sample's own draws cover (0, 1).
        times = torch.cat([self.process.training_times(draws, generator=generator) for _ in range(len(x0))]).to(
            x0.device
        )
        x = self.process.corrupt(repeated, times, generator=generator)
        clean = self.clean(x, times, cond)
        return self.process.elbo(clean, repeated, x, times).reshape(-1, draws).mean(1)

    def infill(self, template: Tensor) -> Diffusion:
        """The same law with fixed sites: int64 `[L]`, masks where the model is free.

        Exact, p(x | fixed sites), for the one-at-a-time sampler and an exact denoiser.

        Raises:
            ValueError: a template of another shape or with unknown tokens.
        """
        if tuple(template.shape) != self.shape:
            raise ValueError(f"The template has shape {tuple(template.shape)}; expected {self.shape}.")
        self.process.check(template.unsqueeze(0), clean=False)
        return replace(self, start=template.clone())

    def restrict(self, allowed: Tensor) -> Diffusion:
        """The law with only `allowed` tokens at each site, bool `[L, K]`; sites with one choice are fixed from the start.

        Raises:
            ValueError: a mask of another shape, or a site where nothing is allowed.
        """
        vocab = getattr(self.process, "vocab", None)
        if vocab is None or allowed.dtype != torch.bool or tuple(allowed.shape) != (*self.shape, vocab):
            raise ValueError(
                f"allowed is {allowed.dtype} {tuple(allowed.shape)}; expected bool {(*self.shape, vocab)}, tokens last."
            )
        empty = (~allowed.any(-1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"No token is allowed at site(s) {empty[:10]} (counted from 0).")
        template = torch.where(allowed.sum(-1) == 1, allowed.int().argmax(-1), vocab)
        return replace(self, denoiser=Restricted(self.denoiser, allowed), start=template)


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected an integer of at least 1.")
