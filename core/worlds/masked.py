"""MaskedWorld: a joint law over K^L sequences, small enough that everything about its masked diffusion is computed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion import Diffusion
from ..parameterisations import Subs
from ..processes.masked import Masked
from ..samplers import FirstHitting, Sampler
from ..states import one_hot
from ..steering import SVDD, ImportanceResampling, Steering
from ..tilt import Tilt
from ..values import Given, PosteriorMean


@dataclass(frozen=True)
class MaskedWorld:
    """p(x) over K^L sequences, a reward table and alpha; from these, exactly: denoiser, V, h, Z, p*, and laws of methods.

    States of the lattice (tokens or mask at each site, (K + 1)^L of them) are numbered in base K + 1, most significant site
    first. Everything is float64.

    Args:
        length: L, 2 to 8; vocab: K, 2 to 5; seed: draws p and the reward.
        alpha: temperature of the tilt.
    """

    length: int = 4
    vocab: int = 3
    seed: int = 0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 2 <= self.length <= 8 or not 2 <= self.vocab <= 5 or (self.vocab + 1) ** self.length > 2_000_000:
            raise ValueError(
                f"MaskedWorld(length={self.length}, vocab={self.vocab}) is not enumerable here; use length 2-8, vocab 2-5."
            )

    @cached_property
    def states(self) -> Tensor:
        """int64 `[(K + 1)^L, L]`, all lattice states."""
        return torch.tensor(list(itertools.product(range(self.vocab + 1), repeat=self.length)))

    @cached_property
    def sequences(self) -> Tensor:
        """int64 `[K^L, L]`, all full sequences."""
        return self.states[self.full]

    @cached_property
    def full(self) -> Tensor:
        """int64 `[K^L]`, numbers of the full sequences among the states."""
        return (self.states < self.vocab).all(1).nonzero().flatten()

    def index(self, x: Tensor) -> Tensor:
        """Number of each state: int64 `[..., L]` -> `[...]`."""
        base = (self.vocab + 1) ** torch.arange(self.length - 1, -1, -1, device=x.device)
        return (x * base).sum(-1)

    def sequence_index(self, x: Tensor) -> Tensor:
        """Number of each full sequence among `sequences`."""
        base = self.vocab ** torch.arange(self.length - 1, -1, -1, device=x.device)
        return (x * base).sum(-1)

    @cached_property
    def p(self) -> Tensor:
        """float64 `[K^L]`, the data law: correlated, with masses over two orders of magnitude."""
        generator = torch.Generator().manual_seed(self.seed)
        energy = torch.randn(self.vocab**self.length, dtype=torch.float64, generator=generator)
        return energy.softmax(0)

    @cached_property
    def rewards(self) -> Tensor:
        """float64 `[K^L]`, standard normal."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(self.vocab**self.length, dtype=torch.float64, generator=generator)

    def reward(self, x: Tensor) -> Tensor:
        """The reward of full sequences `[B, L]`, float64 `[B]`."""
        return self.rewards[self.sequence_index(x)]

    @property
    def log_z(self) -> float:
        """log sum_x p(x) exp(r(x) / alpha)."""
        return float((self.p.log() + self.rewards / self.alpha).logsumexp(0))

    @property
    def tilted(self) -> Tensor:
        """p*, float64 `[K^L]`."""
        return (self.p.log() + self.rewards / self.alpha).softmax(0)

    def marginal(self, weights: Tensor) -> Tensor:
        """Sum of `weights` `[K^L]` over the completions of every state: `[(K + 1)^L]`."""
        cube = weights.reshape([self.vocab] * self.length)
        for site in range(self.length):
            cube = torch.cat([cube, cube.sum(site, keepdim=True)], site)
        return cube.flatten()

    @cached_property
    def _values(self) -> Tensor:
        weighted = self.marginal(self.p * (self.rewards / self.alpha).exp())
        return self.alpha * (weighted / self.marginal(self.p)).log()

    def value(self, x: Tensor, t: float = 0.0) -> Tensor:
        """V(x_t) = alpha log E[exp(r / alpha) | x_t], float64 `[B]`; does not depend on t given the masks."""
        return self._values[self.index(x)]

    def h(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Doob's h(x_t) = E[exp(r / alpha) | x_t], float64 `[B]`."""
        return (self.value(x) / self.alpha).exp()

    @cached_property
    def posterior(self) -> Tensor:
        """log p(x0^i = k | state), float64 `[(K + 1)^L, L, K]`; at an unmasked site one-hot."""
        mass = self.marginal(self.p)
        filled = self.states.unsqueeze(1).unsqueeze(1).repeat(1, self.length, self.vocab, 1)
        for site, token in itertools.product(range(self.length), range(self.vocab)):
            filled[:, site, token, site] = token
        found = (mass[self.index(filled)] / mass.reshape(-1, 1, 1)).log()
        held = one_hot(self.states, self.vocab + 1, torch.float64).log()[..., :-1]
        return torch.where((self.states == self.vocab).unsqueeze(-1), found, held)

    @property
    def diffusion(self) -> Diffusion:
        """The exact denoiser with the one-at-a-time sampler, whose law is p."""
        denoiser = Denoiser(lambda x, t: self.posterior[self.index(x)], Subs(self.vocab), time_invariant=True)
        return Diffusion(Masked(self.vocab), denoiser, (self.length,), sampler=FirstHitting())

    def tilt(self, *, steps: int | None = None, sampler: Sampler | None = None, value: object = None) -> Tilt:
        """The tilt of this world, with its exact value unless another is given.

        Args:
            steps, sampler: replace the one-at-a-time sampler, for instance by `Ancestral()` in `steps` steps.
        """
        diffusion = self.diffusion
        if sampler is not None:
            diffusion = replace(diffusion, sampler=sampler, steps=steps or self.length)
        return Tilt(diffusion, self.reward, self.alpha, value=Given(self.value) if value is None else value)

    # Laws of samplers and methods, computed.

    def kernel(self, diffusion: Diffusion, t: float, s: float) -> Tensor:
        """The sampler's own step between all lattice states, float64 `[S, S]`, rows sum to 1."""
        states = self.states
        step = diffusion.transition(states, t, s)
        return torch.stack([step.log_prob(target.expand_as(states)) for target in states], 1).exp()

    def base_law(self, diffusion: Diffusion | None = None) -> Tensor:
        """p_T, the law of the unguided sampler over full sequences, float64 `[K^L]`."""
        return self._push(diffusion or self.diffusion, lambda kernel, s: kernel)

    def _push(self, diffusion: Diffusion, change: object) -> Tensor:
        law = torch.zeros(len(self.states), dtype=torch.float64)
        law[self.index(diffusion.prior(1))] = 1
        times = diffusion.times.tolist()
        for t, s in pairwise(times):
            law = law @ change(self.kernel(diffusion, t, s), s)  # type: ignore[operator]
        return law[self.full]

    def law(self, method: Steering, tilt: Tilt) -> Tensor:
        """The method's own law over full sequences, float64 `[K^L]`, whatever the quality of its value.

        Raises:
            NotImplementedError: no closed form here for this method or value (those are Monte Carlo: test their
                unbiasedness instead).
        """
        if isinstance(method, ImportanceResampling):
            log_w = self.rewards / tilt.alpha
            return select_one(self.base_law(tilt.diffusion).unsqueeze(0), log_w, method.candidates)[0]
        if (
            isinstance(method, SVDD)
            and method.selection == "softmax"
            and isinstance(tilt.value, (Given, PosteriorMean))
        ):

            def choose(kernel: Tensor, s: float) -> Tensor:
                log_h = tilt.evaluate(self.states, s).value / tilt.alpha if s > 0 else self._terminal(tilt)
                return select_one(kernel, log_h, method.candidates)

            return self._push(tilt.diffusion, choose)
        raise NotImplementedError(f"MaskedWorld has no closed form for the law of {method} with {tilt.value}.")

    def _terminal(self, tilt: Tilt) -> Tensor:
        """r / alpha on full sequences; other states have no mass at the end."""
        log_h = torch.zeros(len(self.states), dtype=torch.float64)
        log_h[self.full] = self.rewards / tilt.alpha
        return log_h


def select_one(kernel: Tensor, log_w: Tensor, candidates: int, step: float = 0.2) -> Tensor:
    """Law of one of M candidates kept with probability proportional to its weight, exactly.

    q_j = M P_j w_j * integral over s > 0 of exp(-s w_j) phi(s)^(M - 1) ds, phi(s) = sum_k P_k exp(-s w_k), which is
    E[w_j / sum of weights] written with 1/S = integral of exp(-s S).

    Args:
        kernel: P, float64 `[R, S]`; log_w: `[S]` or `[R, S]`, -inf for never (where all of a row is, any will do);
            candidates: M.
        step: of the quadrature, a trapezoid in log s. The integrand is analytic for |Im log s| < pi / 2, so the error is
            of the order exp(-pi^2 / step).

    Returns:
        q, float64 `[R, S]`, rows sum to 1 to about 1e-12.
    """
    log_w = log_w.expand_as(kernel)
    peak = torch.where(kernel > 0, log_w, -math.inf).amax(1, keepdim=True)
    log_w = torch.where(peak == -math.inf, 0.0, log_w - peak)
    w = log_w.clamp(max=0).exp() * (kernel > 0)
    low = float(w[w > 0].amin().log())
    u = torch.arange(-40.0, math.log(60.0) - low + step, step, dtype=torch.float64)
    total = torch.zeros_like(kernel)
    for node in u:  # trapezoid in u = log s: ds = s du
        s = node.exp()
        decay = (-s * w).exp()
        phi = (kernel * decay).sum(1, keepdim=True)
        total += s * decay * phi ** (candidates - 1)
    return candidates * kernel * w * total * step
