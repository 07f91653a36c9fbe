"""Worlds that can be trained on: tables of logits in place of the exact denoiser, and rewards of relaxed states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from tiltflow.core import Denoiser, Diffusion, Tilt
from tiltflow.core.parameterisations import Logits, Subs
from tiltflow.core.samplers import Ancestral, Sampler
from tiltflow.core.worlds import MaskedWorld, MixtureWorld, UniformWorld
from tiltflow.core.worlds.enumerated import Enumerated
from torch import Tensor, nn


def spread(x: Tensor) -> Tensor:
    """Mass that independent sites `[B, L, S]` put on every state, `[B, S^L]`: the multilinear extension of one-hot states."""
    masses = x.new_ones(len(x), 1)
    for site in x.unbind(1):
        masses = (masses.unsqueeze(2) * site.unsqueeze(1)).flatten(1)
    return masses


class MaskedTable(nn.Module):
    """Logits for every lattice state, beginning at the exact denoiser; multilinear between states. float64."""

    time_invariant = True

    def __init__(self, world: MaskedWorld):
        super().__init__()
        self.world = world
        self.logits = nn.Parameter(world.posterior.clamp(min=-30).clone())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if not x.dtype.is_floating_point:
            return self.logits[self.world.index(x)]
        return (spread(x.double()) @ self.logits.flatten(1)).reshape(len(x), *self.logits.shape[1:])


class UniformTable(nn.Module):
    """Logits for every sequence at every time of a grid."""

    def __init__(self, world: UniformWorld, times: Tensor):
        super().__init__()
        self.world, self.times = world, times
        tables = [world.posterior(float(t)).clamp(min=-30) for t in times[:-1]]
        self.logits = nn.Parameter(torch.stack(tables).clone())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        table = self.logits[int((self.times - float(t[0])).abs().argmin())]
        if not x.dtype.is_floating_point:
            return table[self.world.index(x)]
        return (spread(x.double()) @ table.flatten(1)).reshape(len(x), *table.shape[1:])


@dataclass(frozen=True)
class TableReward:
    """The reward of a world, multilinear between sequences."""

    world: Enumerated
    takes = "relaxed"
    differentiable = True

    def __call__(self, x: Tensor) -> Tensor:
        return spread(x.double()) @ self.world.rewards if x.dtype.is_floating_point else self.world.reward(x)


def masked(
    steps: int = 4, sampler: Sampler | None = None, length: int = 3, alpha: float = 0.5
) -> tuple[MaskedWorld, Tilt]:
    """A masked world and its tilt with a trainable table."""
    world = MaskedWorld(length, 3, seed=3, alpha=alpha)
    denoiser = Denoiser(MaskedTable(world), Subs(3))
    model = replace(world.diffusion, denoiser=denoiser, sampler=sampler or Ancestral(), steps=steps)
    return world, Tilt(model, TableReward(world), alpha)


def uniform(steps: int = 4, length: int = 2) -> tuple[UniformWorld, Tilt]:
    """A uniform-noise world and its tilt with a trainable table."""
    world = UniformWorld(length, 3, seed=3)
    base = replace(world.diffusion, steps=steps)
    model = replace(base, denoiser=Denoiser(UniformTable(world, base.times), Logits(3)))
    return world, Tilt(model, TableReward(world), world.alpha)


class Corrected(nn.Module):
    """The exact posterior mean of a mixture world plus a small network that begins at zero. float64."""

    def __init__(self, world: MixtureWorld, width: int = 32):
        super().__init__()
        self.world = world
        self.inside = nn.Linear(world.size + 1, width, dtype=torch.float64)
        self.out = nn.Linear(width, world.size, dtype=torch.float64)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            self.inside.weight.normal_(generator=generator)
            self.inside.bias.normal_(generator=generator)
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = torch.cat([x.double(), t.double().unsqueeze(1)], 1)
        return self.world.posterior_mean(x, t) + self.out(torch.tanh(self.inside(features)))


def mixture(steps: int = 16, sampler: Sampler | None = None) -> tuple[MixtureWorld, Tilt]:
    """A mixture world and its tilt with a trainable correction of the posterior mean."""
    from tiltflow.core.parameterisations.gaussian import Prediction

    world = MixtureWorld(1, seed=1)
    tilt = world.tilt(steps=steps, sampler=sampler)
    denoiser = Denoiser(Corrected(world), Prediction(world.path, "x0"))
    return world, replace(tilt, diffusion=replace(tilt.diffusion, denoiser=denoiser), value=None)


def disturb(model: Diffusion, scale: float = 0.5, seed: int = 5) -> Diffusion:
    """The model with noise on its weights, to be away from where gradients vanish."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def gradient(value: Tensor, model: Diffusion) -> Tensor:
    """The gradient with respect to all weights, flat."""
    parts = torch.autograd.grad(value, list(model.denoiser.parameters()), allow_unused=True)
    shapes = model.denoiser.parameters()
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(parts, shapes, strict=True)])
