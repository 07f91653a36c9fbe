"""The worlds that tests of tuning train on, and gradients as one vector."""

from __future__ import annotations

import torch
from tiltflow.core import Diffusion, Tilt
from tiltflow.core.samplers import Ancestral, Sampler
from tiltflow.core.worlds import MaskedWorld, MixtureWorld, TableReward, UniformWorld, trainable_tilt
from tiltflow.core.worlds.trainable import spread
from torch import Tensor

__all__ = ["TableReward", "disturb", "gradient", "masked", "mixture", "spread", "uniform"]


def masked(
    steps: int = 4, sampler: Sampler | None = None, length: int = 3, alpha: float = 0.5
) -> tuple[MaskedWorld, Tilt]:
    """A masked world and its tilt with a trainable table."""
    world = MaskedWorld(length, 3, seed=3, alpha=alpha)
    return world, trainable_tilt(world, steps=steps, sampler=sampler or Ancestral())


def uniform(steps: int = 4, length: int = 2) -> tuple[UniformWorld, Tilt]:
    """A uniform-noise world and its tilt with a trainable table."""
    world = UniformWorld(length, 3, seed=3)
    return world, trainable_tilt(world, steps=steps)


def mixture(steps: int = 16, sampler: Sampler | None = None) -> tuple[MixtureWorld, Tilt]:
    """A mixture world and its tilt with a trainable correction of the posterior mean."""
    world = MixtureWorld(1, seed=1)
    return world, trainable_tilt(world, steps=steps, sampler=sampler)


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
