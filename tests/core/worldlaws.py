"""Laws of methods and of their faults on a MaskedWorld, written independently of the world's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from tiltflow.core import Tilt
from tiltflow.core.steering import Steering
from tiltflow.core.worlds import MaskedWorld, select_one
from torch import Tensor

Rule = Callable[[int, Tensor, Tensor], Tensor]


def stepwise(world: MaskedWorld, tilt: Tilt, rule: Rule) -> Tensor:
    """Law over full sequences of a method that replaces the k-th kernel `[S, S]` by rule(k, kernel, log_h `[S]`)."""
    law = torch.zeros(len(world.states), dtype=torch.float64)
    law[world.index(tilt.diffusion.prior(1))] = 1
    for k, (t, s) in enumerate(itertools.pairwise(tilt.diffusion.times.tolist())):
        law = law @ rule(k, world.kernel(tilt.diffusion, t, s), log_h(world, tilt, s))
    return law[world.full]


def log_h(world: MaskedWorld, tilt: Tilt, s: float) -> Tensor:
    """What a method is guided by at time s: V / alpha, at the data r / alpha (any number where there is no mass)."""
    if s > 0:
        return tilt.evaluate(world.states, s).value / tilt.alpha
    terminal = torch.zeros(len(world.states), dtype=torch.float64)
    terminal[world.full] = world.rewards / tilt.alpha
    return terminal


def softmax_of(candidates: int) -> Rule:
    return lambda k, kernel, guide: select_one(kernel, guide, candidates)


def unguided_first(candidates: int) -> Rule:
    return lambda k, kernel, guide: kernel if k == 0 else select_one(kernel, guide, candidates)


def argmax_of(candidates: int) -> Rule:
    return lambda k, kernel, guide: best_of(kernel, guide, candidates)


def best_of(kernel: Tensor, score: Tensor, candidates: int) -> Tensor:
    """Law of the best of M draws by order statistics, ties going to the first: `[R, S]` from `[R, S]` and `[S]`.

    P(the maximum is score_j) = F(score_j)^M - F(below)^M, shared among tied states in proportion to their mass.
    """
    at_most = kernel @ (score.unsqueeze(1) <= score).to(kernel)
    below = kernel @ (score.unsqueeze(1) < score).to(kernel)
    tied = (at_most - below).clamp(min=1e-300)
    return (at_most**candidates - below**candidates) * kernel / tied


def draws(method: Steering, world: MaskedWorld, tilt: Tilt, n: int, seed: int, chunk: int = 40_000) -> Tensor:
    """Sequence numbers of n samples, int64 `[n]`, drawn in chunks."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, n, chunk):
        parts.append(world.outcome(method.sample(tilt, min(chunk, n - start), generator=generator).x))
    return torch.cat(parts)
