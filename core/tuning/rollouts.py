"""Trajectories of a model in training: relaxed ones that carry gradients, and plain ones with their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..diffusion import Diffusion
from ..processes.masked import Masked
from ..states import one_hot
from ..transitions import GaussianTransition, uniform
from .gradients import TokenGradient


@dataclass(frozen=True)
class Path:
    """What a rollout leaves.

    Attributes:
        x0: clean samples `[B, *shape]`; relaxed tokens `[B, L, K]` where gradients flow.
        kl: `[B]` nats, sum over steps of KL(theta's step || the reference's), each in closed form at the state visited.
        log_prob: `[B]`, sum of theta's log-probabilities of the steps taken, or None.
    """

    x0: Tensor
    kl: Tensor
    log_prob: Tensor | None = None


def backprop(
    theta: Diffusion,
    ref: Diffusion | None,
    n: int,
    tokens: TokenGradient,
    *,
    generator: torch.Generator,
    progress: float = 1.0,
    last: int | None = None,
    save_memory: bool = True,
    cond: Any = None,
) -> Path:
    """n differentiable trajectories of theta.

    Tokens: at a masked process the choice of *when* a site is unmasked does not depend on theta and carries no gradient
    (through it gradients grow without bound, 1e10-fold over 50 steps); the token does, by `tokens`. A state is then always
    a mask or a token at each site, as in inference. Continuous states are reparameterised.

    Args:
        ref: for the divergence; None leaves it out (zeros), and then steps before the `last` run without gradient.
        last: steps at the end through which the state carries gradients (None: all). Earlier states are cut off, while
            their divergence still counts.
        save_memory: recompute every step in the backward pass instead of storing it (twice the forward work).
        progress: part of training that is done, for annealing.
    """
    times = theta.times.tolist()
    x = theta.prior(n, generator=generator)
    x = one_hot(x, states_of(theta)) if theta.is_tokens else x
    total = torch.zeros(n, device=x.device)
    for k, (t, s) in enumerate(pairwise(times)):
        early = last is not None and k < len(times) - 1 - last
        x = x.detach() if early else x
        step = _step(theta, ref, tokens, t, s, _noise(x, theta, generator), progress, cond)
        if early and ref is None:
            with torch.no_grad():
                x = step(x)[0]
            continue
        x, kl = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False) if save_memory else step(x)
        total = total + kl
    return Path(x[..., : theta.process.vocab] if theta.is_tokens else x, total)


def states_of(diffusion: Diffusion) -> int:
    """Symbols that a site of a noisy state can hold."""
    vocab: int = diffusion.process.vocab  # type: ignore[attr-defined]
    return vocab + 1 if isinstance(diffusion.process, Masked) else vocab


def _noise(x: Tensor, theta: Diffusion, generator: torch.Generator) -> tuple[Tensor, ...]:
    """All random numbers of a step, drawn before it so that it can be run again: tokens (when, what), else z."""
    if theta.is_tokens:
        return uniform(tuple(x.shape[:2]), x, generator), uniform(tuple(x.shape), x, generator)
    z = torch.randn(x.shape, dtype=x.dtype, generator=generator, device=generator.device)
    return (z.to(x.device),)


def _step(
    theta: Diffusion,
    ref: Diffusion | None,
    tokens: TokenGradient,
    t: float,
    s: float,
    noise: tuple[Tensor, ...],
    progress: float,
    cond: Any,
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """x_t -> (x_s, KL `[B]`), a function of the state alone."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        clean = theta.clean(x, t, cond)
        other = None if ref is None else ref.clean(x, t, cond)
        if isinstance(theta.process, Masked):
            # When a site is unmasked is no choice of theta's: see `backprop`.
            return _unmask(theta.process, tokens, clean, other, x, t, s, noise, progress)
        step: Any = theta.transition(x, t, s, cond, clean=clean)
        kl = x.new_zeros(len(x))
        if ref is not None and not getattr(step, "deterministic", False):
            kl = step.kl(ref.transition(x, t, s, cond, clean=other)).to(kl.dtype)
        if isinstance(step, GaussianTransition):
            return step.move(noise[0]), kl
        return tokens.draw(step.log_probs, noise[1], progress), kl

    return run


def _unmask(
    process: Masked,
    tokens: TokenGradient,
    clean: Tensor,
    other: Tensor | None,
    x: Tensor,
    t: float,
    s: float,
    noise: tuple[Tensor, ...],
    progress: float,
) -> tuple[Tensor, Tensor]:
    """Masked sites whose time has come take a token drawn with a gradient; all others stay as they are.

    KL: (1 - stay) times the sum over masked sites of KL(p_theta(x0 | x_t) || p_ref(x0 | x_t)), which is the KL of the step
    with its size in it, so that alpha is the alpha of p* whatever the number of steps.
    """
    masked = x[..., -1] > 0.5
    stay = process.stay(t, s, x)
    drawn = tokens.draw(clean, noise[1][..., :-1], progress)
    taken = (masked & (noise[0] >= stay)).unsqueeze(-1)
    x_next = torch.where(taken, torch.nn.functional.pad(drawn, (0, 1)), x)
    kl = x.new_zeros(len(x))
    if other is not None:
        gap = (clean.exp() * torch.where(clean > -torch.inf, clean - other, 0.0)).sum(-1)
        kl = (1 - stay).to(gap.dtype).squeeze(-1) * torch.where(masked, gap, 0.0).sum(-1)
    return x_next, kl.to(x.dtype)


def scored(theta: Diffusion, ref: Diffusion | None, n: int, *, generator: torch.Generator, cond: Any = None) -> Path:
    """n plain trajectories of theta with the gradient in their log-probabilities and divergences only."""
    times = theta.times.tolist()
    with torch.no_grad():
        x = theta.prior(n, generator=generator)
    log_prob = total = torch.zeros(n, device=x.device, dtype=torch.float64)
    for t, s in pairwise(times):
        clean = theta.clean(x, t, cond)
        step: Any = theta.transition(x, t, s, cond, clean=clean)
        with torch.no_grad():
            x_next = step.sample(generator=generator)
        if not getattr(step, "deterministic", False):
            log_prob = log_prob + step.log_prob(x_next)
            if ref is not None:
                with torch.no_grad():
                    other = ref.clean(x, t, cond)
                total = total + step.kl(ref.transition(x, t, s, cond, clean=other))
        x = x_next
    return Path(x, total, log_prob)
