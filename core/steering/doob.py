"""Doob's h-transform: change the model's own step so that its law becomes p*, with h = exp(V / alpha)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..denoiser import Estimator, Known
from ..diffusion import Diffusion
from ..particles import Particles, soften
from ..states import index_tree, match_rows, one_hot
from ..tilt import Tilt
from ..transitions import Transition
from ..values import Given, PosteriorMean
from .base import Steering, settle


@dataclass(frozen=True)
class Doob(Steering):
    """Draw x_s from p(x_s | x_t) h(x_s) / h(x_t), by guiding the clean estimate that the sampler's step is built from.

    In rate form this is R*(x -> y) = R(x -> y) h(y) / h(x) for tokens ("guided rates") and score + grad log h for
    continuous states; both become a changed clean estimate (`Process.guide`), which any sampler takes. With the exact value
    the law is that of the same sampler run on the exactly tilted model: p* itself for `FirstHitting`, and as near to p* as
    the sampler is to p otherwise. With another value the law has a bias that the log-weights correct: they gather
    log p(x_s | x_t) - log q(x_s | x_t) of every step and r / alpha at the end, so weighted means are unbiased for Z E*[f].
    A step without noise has no density: the last one of a Gaussian sampler is therefore the base law's own, and with an ODE
    sampler, all of whose steps are guided, the weights are exp(r / alpha) of samples that follow another law: no correction.

    Cost per step and sample: one forward row (two-way for gradients) and, for tokens, one value for each token of each open
    site ("exact") or one gradient of the value ("first-order").

    Args:
        neighbours: tokens only. "exact" evaluates h at every state that differs in one site; "first-order" takes
            log h(y) - log h(x) from its gradient at x (a relaxed reward or value, Grathwohl et al. 2021). Continuous states
            always use the gradient.
        strength: factor gamma on log h; 1 is Doob's transform, 0 the base law.

    Raises:
        ValueError: an unknown option, or (when run) a reward without the gradient that is needed.
    """

    neighbours: Literal["exact", "first-order"] = "exact"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.neighbours not in ("exact", "first-order"):
            raise ValueError(f"neighbours is {self.neighbours!r}; expected 'exact' or 'first-order'.")
        if not math.isfinite(self.strength):
            raise ValueError(f"strength is {self.strength}; expected a finite number (1 for Doob's transform).")

    def check(self, tilt: Tilt) -> None:
        """Refuse processes that cannot be guided, and values that have no gradient where one is needed."""
        process = tilt.diffusion.process
        if not hasattr(process, "guide"):
            raise ValueError(f"Doob needs a process whose clean estimate can be guided, not {type(process).__name__}.")
        if not self._by_gradient(tilt.diffusion):
            return
        if not isinstance(tilt.value, (PosteriorMean, Given)):
            raise ValueError(
                f"Doob takes the gradient of the value here, and {type(tilt.value).__name__} draws at random. Use "
                "PosteriorMean (decode='soft' for tokens) or a differentiable function."
            )
        if isinstance(tilt.value, PosteriorMean):
            tilt.require("differentiable", "Doob with PosteriorMean")
            if tilt.diffusion.is_tokens and tilt.value.decode != "soft":
                raise ValueError("An argmax has no gradient: use PosteriorMean('soft') with a relaxed reward.")

    def step(
        self, tilt: Tilt, state: Particles, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Particles:
        """Guide, move, and account for the change of law."""
        state = self.guide(tilt, state, t, generator)
        return self.move(tilt, state, t, s, generator)

    def guide(self, tilt: Tilt, state: Particles, t: float, generator: torch.Generator | None) -> Particles:
        """The state with its value, its clean estimate and the guided one filled in."""
        clean, guided, value = self.estimate(tilt, state.x, t, state.clean, generator=generator)
        return replace(state, clean=clean, guided=guided, value=torch.where(value.isnan(), state.value, value))

    def move(
        self, tilt: Tilt, state: Particles, t: float, s: float, generator: torch.Generator | None = None
    ) -> Particles:
        """From a guided state at t to s; log p / q of the step goes into the weight."""
        diffusion, clean = tilt.diffusion, state.clean
        assert clean is not None
        base = diffusion.transition(state.x, t, s, tilt.cond, clean=clean)
        proposal = base
        if not atom(base) or not diffusion.sampler.stochastic:
            proposal = diffusion.transition(state.x, t, s, tilt.cond, clean=state.guided)
        x = proposal.sample(generator=generator)
        log_weights = state.log_weights
        if diffusion.sampler.stochastic:
            log_weights = log_weights + (base.log_prob(x) - proposal.log_prob(x)).double()
        moved = replace(state, x=x, clean=None, guided=None, log_weights=log_weights)
        if s <= 0:
            return settle(tilt, moved)
        return replace(moved, clean=self._next(tilt, x, s, Known(state.x, clean)))

    def _next(self, tilt: Tilt, x: Tensor, s: float, known: Known) -> Tensor | None:
        """The clean estimate for the next step; None where the value's gradient brings it along."""
        brought = self._by_gradient(tilt.diffusion) and isinstance(tilt.value, PosteriorMean)
        return None if brought else tilt.diffusion.clean(x, s, tilt.cond, known=known, distinct=True)

    def estimate(
        self, tilt: Tilt, x: Tensor, t: float, clean: Tensor | None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The clean estimate at x `[B, *shape]` (as given, or made), the guided one, and the value there, float64 `[B]`."""
        diffusion, at = tilt.diffusion, inside(tilt.diffusion, t)
        if not self._by_gradient(diffusion):
            clean = diffusion.clean(x, t, tilt.cond, distinct=True) if clean is None else clean
            log_h, value = self._neighbours(tilt, x, at, clean, generator)
        else:
            log_h, value, found = self._first_order(tilt, x, at) if diffusion.is_tokens else gradient(tilt, x, at)
            clean = found if clean is None and at == t else clean
            clean = diffusion.clean(x, t, tilt.cond, distinct=True) if clean is None else clean
        return clean, diffusion.process.guide(clean, x, at, self.strength * log_h), value  # type: ignore[attr-defined]

    def guided(self, tilt: Tilt) -> Diffusion:
        """The guided model as a `Diffusion` of its own, for any sampler (also ODE solvers) and for exact laws.

        Raises:
            ValueError: a value that draws at random: the guided estimate would not be a function of (x, t).
        """
        self.check(tilt)
        if not isinstance(tilt.value, (PosteriorMean, Given)):
            raise ValueError(
                f"{type(tilt.value).__name__} draws at random; a guided model needs a value that does not."
            )
        return replace(tilt.diffusion, denoiser=Guided(self, tilt))

    def _by_gradient(self, diffusion: Diffusion) -> bool:
        return not diffusion.is_tokens or self.neighbours == "first-order"

    def _neighbours(
        self, tilt: Tilt, x: Tensor, t: float, clean: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """log h at x with site i set to k, `[B, L, K]` (0 at sites that are decided), and V(x), float64 `[B]`.

        V is NaN where no site is open.
        """
        vocab = clean.shape[-1]
        rows, sites = tilt.diffusion.process.open_sites(x).nonzero(as_tuple=True)  # type: ignore[attr-defined]
        log_h = torch.zeros(*x.shape, vocab, dtype=torch.float64, device=x.device)
        if not len(rows):
            return log_h, torch.full_like(log_h[:, 0, 0], math.nan)
        changed = x[rows].repeat_interleave(vocab, 0)
        tokens = torch.arange(vocab, device=x.device).repeat(len(rows))
        changed.scatter_(1, sites.repeat_interleave(vocab).unsqueeze(1), tokens.unsqueeze(1))
        parents = Known(*(leaf[rows].repeat_interleave(vocab, 0) for leaf in (x, clean)))
        near = replace(tilt, cond=index_tree(match_rows(tilt.cond, len(x)), rows))
        found = near.evaluate(changed, t, generator=generator, known=parents, siblings=vocab).value / tilt.alpha
        log_h[rows, sites] = soften(found.reshape(-1, vocab), torch.zeros_like(found[:1]).unsqueeze(1))
        return log_h, tilt.alpha * self._own(x, clean, log_h, rows, sites)

    def _own(self, x: Tensor, clean: Tensor, log_h: Tensor, rows: Tensor, sites: Tensor) -> Tensor:
        """log h(x), float64 `[B]`: the mean over open sites of E[h at the neighbours] at a mask, of h itself at a token.

        They are equal at every site for the exact h.
        """
        guides, token = log_h[rows, sites], x[rows, sites]
        ahead = (clean[rows, sites].double() + guides).logsumexp(-1)
        held = guides.gather(-1, token.clamp(max=guides.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        ahead = torch.where(token < guides.shape[-1], held, ahead)
        count = torch.zeros(len(clean), dtype=torch.float64, device=clean.device)
        total = count.clone().index_add_(0, rows, ahead)
        return total / count.index_add_(0, rows, torch.ones_like(ahead))

    def _first_order(self, tilt: Tilt, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """log h(y) from its gradient in the relaxed one-hot of x: `[B, L, K]`, V(x), and the clean estimate if made."""
        vocab: int = tilt.diffusion.process.vocab  # type: ignore[attr-defined]
        slope, value, clean = gradient(tilt, one_hot(x, tilt.diffusion.symbols), t)
        own = slope.gather(-1, x.unsqueeze(-1))
        return (slope[..., :vocab] - own).double() + (value / tilt.alpha).reshape(-1, 1, 1), value, clean


def atom(step: Transition) -> bool:
    """A step without noise."""
    return bool(getattr(step, "deterministic", False))


def inside(diffusion: Diffusion, t: float) -> float:
    """The time at which h is looked at for a step from t: t, but a little earlier where nothing is left of the signal."""
    nearest = getattr(diffusion.process, "inside", None)
    return t if nearest is None else float(nearest(t))


def gradient(tilt: Tilt, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """grad of log h = V / alpha at x `[B, ...]`, of x's shape and dtype, V float64 `[B]`, and the clean estimate if made."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        found = tilt.evaluate(x, t)
        (slope,) = torch.autograd.grad(found.value.sum() / tilt.alpha, x)
    return slope, found.value.detach(), None if found.clean is None else found.clean.detach()


class Guided(Estimator):
    """A denoiser whose clean estimate is guided by a value: (x, t, cond) -> what `Doob.estimate` gives.

    It counts as independent of time where the model's own denoiser is; a value that is not is read at the nominal times of
    the sampler that reuses estimates.
    """

    def __init__(self, method: Doob, tilt: Tilt):
        super().__init__()
        self.method, self.tilt = method, tilt
        self.denoiser = tilt.diffusion.denoiser
        self.time_invariant = bool(self.denoiser.time_invariant)

    def forward(self, x: Tensor, t: Any, cond: Any = None) -> Tensor:
        tilt = self.tilt if cond is None else replace(self.tilt, cond=cond)
        return self.method.estimate(tilt, x, _one_time(t), None)[1]


def _one_time(t: Any) -> float:
    """The time that all rows share."""
    time = torch.as_tensor(t, dtype=torch.float64)
    if time.ndim and not bool((time == time.flatten()[0]).all()):
        raise ValueError("A guided model takes one time for all rows.")
    return float(time.flatten()[0]) if time.ndim else float(time)
