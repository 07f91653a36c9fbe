"""Small trainable models in float64: a table of logits for worlds of tokens, and a network for any process."""

from __future__ import annotations

import torch
from tiltflow.core import Diffusion, Tilt
from tiltflow.core.paths import FlowMatching, VPLinear
from tiltflow.core.processes import Gaussian, Masked, Uniform
from tiltflow.core.samplers import Ancestral, Sampler
from tiltflow.core.worlds import MaskedWorld, trainable_tilt
from torch import Tensor, nn


def tabular(world: MaskedWorld, sampler: Sampler, steps: int = 3, logits: Tensor | None = None) -> Diffusion:
    """The world's diffusion with a table in place of the exact denoiser, equal to it unless `logits` are given."""
    return trainable_tilt(world, steps=steps, sampler=sampler, logits=logits).diffusion


def tilted_logits(world: MaskedWorld) -> Tensor:
    """Logits of the denoiser of p*."""
    shift = [
        world.value(_with(world.states, site, token)) for site in range(world.length) for token in range(world.vocab)
    ]
    table = torch.stack(shift, -1).reshape(-1, world.length, world.vocab)
    return world.posterior + table / world.alpha


def _with(x: Tensor, site: int, token: int) -> Tensor:
    """Every state with a token at a site that was masked; others as they are."""
    out = x.clone()
    mask = x.amax()
    out[:, site] = torch.where(x[:, site] == mask, token, x[:, site])
    return out


class Small(nn.Module):
    """Two layers on a state and its time: `[B, D]` numbers to `[B, D]`, or tokens `[B, L]` of S kinds to `[B, L, K]`."""

    def __init__(self, sites: int, symbols: int = 0, vocab: int = 0):
        super().__init__()
        self.sites, self.symbols, self.vocab = sites, symbols, vocab
        wide = sites * max(1, symbols)
        self.layers = nn.Sequential(nn.Linear(wide + 1, 16), nn.Tanh(), nn.Linear(16, sites * max(1, vocab))).double()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        x = nn.functional.one_hot(x, self.symbols).double().flatten(1) if self.symbols else x.double()
        t = t.double() if cond is None else t.double() + cond.double().flatten()
        out = self.layers(torch.cat([x, t.unsqueeze(1)], 1))
        return out.reshape(len(x), self.sites, self.vocab) if self.vocab else out


def small(kind: str, steps: int = 4, sampler: Sampler | None = None) -> Tilt:
    """A tilt of a random small model: "masked", "uniform", "flow" or "vp"."""
    sampler = sampler or Ancestral()
    if kind == "masked":
        return Tilt(Diffusion(Masked(3), Small(4, 4, 3), (4,), steps=steps, sampler=sampler), count, 0.5)
    if kind == "uniform":
        return Tilt(Diffusion(Uniform(3), Small(4, 3, 3), (4,), steps=steps, sampler=sampler), count, 0.5)
    path = FlowMatching() if kind == "flow" else VPLinear()
    process = Gaussian(path, dtype=torch.float64)
    return Tilt(Diffusion(process, Small(3), (3,), steps=steps, sampler=sampler), distance, 0.5)


def count(x: Tensor) -> Tensor:
    """Zeros among the tokens, counted with unequal weights, so that no two samples tie by accident."""
    return ((x == 0).double() * torch.arange(1, x.shape[1] + 1).sqrt()).sum(1)


def distance(x: Tensor) -> Tensor:
    """Minus the squared distance from 1."""
    return -((x - 1) ** 2).sum(1)


def exact_elbo(world: MaskedWorld, model: Diffusion) -> Tensor:
    """The bound of every sequence `[K^L]`: mean over n of L / n times the mean over n masks of sum log p at masked sites."""
    length = world.length
    total = torch.zeros(len(world.sequences), dtype=torch.float64)
    patterns = torch.cartesian_prod(*[torch.tensor([0, 1])] * length).bool()
    counts = patterns.sum(1)
    for pattern, count in zip(patterns[counts > 0], counts[counts > 0], strict=True):
        clean = model.clean(torch.where(pattern, world.vocab, world.sequences), 0.5)
        scores = clean.gather(-1, world.sequences.unsqueeze(-1)).squeeze(-1)
        total = total + torch.where(pattern, scores, 0.0).sum(1) / count / int((counts == count).sum())
    return total


def seeded(seed: int) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)
