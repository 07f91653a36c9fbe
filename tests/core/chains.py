"""Laws of a few correlated sites under any site chain, by enumeration: nothing here uses the processes' own formulas."""

from __future__ import annotations

import itertools
import math
from functools import reduce

import torch
from torch import Tensor

SPARSE = [[-1.0, 1.0, 0.0], [0.0, -1.5, 1.5], [2.0, 0.0, -2.0]]  # one way round only: complex eigenvalues
DENSE = [[-1.2, 1.0, 0.2], [0.5, -1.0, 0.5], [0.3, 1.7, -2.0]]
REVERSIBLE = [[-0.8, 0.5, 0.3], [0.75, -1.2, 0.45], [0.45, 0.45, -0.9]]  # stationary law (3, 2, 2) / 7


def uniform_rates(vocab: int) -> Tensor:
    return torch.full((vocab, vocab), 1 / vocab, dtype=torch.float64) - torch.eye(vocab).double()


def absorbing_rates(vocab: int) -> Tensor:
    rates = -torch.eye(vocab + 1).double()
    rates[:, vocab] += 1
    return rates


def exponential(rates: Tensor) -> Tensor:
    """exp(Q) by counting jumps: the number is Poisson, each jump a step of a discrete chain. Small entries are exact too."""
    count = float(-rates.diagonal().min()) or 1.0
    jump = torch.eye(len(rates)).double() + rates / count
    power, weight = torch.eye(len(rates)).double(), math.exp(-count)
    total = weight * power
    for k in range(1, int(count + 12 * math.sqrt(count) + 40)):
        power, weight = power @ jump, weight * count / k
        total = total + weight * power
    return total


class Sites:
    """A random law p over K^L sequences, noised by exp(-log alpha Q) at each site of S states."""

    def __init__(self, rates: Tensor | list, vocab: int, length: int, seed: int = 0, schedule=None):
        self.rates = torch.as_tensor(rates, dtype=torch.float64)
        self.vocab, self.length, self.schedule = vocab, length, schedule
        self.sequences = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
        self.states = torch.tensor(list(itertools.product(range(len(self.rates)), repeat=length)))
        generator = torch.Generator().manual_seed(seed)
        self.p = torch.randn(len(self.sequences), dtype=torch.float64, generator=generator).softmax(0)
        self._tables: dict[float, Tensor] = {}

    def index(self, x: Tensor) -> Tensor:
        return (x * len(self.rates) ** torch.arange(self.length - 1, -1, -1)).sum(-1)

    def site(self, t: float, s: float = 0.0) -> Tensor:
        """q(x_t = k | x_s = j) at one site, `[S, S]`."""
        left = self._alpha(t) / self._alpha(s)
        return exponential(-math.log(max(left, 1e-30)) * self.rates)

    def _alpha(self, t: float) -> float:
        return float(self.schedule.alpha(torch.tensor(t, dtype=torch.float64)))

    def joint(self, t: float, s: float = 0.0) -> Tensor:
        """q(x_t | x_s) over all sites, `[S^L, S^L]`."""
        return reduce(torch.kron, [self.site(t, s)] * self.length)

    def noised(self, t: float) -> Tensor:
        """q(x_t | x0), `[K^L, S^L]`."""
        return self.joint(t)[self.index(self.sequences)]

    def marginal(self, t: float) -> Tensor:
        """p_t, `[S^L]`."""
        return self.p @ self.noised(t)

    def clean(self, x: Tensor, t: float) -> Tensor:
        """log p(x0^i = k | x_t), `[B, L, K]`; uniform at states without mass."""
        if t not in self._tables:
            joint = self.p.unsqueeze(1) * self.noised(t)  # [K^L, S^L]
            masses = torch.stack(
                [
                    torch.stack([joint[self.sequences[:, i] == k].sum(0) for k in range(self.vocab)], -1)
                    for i in range(self.length)
                ],
                1,
            )
            total = masses.sum(-1, keepdim=True)
            self._tables[t] = torch.where(total > 0, masses / total.clamp(min=1e-300), 1 / self.vocab).log()
        return self._tables[t][self.index(x)]

    def step(self, t: float, s: float) -> Tensor:
        """p(x_s^i = k | x_t), `[S^L, L, S]`, by summing the joint law of (x_s, x_t)."""
        joint = self.marginal(s).unsqueeze(1) * self.joint(t, s)  # [x_s, x_t]
        size = len(self.rates)
        sites = [
            torch.stack([joint[self.states[:, i] == k].sum(0) for k in range(size)], -1) for i in range(self.length)
        ]
        found = torch.stack(sites, 1)
        return found / found.sum(-1, keepdim=True)

    def law(self, diffusion, start: Tensor) -> Tensor:
        """Law over all states of a sampler whose steps are independent over sites, `[S^L]`."""
        law = start
        for t, s in itertools.pairwise(diffusion.times.tolist()):
            probs = diffusion.transition(self.states, t, s).log_probs.exp()
            law = law @ reduce(lambda a, b: (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1), probs.unbind(1))
        return law
