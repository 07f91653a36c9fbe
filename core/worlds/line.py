"""Laws on the line: a sampler of one coordinate pushes intervals and their masses from step to step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..diffusion import Diffusion
from ..transitions import GaussianTransition
from ..tuning.rollouts import divergence

Change = Callable[[Tensor, Tensor, float], Tensor]  # (middles of the next intervals [N], masses [N, N], s) -> masses
Bounds = Callable[[float], tuple[float, float]]  # time -> where nearly all of the mass is


@dataclass(frozen=True)
class Intervals:
    """A law on the line: interval i runs from edges[i] to edges[i + 1] (either way round) and holds mass[i], evenly.

    Attributes:
        edges: float64 `[N + 1]`; mass: float64 `[N]`.
    """

    edges: Tensor
    mass: Tensor

    @property
    def middles(self) -> Tensor:
        """float64 `[N]`."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def cells(self, inner: Tensor) -> Tensor:
        """Masses of the cells between the inner edges `[c]`, the outermost unbounded: `[c + 1]`."""
        low, high = torch.minimum(self.edges[1:], self.edges[:-1]), torch.maximum(self.edges[1:], self.edges[:-1])
        width = (high - low).clamp(min=1e-300)
        below = ((inner.unsqueeze(1) - low) / width).clamp(0, 1) @ self.mass
        zero, one = torch.zeros(1, dtype=torch.float64), self.mass.sum().reshape(1)
        return torch.cat([zero, below, one]).diff()


def push(
    diffusion: Diffusion, bounds: Bounds, points: int, change: Change | None = None, still: Diffusion | None = None
) -> Intervals:
    """The law of a sampler of one coordinate, `[N]` intervals at the end.

    A random step sends the middle of every interval to all intervals of the next grid, exactly; a step without noise moves
    the edges. The error is of second order in the width of an interval.

    Args:
        bounds: range of the grid at a time; points: N; change: reweights a random step's masses (selection methods);
            still: the model that takes the steps without noise (None: the same).
    """
    if not diffusion.sampler.single_step:
        law = _prior(diffusion, bounds(float(diffusion.times[0])), points)
        path = diffusion.sampler.run(diffusion, law.edges.unsqueeze(1), diffusion.times)
        return replace(law, edges=deque(path, maxlen=1).pop()[1].squeeze(1))
    return deque(walk(diffusion, bounds, points, change, still), maxlen=1).pop()


def walk(
    diffusion: Diffusion, bounds: Bounds, points: int, change: Change | None = None, still: Diffusion | None = None
) -> Iterator[Intervals]:
    """The laws at all times of a single-step sampler, from the prior to the end; arguments as in `push`."""
    times = diffusion.times.tolist()
    law = _prior(diffusion, bounds(times[0]), points)
    yield law
    for t, s in pairwise(times):
        step = _step(still or diffusion, law.edges, t, s)
        if step.deterministic:
            law = replace(law, edges=step.mean.squeeze(1))
        else:
            edges = torch.linspace(*bounds(s), points + 1, dtype=torch.float64)
            masses = _masses(_step(diffusion, law.middles, t, s), edges)
            if change is not None:
                masses = change((edges[1:] + edges[:-1]) / 2, masses, s)
            law = Intervals(edges, law.mass @ masses)
        yield law


def path_kl(model: Diffusion, ref: Diffusion, laws: Sequence[Intervals]) -> Tensor:
    """KL(path of the model || path of the reference), 0-d nats, as trainers count it (`tuning.rollouts.divergence`).

    Args:
        laws: the model's, as `walk` gives them.
    """
    total = torch.zeros((), dtype=torch.float64)
    for (t, s), law in zip(pairwise(model.times.tolist()), laws, strict=False):
        x = law.middles.unsqueeze(1)
        total = total + law.mass @ divergence(model, model.transition(x, t, s), ref, x, t, s)
    return total


def _step(diffusion: Diffusion, x: Tensor, t: float, s: float) -> GaussianTransition:
    step = diffusion.transition(x.unsqueeze(1), t, s)
    assert isinstance(step, GaussianTransition)
    return step


def _prior(diffusion: Diffusion, bounds: tuple[float, float], points: int) -> Intervals:
    edges = torch.linspace(*bounds, points + 1, dtype=torch.float64)
    scale = diffusion.process.path.s(torch.ones((), dtype=torch.float64))  # type: ignore[attr-defined]
    return Intervals(edges, torch.special.ndtr(edges / scale).diff())


def _masses(step: GaussianTransition, edges: Tensor) -> Tensor:
    """`[N, N']`: P(the step ends between two edges), the outermost intervals taking what lies beyond."""
    std = step.std.double().expand(step.mean.shape)
    below = torch.special.ndtr((edges - step.mean.double()) / std)
    below[:, 0], below[:, -1] = 0, 1
    return below.diff(dim=1)
