"""A pretrained law that can be sampled, scored and stepped: process + denoiser + grid + sampler."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .denoiser import Estimator, Known, Restricted, denoise_once
from .likelihood import log_likelihood
from .processes.base import Process
from .samplers import Ancestral, Sampler, denoise
from .schedules import check_grid, uniform_grid
from .transitions import Transition


@dataclass(frozen=True)
class Diffusion:
    """The law p_T of a sampler: what steering tilts and tuning changes.

    Args:
        process: how data was noised.
        denoiser: an `Estimator` such as `Denoiser`, or any callable (x, t) -> network output, read in the process's
            default parameterisation.
        shape: shape of one sample, `(L,)` for tokens.
        steps: number of reverse steps on a uniform grid, unless `grid` is given.
        sampler: how one step is taken (default: ancestral).
        grid: times `[S + 1]`, strictly descending within [0, 1].
        start: int64 `[L]`, the state that sampling starts from instead of the prior: given tokens, masks elsewhere. Or
            `[N, L]`, N such states: the law is then their even mixture, of which n samples take n / N each, in this order.

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
        if not isinstance(denoiser, Estimator):
            denoiser = self.process.parameterise(denoiser)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "denoiser", denoiser)
        if self.grid is not None:
            object.__setattr__(self, "grid", check_grid(self.grid))
        object.__setattr__(self, "steps", len(self.base_times) - 1)
        self.sampler.times(self)  # a sampler that cannot serve this model says so now

    @property
    def base_times(self) -> Tensor:
        """float64 `[steps + 1]`: the given grid, or the process's own, or the uniform one."""
        return getattr(self.process, "grid", uniform_grid)(self.steps) if self.grid is None else self.grid

    @property
    def times(self) -> Tensor:
        """float64 `[S + 1]`: the grid the sampler runs on, which may replace the given one (first-hitting)."""
        return self.sampler.times(self)

    @property
    def is_tokens(self) -> bool:
        """States are tokens (of a process with a `vocab`), not numbers."""
        return getattr(self.process, "vocab", None) is not None

    @property
    def symbols(self) -> int:
        """What a site of a noisy state of tokens can hold: the tokens, and the mask or other noise states."""
        vocab: int = self.process.vocab  # type: ignore[attr-defined]
        return vocab + 1 if hasattr(self.process, "mask") else getattr(self.process, "states", vocab)

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
        if self.start is None:
            return x
        starts = self.start.to(x).reshape(-1, *self.shape)
        return starts[torch.arange(n, device=x.device) * len(starts) // n]

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
        noised = self.process.noise(repeated, strata=draws, generator=generator)
        clean = self.clean(noised.x, noised.t, cond)
        terms = noised.importance * self.process.elbo(clean, repeated, noised.x, noised.t)
        return terms.reshape(-1, draws).mean(1)

    def log_likelihood(self, x0: Tensor, **options: Any) -> Tensor:
        """log p(x0) of x0 `[B, *shape]` by the probability flow of a Gaussian process, float64 `[B]` nats.

        The options are those of `likelihood.log_likelihood`.
        """
        return log_likelihood(self, x0, **options)

    def infill(self, template: Tensor) -> Diffusion:
        """This law with more fixed sites: int64 `[L]`, masks where the model is free, or `[N, L]`: see `start`.

        Exact, p(x | fixed sites), for the one-at-a-time sampler and an exact denoiser.

        Raises:
            ValueError: a template of another shape, with unknown tokens, or against what is fixed or restricted already.
        """
        self._mask()
        if template.dim() not in (1, 2) or not len(template) or template.shape[-1:] != self.shape:
            raise ValueError(
                f"The template has shape {tuple(template.shape)}; expected {self.shape}, or rows of this shape."
            )
        self.process.check(template.reshape(-1, *self.shape), clean=False)
        allowed = self.denoiser.allowed if isinstance(self.denoiser, Restricted) else None
        return replace(self, start=self._fix(template, allowed))

    def restrict(self, allowed: Tensor) -> Diffusion:
        """This law with only `allowed` tokens at each site, bool `[L, K]`; sites with one choice are fixed from the start.

        Raises:
            ValueError: a mask of another shape, or a site where nothing is allowed, or not what is fixed already.
        """
        vocab = getattr(self.process, "vocab", None)
        if vocab is None or allowed.dtype != torch.bool or tuple(allowed.shape) != (*self.shape, vocab):
            raise ValueError(
                f"allowed is {allowed.dtype} {tuple(allowed.shape)}; expected bool {(*self.shape, vocab)}, tokens last."
            )
        allowed, denoiser = allowed.to(self.device), self.denoiser
        if isinstance(denoiser, Restricted):
            allowed, denoiser = allowed & denoiser.allowed, denoiser.denoiser
        empty = (~allowed.any(-1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"No token is allowed at site(s) {empty[:10]} (counted from 0).")
        template = torch.where(allowed.sum(-1) == 1, allowed.int().argmax(-1), vocab)
        return replace(self, denoiser=Restricted(denoiser, allowed), start=self._fix(template, allowed))

    def _mask(self) -> int:
        """The mask of the process, where free sites start."""
        mask = getattr(self.process, "mask", None)
        if mask is None:
            raise ValueError(
                f"Sites can be fixed in a masked process only, not in {type(self.process).__name__}: its tokens all change "
                "until the end. Use processes.Masked, or a reward that is -inf elsewhere."
            )
        return mask

    def _fix(self, template: Tensor, allowed: Tensor | None) -> Tensor:
        """The start with the sites of `template` fixed as well, int64 `[L]` or `[N, L]`; allowed: bool `[L, K]`, or None
        for all."""
        mask = self._mask()
        start = torch.full_like(template, mask) if self.start is None else self.start.to(template)
        if start.dim() == template.dim() == 2 and len(start) != len(template):
            raise ValueError(f"{len(template)} templates for a law with {len(start)} starts; expected one, or as many.")
        fixed = torch.where(template == mask, start, template)
        clash = (start != mask) & (start != fixed)
        if allowed is not None:
            sites = torch.arange(allowed.shape[0], device=fixed.device)
            held = allowed.to(fixed.device)[sites, fixed.clamp(max=allowed.shape[-1] - 1)]
            clash = clash | ((fixed != mask) & ~held)
        if bool(clash.any()):
            clashing = clash.nonzero()[:, -1].unique().tolist()
            raise ValueError(
                f"Site(s) {clashing[:10]} (counted from 0) are fixed or restricted to other tokens already."
            )
        return fixed


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected an integer of at least 1.")
