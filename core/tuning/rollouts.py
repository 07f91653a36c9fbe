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
from ..transitions import kl_categorical, uniform
from .gradients import TokenGradient


@dataclass(frozen=True)
class Path:
    """What a rollout leaves.

    Attributes:
        x0: clean samples `[B, *shape]`; relaxed tokens `[B, L, K]` where gradients flow.
        kl: float64 `[B]` nats, sum over steps of KL(theta's step || the reference's), each in closed form at the state
            visited (see `divergence`).
        log_prob: float64 `[B]`, sum of theta's log-probabilities of the steps taken, or None.
    """

    x0: Tensor
    kl: Tensor
    log_prob: Tensor | None = None


Step = Callable[[Tensor], tuple[Tensor, ...]]  # x_t -> (x_s, numbers `[B]` to add up); the state is its only argument


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
    a mask or a token at each site, as in inference. At other processes of tokens `tokens` carries the gradient of the
    network's part of a step; what the state itself passes on (a site mostly keeps its token) is passed on by the mean of
    the step, which is linear in the state and cannot grow (through the relaxed draw it does, 1e8-fold over 50 steps).
    Continuous states are reparameterised.

    Args:
        ref: for the divergence; None leaves it out (zeros), and then steps before the `last` run without gradient.
        last: steps at the end through which the state carries gradients (None: all). Earlier states are cut off, while
            their divergence still counts.
        save_memory: recompute every step in the backward pass instead of storing it: all that a step adds to the memory
            is its state, for one more forward.
        progress: part of training that is done, for annealing.
    """
    times = theta.times.tolist()
    x = theta.prior(n, generator=generator)
    if theta.is_tokens:
        x = one_hot(x, theta.symbols, next(theta.denoiser.parameters()).dtype)
    total = torch.zeros(n, device=x.device, dtype=torch.float64)
    for k, (t, s) in enumerate(pairwise(times)):
        early = last is not None and k < len(times) - 1 - last
        step = _relaxed(theta, ref, tokens, t, s, reseed(generator), progress, cond)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (early and ref is None)):
            x, kl = take(step, x.detach() if early else x, save_memory)
        total = total + kl
    return Path(x[..., : theta.process.vocab] if theta.is_tokens else x, total)  # type: ignore[attr-defined]


def one_step(
    theta: Diffusion,
    ref: Diffusion | None,
    x: Tensor,
    t: float,
    s: float,
    tokens: TokenGradient,
    *,
    generator: torch.Generator,
    progress: float = 1.0,
    save_memory: bool = True,
    cond: Any = None,
) -> tuple[Tensor, Tensor]:
    """One differentiable step from states x `[B, *shape]` that carry no gradient: x_s (relaxed tokens `[B, L, S]`), and the
    divergence from the reference's step, float64 `[B]` nats. Arguments as in `backprop`."""
    if theta.is_tokens:
        x = one_hot(x, theta.symbols, next(theta.denoiser.parameters()).dtype)
    x_s, kl = take(_relaxed(theta, ref, tokens, t, s, reseed(generator), progress, cond), x, save_memory)
    return x_s, kl


def scored(
    theta: Diffusion,
    ref: Diffusion | None,
    n: int,
    *,
    generator: torch.Generator,
    save_memory: bool = True,
    cond: Any = None,
) -> Path:
    """n plain trajectories of theta with the gradient in their log-probabilities and divergences only."""
    x = theta.prior(n, generator=generator)
    log_prob = total = torch.zeros(n, device=x.device, dtype=torch.float64)
    for t, s in pairwise(theta.times.tolist()):
        x, gained, kl = take(_plain(theta, ref, t, s, reseed(generator), cond), x, save_memory)
        log_prob, total = log_prob + gained, total + kl
    return Path(x, total, log_prob)


def divergence(
    theta: Diffusion, step: Any, ref: Diffusion | None, x: Tensor, t: float, s: float, cond: Any = None
) -> Tensor:
    """KL(theta's step || the reference's step from the same x) in closed form, float64 `[B]` nats; zeros without a ref.

    The last step of a noisy sampler of continuous states is an atom at the clean estimate, whose KL is 0 or infinite; free
    of charge it would let the reward be gained in that step alone. It is charged as if it had the standard deviation that x
    has about a x0 at t, in units of the data: SNR(t) |difference|^2 / 2, which is nothing for a fine grid and a model that
    moves with it, and tends to the continuous-time divergence.
    """
    deterministic = getattr(step, "deterministic", False)
    if ref is None or (deterministic and not theta.sampler.stochastic):
        return torch.zeros(len(x), device=x.device, dtype=torch.float64)
    other: Any = ref.transition(x, t, s, cond)
    if not deterministic:
        kl: Tensor = step.kl(other)
        return kl.double()
    time = torch.tensor(t, dtype=torch.float64, device=x.device)
    snr = theta.process.path.log_snr(time).exp()  # type: ignore[attr-defined]
    return snr / 2 * (step.mean - other.mean).double().square().flatten(1).sum(1)


def take(step: Step, x: Tensor, save_memory: bool) -> tuple[Tensor, ...]:
    if not save_memory or not torch.is_grad_enabled():
        return step(x)
    out: tuple[Tensor, ...] = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
    return out


def reseed(generator: torch.Generator) -> Callable[[], torch.Generator]:
    """Makes, as often as asked, the same new generator: a step that is run again draws again what it drew, and nothing
    random is stored between."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return lambda: torch.Generator(generator.device).manual_seed(seed)


def _plain(
    theta: Diffusion, ref: Diffusion | None, t: float, s: float, reseeded: Callable[[], torch.Generator], cond: Any
) -> Step:
    """x_t -> (x_s, log-probability `[B]`, KL `[B]`)."""

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        step: Any = theta.transition(x, t, s, cond)
        with torch.no_grad():
            x_next = step.sample(generator=reseeded())
        kl = divergence(theta, step, ref, x, t, s, cond)
        if getattr(step, "deterministic", False):
            return x_next, torch.zeros_like(kl), kl
        return x_next, step.log_prob(x_next).double(), kl

    return run


def _relaxed(
    theta: Diffusion,
    ref: Diffusion | None,
    tokens: TokenGradient,
    t: float,
    s: float,
    reseeded: Callable[[], torch.Generator],
    progress: float,
    cond: Any,
) -> Step:
    """x_t -> (x_s, KL `[B]`), differentiable."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        generator = reseeded()
        if not theta.is_tokens:
            step: Any = theta.transition(x, t, s, cond)
            return step.rsample(generator=generator), divergence(theta, step, ref, x, t, s, cond)
        clean = theta.clean(x, t, cond)
        other = None if ref is None else ref.clean(x, t, cond)
        if isinstance(theta.process, Masked):
            stay = theta.process.stay(t, s, x)
            drawn = tokens.draw(clean, uniform(tuple(clean.shape), x, generator), progress)
            return _unmask(x, drawn, stay, generator), _unmasking_kl(x, clean, other, stay)
        step = theta.transition(x.detach(), t, s, clean=clean)
        drawn = tokens.draw(step.log_probs, uniform(tuple(step.log_probs.shape), x, generator), progress)
        kl = torch.zeros(len(x), device=x.device, dtype=torch.float64)
        if ref is not None:
            kl = step.kl(ref.transition(x.detach(), t, s, clean=other)).double()
        return drawn + _copied(theta.transition(x, t, s, clean=clean.detach())), kl

    return run


def _copied(step: Any) -> Tensor:
    """Zeros `[B, L, S]` with the gradient of the mean of the next state, for what the state passes on beside the network."""
    mean: Tensor = step.log_probs.exp()
    return mean - mean.detach()


def _unmask(x: Tensor, drawn: Tensor, stay: Tensor, generator: torch.Generator) -> Tensor:
    """Masked sites of x `[B, L, K + 1]` whose time has come take the token drawn `[B, L, K]`; all others stay."""
    taken = _masked(x) & (uniform(tuple(x.shape[:2]), x, generator) >= stay)
    return torch.where(taken.unsqueeze(-1), torch.nn.functional.pad(drawn, (0, 1)), x)


def _unmasking_kl(x: Tensor, clean: Tensor, other: Tensor | None, stay: Tensor) -> Tensor:
    """(1 - stay) times the sum over masked sites of KL(p_theta(x0 | x_t) || p_ref(x0 | x_t)), float64 `[B]`.

    The KL of the step with its size in it, so that alpha is the alpha of p* whatever the number of steps.
    """
    if other is None:
        return torch.zeros(len(x), device=x.device, dtype=torch.float64)
    per_site = torch.where(_masked(x), kl_categorical(clean, other), 0.0)
    return ((1 - stay) * per_site.double()).sum(1)


def _masked(x: Tensor) -> Tensor:
    """bool `[B, L]`; a site is a mask or a (relaxed) token, never a mixture of both."""
    return x[..., -1] > 0.5
