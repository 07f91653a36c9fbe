"""Worlds that can be trained on: the exact denoiser as a table or a network with weights, and rewards with gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..parameterisations import Logits, Subs
from ..parameterisations.gaussian import Prediction
from ..samplers import Sampler
from ..tilt import Tilt
from .enumerated import Enumerated
from .masked import MaskedLattice
from .mixture import MixtureWorld
from .uniform import UniformWorld

LOWEST = -30.0  # logits of tokens that p rules out: their gradients stay numbers


class LogitTable(nn.Module):
    """The most general denoiser of an enumerated world: a logit for each token at each site of each state. float64.

    At relaxed tokens it is multilinear between the states, so that a one-hot state gets its own entry.

    Args:
        world: whose states are listed.
        logits: where training begins, `[S, L, K]`, or `[T, S, L, K]`, a table for each of T times.
        times: `[T]`, of these tables; the nearest one is taken. None: one table for all times.
    """

    places: Tensor
    times: Tensor | None

    def __init__(self, world: Enumerated, logits: Tensor, times: Tensor | None = None):
        super().__init__()
        self.time_invariant = times is None
        self.logits = nn.Parameter(logits.clamp(min=LOWEST).clone())
        self.register_buffer("places", world.places, persistent=False)
        self.register_buffer("times", times, persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits `[B, L, K]` of tokens int64 `[B, L]`, or of relaxed ones `[B, L, symbols]`, which are all at one time."""
        slot = None if self.times is None else (self.times - t.double().unsqueeze(1)).abs().argmin(1)
        if not x.dtype.is_floating_point:
            number = (x * self.places).sum(-1)
            return self.logits[number] if slot is None else self.logits[slot, number]
        table = self.logits if slot is None else self.logits[int(slot[0])]
        return (spread(x.double()) @ table.flatten(1)).reshape(len(x), *table.shape[1:])


class CorrectedMean(nn.Module):
    """The exact posterior mean of a mixture world plus a small network that begins at zero. float64.

    Args:
        world: whose law is pretrained. width: hidden units; seed: of their weights.
    """

    def __init__(self, world: MixtureWorld, width: int = 32, seed: int = 0):
        super().__init__()
        self.world = world
        self.inside = nn.Linear(world.size + 1, width, dtype=torch.float64)
        self.out = nn.Linear(width, world.size, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.inside.weight.normal_(generator=generator)
            self.inside.bias.normal_(generator=generator)
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The clean estimate `[B, d]` at x `[B, d]` and times `[B]`."""
        features = torch.cat([x.double(), t.double().unsqueeze(1)], 1)
        return self.world.posterior_mean(x, t) + self.out(torch.tanh(self.inside(features)))


@dataclass(frozen=True)
class TableReward:
    """The reward of an enumerated world: of tokens `[B, L]`, and multilinear in relaxed ones `[B, L, K]`, `[B]`."""

    world: Enumerated
    takes = "relaxed"
    differentiable = True

    def __call__(self, x: Tensor) -> Tensor:
        return spread(x.double()) @ self.world.rewards if x.dtype.is_floating_point else self.world.reward(x)


def spread(x: Tensor) -> Tensor:
    """Mass that independent sites `[B, L, S]` put on every state, `[B, S^L]`: the multilinear extension of one-hot states."""
    masses = x.new_ones(len(x), 1)
    for site in x.unbind(1):
        masses = (masses.unsqueeze(2) * site.unsqueeze(1)).flatten(1)
    return masses


def trainable_tilt(
    world: Any, *, steps: int | None = None, sampler: Sampler | None = None, logits: Tensor | None = None
) -> Tilt:
    """The tilt of a world whose model has weights, equal to the exact denoiser until they are trained.

    Worlds of tokens get a `LogitTable`, in which every denoiser can be written down, and a `TableReward`; a `MixtureWorld`
    gets a `CorrectedMean`. The soft value is the default one.

    Args:
        world: a `MaskedWorld`, `LandscapeWorld`, `UniformWorld` or `MixtureWorld`.
        steps, sampler: replace the world's own, as in `world.tilt`.
        logits: other weights of a table to begin at, see `LogitTable`.

    Raises:
        TypeError: a world of another kind.
    """
    if not isinstance(world, (MaskedLattice, UniformWorld, MixtureWorld)):
        raise TypeError(
            f"No trainable model is known for a {type(world).__name__}; give trainers a Tilt with a model of your own."
        )
    base = world.tilt(steps=steps, sampler=sampler)
    network: nn.Module
    if isinstance(world, MixtureWorld):
        denoiser, reward = Denoiser(CorrectedMean(world), Prediction(world.path, "x0")), base.reward_function
    elif isinstance(world, MaskedLattice):
        network = LogitTable(world, world.posterior if logits is None else logits)
        denoiser, reward = Denoiser(network, Subs(world.vocab)), TableReward(world)
    else:
        times = base.diffusion.times[:-1]
        tables = torch.stack([world.posterior(t) for t in times.tolist()]) if logits is None else logits
        denoiser, reward = Denoiser(LogitTable(world, tables, times), Logits(world.vocab)), TableReward(world)
    return Tilt(replace(base.diffusion, denoiser=denoiser), reward, base.alpha)
