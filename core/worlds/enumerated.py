"""Worlds of token sequences that are counted through: laws of samplers and methods as products of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..diffusion import Diffusion
from ..samplers import FirstHitting, Sampler
from ..steering import SVDD, BestOfN, Doob, ImportanceResampling, Steering
from ..steering.svdd import argmax, softmax
from ..tilt import Tilt
from ..transitions import CategoricalTransition, OneSiteTransition, Transition
from ..values import Given, PosteriorMean
from .selection import select_best, select_one

DENSE = 20_000_000  # entries of a dense kernel held at a time
MANY = 256  # outcomes up to which each is a cell of its own


class Enumerated:
    """A law over K^L sequences whose noisy states can be listed. Everything is float64.

    States are numbered in base `symbols` (K tokens, and the mask where there is one), most significant site first. A
    subclass gives `length`, `vocab`, `alpha`, `symbols`, `p`, `rewards`, `value` and `diffusion`.
    """

    length: int
    vocab: int
    alpha: float

    @property
    def symbols(self) -> int:
        """What a site of a noisy state can hold."""
        raise NotImplementedError

    @property
    def p(self) -> Tensor:
        """float64 `[K^L]`, the data law."""
        raise NotImplementedError

    @property
    def rewards(self) -> Tensor:
        """float64 `[K^L]`."""
        raise NotImplementedError

    @property
    def diffusion(self) -> Diffusion:
        """The exact denoiser with the sampler whose law is nearest to p."""
        raise NotImplementedError

    def value(self, x: Tensor, t: float = 0.0) -> Tensor:
        """V(x_t, t) = alpha log E[exp(r / alpha) | x_t], float64 `[B]`."""
        raise NotImplementedError

    # Numbers of states and sequences.

    @cached_property
    def places(self) -> Tensor:
        """int64 `[L]`: what one unit at each site adds to a state's number."""
        return self.symbols ** torch.arange(self.length - 1, -1, -1)

    @cached_property
    def states(self) -> Tensor:
        """int64 `[symbols^L, L]`, all states in order of their numbers."""
        return torch.arange(self.symbols**self.length).unsqueeze(1) // self.places % self.symbols

    @cached_property
    def full(self) -> Tensor:
        """int64 `[K^L]`, numbers of the full sequences among the states."""
        return (self.states < self.vocab).all(1).nonzero().flatten()

    @cached_property
    def sequences(self) -> Tensor:
        """int64 `[K^L, L]`, all full sequences."""
        return self.states[self.full]

    def index(self, x: Tensor) -> Tensor:
        """Number of each state: int64 `[..., L]` -> `[...]`."""
        return (x * self.places.to(x.device)).sum(-1)

    def outcome(self, x: Tensor) -> Tensor:
        """Number of each full sequence among `sequences`: int64 `[..., L]` -> `[...]`."""
        return (x * self.vocab ** torch.arange(self.length - 1, -1, -1, device=x.device)).sum(-1)

    def reward(self, x: Tensor) -> Tensor:
        """The reward of full sequences `[B, L]`, float64 `[B]`."""
        return self.rewards[self.outcome(x)]

    # The tilt.

    @property
    def log_z(self) -> float:
        """log sum_x p(x) exp(r(x) / alpha)."""
        return float((self.p.log() + self.rewards / self.alpha).logsumexp(0))

    @property
    def tilted(self) -> Tensor:
        """p*, float64 `[K^L]`."""
        return (self.p.log() + self.rewards / self.alpha).softmax(0)

    def h(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Doob's h(x_t) = E[exp(r / alpha) | x_t], float64 `[B]`."""
        return (self.value(x, t) / self.alpha).exp()

    def tilt(self, *, steps: int | None = None, sampler: Sampler | None = None, value: Any = None) -> Tilt:
        """The tilt of this world, with its exact value unless another is given.

        Args:
            steps, sampler: replace the default sampler, for instance by `Ancestral()` in `steps` steps.
        """
        diffusion = self.diffusion
        if sampler is not None or steps is not None:
            diffusion = replace(
                diffusion, sampler=sampler or diffusion.sampler, steps=steps or diffusion.steps, grid=None
            )
        return Tilt(diffusion, self.reward, self.alpha, value=Given(self.value) if value is None else value)

    # Cells, on which worlds of many sequences are compared.

    @cached_property
    def cells(self) -> Tensor:
        """int64 `[K^L]`: the cell of each sequence. Few sequences: each its own; many: slices of equal p* by reward, each
        split by the first token, so that both the reward and what it leaves open are seen."""
        if len(self.rewards) <= MANY:
            return torch.arange(len(self.rewards))
        slices = MANY // self.vocab
        order = self.rewards.argsort()
        below = self.tilted[order].cumsum(0) - self.tilted[order]
        part = torch.empty_like(order)
        part[order] = (below * slices).long().clamp(max=slices - 1)
        return part * self.vocab + self.sequences[:, 0]

    def pool(self, law: Tensor) -> Tensor:
        """Masses of cells: float64 `[K^L] -> [C]`."""
        return torch.zeros(int(self.cells.max()) + 1, dtype=law.dtype).index_add_(0, self.cells, law)

    # Laws of samplers and methods, computed.

    def moves(self, diffusion: Diffusion, rows: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """Where the sampler's step leads from states number `rows` `[R]`: numbers int64 `[R, m]`, masses float64 `[R, m]`."""
        x = self.states[rows]
        step = diffusion.transition(x, t, s)
        if isinstance(step, OneSiteTransition) and bool(step.masked.any()):
            return self._one_site(rows, step)
        return torch.arange(len(self.states)).expand(len(rows), -1), self._dense(step, x)

    def _one_site(self, rows: Tensor, step: OneSiteTransition) -> tuple[Tensor, Tensor]:
        """All rows have the same number c of masks, so that each has c K moves."""
        where, site = step.masked.nonzero(as_tuple=True)
        tokens = torch.arange(self.vocab) - self.vocab
        numbers = rows[where].unsqueeze(1) + tokens * self.places[site].unsqueeze(1)
        count = step.masked.sum(1)
        if not bool((count == count[0]).all()):
            raise ValueError("States of one step have different numbers of masks; push them one number at a time.")
        masses = step.clean[where, site].double().exp() / count[0]
        return numbers.reshape(len(rows), -1), masses.reshape(len(rows), -1)

    def _dense(self, step: Transition, x: Tensor) -> Tensor:
        if not isinstance(step, CategoricalTransition):
            return torch.stack([step.log_prob(target.expand_as(x)) for target in self.states], 1).double().exp()
        masses = torch.ones(len(x), 1, dtype=torch.float64)
        for site in step.log_probs.double().exp().unbind(1):
            masses = (masses.unsqueeze(2) * site.unsqueeze(1)).flatten(1)
        return masses

    def kernel(self, diffusion: Diffusion, t: float, s: float) -> Tensor:
        """The sampler's step between all states, float64 `[S, S]`, rows sum to 1 (states with no mass under p: NaN)."""
        rows = torch.arange(len(self.states))
        kernel = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        masks = (self.states == self.vocab).sum(1)
        for count in masks.unique():
            chosen = rows[masks == count]
            numbers, masses = self.moves(diffusion, chosen, t, s)
            kernel[chosen] = kernel[chosen].scatter_add(1, numbers, masses)
        return kernel

    def start(self, diffusion: Diffusion) -> Tensor:
        """Law of the states that sampling starts from, float64 `[S]`: even over the starts, or over all where noise is."""
        law = torch.zeros(len(self.states), dtype=torch.float64)
        if self.symbols > self.vocab:
            starts = 1 if diffusion.start is None else diffusion.start.reshape(-1, *diffusion.shape).shape[0]
            share = torch.full((starts,), 1 / starts, dtype=torch.float64)
            return law.index_add_(0, self.index(diffusion.prior(starts)), share)
        return law + 1 / len(law)

    def base_law(self, diffusion: Diffusion | None = None) -> Tensor:
        """p_T, the law of the unguided sampler over sequences, float64 `[K^L]`."""
        return self._push(diffusion or self.diffusion, lambda numbers, masses, s: masses)

    @torch.no_grad()
    def log_z_of(self, diffusion: Diffusion) -> float:
        """log E[exp(r / alpha)] under p_T, the sampler's own law: what weights estimate."""
        return float((self.base_law(diffusion).log() + self.rewards / self.alpha).logsumexp(0))

    def _push(self, diffusion: Diffusion, change: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
        law = self.start(diffusion)
        for t, s in pairwise(diffusion.times.tolist()):
            moved = torch.zeros_like(law)
            for rows in self._blocks(law, diffusion):
                numbers, masses = self.moves(diffusion, rows, t, s)
                masses = change(numbers, masses, s) * law[rows].unsqueeze(1)
                moved = moved.index_add(0, numbers.flatten(), masses.flatten())
            law = moved
        return law[self.full]

    def _blocks(self, law: Tensor, diffusion: Diffusion) -> Iterator[Tensor]:
        """Numbers of the states with mass, in blocks whose kernels fit in memory."""
        width = self.length * self.vocab if isinstance(diffusion.sampler, FirstHitting) else len(self.states)
        return iter(law.nonzero().flatten().split(max(1, DENSE // width)))

    def law(self, method: Steering, tilt: Tilt) -> Tensor:
        """The method's own law over full sequences, float64 `[K^L]`, whatever the quality of its value.

        Raises:
            NotImplementedError: no closed form here for this method or value (those are Monte Carlo: test their
                unbiasedness instead).
        """
        log_w = (self.rewards / tilt.alpha).unsqueeze(0)
        if isinstance(method, ImportanceResampling):
            return select_one(self.base_law(tilt.diffusion).unsqueeze(0), log_w, method.candidates)[0]
        if isinstance(method, BestOfN):
            return select_best(self.base_law(tilt.diffusion).unsqueeze(0), log_w, method.candidates)[0]
        if isinstance(tilt.value, (Given, PosteriorMean)):
            if isinstance(method, Doob):
                return self.base_law(method.guided(tilt))
            if isinstance(method, SVDD) and method.selection in ("softmax", softmax, "argmax", argmax):
                return self._svdd(method, tilt)
        raise NotImplementedError(
            f"{type(self).__name__} has no closed form for the law of {method} with {tilt.value}."
        )

    def _svdd(self, method: SVDD, tilt: Tilt) -> Tensor:
        select = select_one if method.selection in ("softmax", softmax) else select_best
        log_h = torch.zeros(len(self.states), dtype=torch.float64)

        def choose(numbers: Tensor, masses: Tensor, s: float) -> Tensor:
            needed = numbers[masses > 0].unique()
            log_h[needed] = tilt.evaluate(self.states[needed], s).value / tilt.alpha
            return select(masses, log_h[numbers], method.candidates)

        return self._push(tilt.diffusion, choose)

    # What a trainer maximises, computed: J = E[r] - alpha KL(path), and how far it is from the best that can be.

    def objective(self, model: Diffusion, tilt: Tilt) -> Tensor:
        """J(model) = E[r] - alpha KL(path of the model || path of the pretrained sampler), 0-d, in units of the reward.

        Differentiable in the model's parameters: its gradient is what trainers estimate.
        """
        return self.base_law(model) @ self.rewards - tilt.alpha * self._path_kl(model, tilt, None)

    @torch.no_grad()
    def gap(self, model: Diffusion, tilt: Tilt) -> float:
        """alpha log Z_T - J(model) >= 0, zero only for Doob's transform: the optimality gap of any trainer's output.

        Z_T is that of the pretrained sampler's own law p_T.
        """
        return tilt.alpha * self.log_z_of(tilt.diffusion) - float(self.objective(model, tilt))

    @torch.no_grad()
    def path_kl(self, model: Diffusion, tilt: Tilt) -> float:
        """KL(path of the model || path*), nats, where path* is Doob's transform of the pretrained sampler's chain.

        Equals gap / alpha: the identity that says what a trainer minimises.
        """
        return float(self._path_kl(model, tilt, self.chain_values(tilt)))

    def chain_values(self, tilt: Tilt) -> list[Tensor]:
        """log h of the sampler's own chain at each time of its grid, `[T + 1]` of float64 `[S]`; h_t = K_ts h_s.

        Dense kernels: for worlds of a few hundred states.
        """
        log_h = torch.full((len(self.states),), -torch.inf, dtype=torch.float64)
        log_h[self.full] = self.rewards / tilt.alpha
        found = [log_h]
        for s, t in pairwise(reversed(tilt.diffusion.times.tolist())):
            kernel = self.kernel(tilt.diffusion, t, s).nan_to_num()
            found.append((kernel.log().unsqueeze(0) + found[-1]).logsumexp(-1).squeeze(0))
        return found[::-1]

    def _path_kl(self, model: Diffusion, tilt: Tilt, log_h: list[Tensor] | None) -> Tensor:
        law, total = self.start(model), torch.zeros((), dtype=torch.float64)
        for k, (t, s) in enumerate(pairwise(model.times.tolist())):
            moved = torch.zeros_like(law)
            for rows in self._blocks(law, model):
                numbers, masses = self.moves(model, rows, t, s)
                log_base = self.moves(tilt.diffusion, rows, t, s)[1].log()
                if log_h is not None:
                    log_base = log_base + log_h[k + 1][numbers] - log_h[k][rows].unsqueeze(1)
                # Inside the `where`, so that moves without mass have gradient 0, not 0 times infinity.
                gain = torch.where(masses > 0, masses.clamp(min=1e-300).log() - log_base, 0.0)
                total = total + (masses * gain).sum(1) @ law[rows]
                moved = moved.index_add(0, numbers.flatten(), (masses * law[rows].unsqueeze(1)).flatten())
            law = moved
        return total + self._start_kl(model, log_h)

    def _start_kl(self, model: Diffusion, log_h: list[Tensor] | None) -> Tensor | float:
        """KL of the starting law from that of path*, which is tilted by h too where there is more than one start."""
        if log_h is None:
            return 0.0
        law = self.start(model)
        log_z = (law.log() + log_h[0]).logsumexp(0)
        return torch.where(law > 0, law * (log_z - log_h[0]), 0.0).sum()


class RandomTables:
    """A law and a reward over K^L sequences, drawn by `seed`."""

    length: int
    vocab: int
    seed: int

    @cached_property
    def p(self) -> Tensor:
        """float64 `[K^L]`, the data law: correlated, with masses over two orders of magnitude."""
        return _normal(self.vocab**self.length, self.seed).softmax(0)

    @cached_property
    def rewards(self) -> Tensor:
        """float64 `[K^L]`, standard normal."""
        return _normal(self.vocab**self.length, self.seed + 1)


def _normal(size: int, seed: int) -> Tensor:
    """float64 `[size]`, standard normal."""
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
