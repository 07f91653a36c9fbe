"""What training methods ask of a tilt before anything is computed, each refusal with its reason and what to do."""

from __future__ import annotations

import math

import torch

from ..processes.gaussian import Gaussian
from ..processes.product import Product
from ..samplers import Ancestral, Confidence
from ..states import index_tree, one_hot
from ..tilt import Tilt


def need_steps(tilt: Tilt, name: str, *, noise: bool = False) -> None:
    """Raise ValueError unless the sampler gives transitions (`noise`: random ones)."""
    sampler = tilt.diffusion.sampler
    if not sampler.single_step or (noise and not sampler.stochastic):
        lack = "several estimates a step" if not sampler.single_step else "steps without noise, which have no density"
        raise ValueError(f"{name} follows the sampler step by step, and {sampler} has {lack}. Use Ancestral().")


def need_gradients(tilt: Tilt, name: str) -> None:
    """Raise ValueError unless gradients can run through a step: plain ancestral ones for tokens, of a network that takes
    relaxed states too, and gives for one-hot ones what it gives for tokens (tried on one state)."""
    diffusion = tilt.diffusion
    if not diffusion.is_tokens:
        return
    if diffusion.sampler != Ancestral():
        raise ValueError(
            f"{name} backpropagates through plain ancestral steps, not through {diffusion.sampler}. Use Ancestral(), or "
            "estimator=Reinforce(), which needs only draws and their log-probabilities."
        )
    x, t = diffusion.prior(1, generator=torch.Generator().manual_seed(0)), float(diffusion.times[0])
    states = one_hot(x, diffusion.symbols, next((p.dtype for p in diffusion.denoiser.parameters()), None))
    cond = index_tree(tilt.cond, slice(0, 1))
    with torch.no_grad():
        hard = diffusion.clean(x, t, cond)
        try:
            gap = float((diffusion.clean(states, t, cond).exp() - hard.exp()).abs().max())
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{name} gives the network relaxed tokens, float [B, L, {diffusion.symbols}], and it takes none: {error}. Let "
                "it take them in place of one-hot tokens, or use estimator=Reinforce()."
            ) from error
    if not gap < 1e-3:
        raise ValueError(
            f"{name} gives the network relaxed tokens, and for one-hot ones it answers otherwise than for the tokens "
            f"themselves: probabilities differ by up to {gap:.2g}. Mend it, or use estimator=Reinforce()."
        )


def need_density(tilt: Tilt, name: str) -> None:
    """Raise ValueError unless steps of two models have densities that can be compared."""
    diffusion, sampler = tilt.diffusion, tilt.diffusion.sampler
    if isinstance(diffusion.process, Product):
        raise ValueError(
            f"{name} takes models of tokens or of numbers, not joint states: their last step is partly fixed."
        )
    if isinstance(sampler, Confidence):
        raise ValueError(
            f"{name} compares steps of two models, and {sampler} fixes sites by the model. Use Ancestral()."
        )
    if not math.isclose(getattr(sampler, "top_p", 1.0), 1.0):
        raise ValueError(f"{name} needs steps that every model can take, and top_p cuts some off. Use top_p=1.")


def need_bounds(tilt: Tilt, name: str) -> None:
    """Raise ValueError unless samples can be noised again as the process does, with a divergence between estimates."""
    diffusion = tilt.diffusion
    if not isinstance(diffusion.process, Gaussian) and not hasattr(diffusion.process, "rates"):
        raise ValueError(
            f"{name} takes Gaussian processes and tokens with rates, not {type(diffusion.process).__name__}."
        )
    if diffusion.start is not None:
        raise ValueError(
            f"{name} noises every site, and some are fixed here. Tune without fixed sites, and fix them after."
        )
