"""A trainer's mean gradient against the exact gradient of J: is the estimator unbiased, and if not, by how much?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.diffusion import Diffusion
from ..core.samplers import Sampler
from ..core.tilt import Tilt
from ..core.tuning import Roles, Tuning
from ..core.tuning.roles import cast_roles
from ..core.worlds import trainable_tilt
from ..core.worlds.statistics import ALARM, MISS, Outcome, normal_quantile
from .measure import generator
from .train import gradient

DIRECTIONS = 8  # random ones, besides that of the gradient and that of the seeded fault
FAULT = 0.2  # the seeded fault: an alpha that is too high by this share
CLEAR = 3.0  # standard errors that two biases must differ by


@dataclass(frozen=True)
class Bias:
    """The mean of independent gradients g_b of one batch each, compared with the exact gradient G of J.

    Attributes:
        world, method, variant: names. batches, batch: how many, and samples in each.
        bias: |E[g] - G| / |G|, freed of the noise of the mean; error: its standard error (an upper bound where the bias is
            within noise). None where the estimator has a unit of its own.
        cosine: of the mean gradient with G.
        z: for estimators that claim to have no bias, the largest of the scores along fixed directions; outcome: of that test.
    """

    world: str
    method: str
    variant: str
    batches: int
    batch: int
    bias: float | None
    error: float | None
    cosine: float
    z: float | None
    outcome: Outcome | None


def measure_bias(
    method: Tuning,
    world: Any,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    tilt: Tilt | None = None,
    batches: int = 64,
    disturbed: float = 0.3,
    unbiased: bool = False,
    scaled: bool = False,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    alarm: float = ALARM,
    names: tuple[str, str, str] | None = None,
) -> Bias:
    """Compare a trainer's mean gradient with that of J, at the pretrained weights plus noise (where all terms of J pull).

    Args:
        world, steps, sampler, tilt: as in `measure_trainer`.
        batches: independent ones. disturbed: standard deviation of the noise on the weights.
        unbiased: the estimator claims that its mean is G: test it. scaled: its mean is G in another unit.
        options: of `world.objective`. alarm: probability with which the test fails right code.
    """
    tilt = trainable_tilt(world, steps=steps, sampler=sampler) if tilt is None else tilt
    names = names or (type(world).__name__, type(method).__name__, "")
    roles = cast_roles(tilt.diffusion, method.averages)
    tilt = replace(tilt, diffusion=roles.ref)
    _disturb(roles.theta, disturbed)
    hot = replace(tilt, alpha=(1 + FAULT) * tilt.alpha)
    exact, faulty = (gradient(world.objective(roles.theta, t, **(options or {})), roles.theta) for t in (tilt, hot))
    dice = generator(seed, "bias", *names)
    found = torch.stack([_one(method, tilt, roles, dice) for _ in range(batches)])
    size, error = relative_bias(found, exact)
    mean = found.mean(0)
    z, outcome = _test(found - exact, exact, faulty - exact, alarm) if unbiased else (None, None)
    return Bias(
        *names,
        batches=batches,
        batch=method.batch,
        bias=None if scaled else size,
        error=None if scaled else error,
        cosine=float(mean @ exact / (mean.norm() * exact.norm())),
        z=z,
        outcome=outcome,
    )


def relative_bias(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """|E[g] - G| / |G| from independent gradients g `[n, P]`, and its standard error.

    The square is estimated by the mean of products of different batches' errors, which noise does not raise; its error is
    that of the jackknife.
    """
    n = len(found)
    products = (found - exact) @ (found - exact).T
    products.fill_diagonal_(0.0)
    rows, total = products.sum(1), products.sum()
    square = float(total) / (n * (n - 1))
    left_out = (total - 2 * rows) / ((n - 1) * (n - 2))
    spread = float(((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()).sqrt())
    size = math.sqrt(max(0.0, square))
    return size / float(exact.norm()), spread / (2 * max(size, math.sqrt(spread), 1e-300)) / float(exact.norm())


def _one(method: Tuning, tilt: Tilt, roles: Roles, dice: torch.Generator) -> Tensor:
    """Minus the gradient of one batch's loss, flat."""
    with torch.no_grad():
        batch = method.collect(tilt, roles, dice)
    return -gradient(method.loss(tilt, roles, batch, dice, 0.0).value, roles.theta)


def _test(errors: Tensor, exact: Tensor, fault: Tensor, alarm: float) -> tuple[float, Outcome]:
    """The largest score of mean errors `[n, P]` along the gradient, along the fault, and along random directions; the
    outcome is underpowered where the fault would not be seen."""
    dice = torch.Generator().manual_seed(0)
    others = torch.randn(DIRECTIONS, len(exact), dtype=torch.float64, generator=dice)
    along = errors @ torch.cat([exact.unsqueeze(0), fault.unsqueeze(0), others]).T
    error = along.std(0) / math.sqrt(len(along))
    z = float(_normal(along.mean(0) / error, len(along) - 1).abs().amax())
    limit = normal_quantile(alarm / 2 / along.shape[1])
    seen = float(fault @ fault / error[1]) > limit + normal_quantile(MISS)
    return z, "fail" if z > limit else "pass" if seen else "underpowered"


def _normal(t: Tensor, df: int) -> Tensor:
    """Student's t with df degrees of freedom as a standard normal score (Wallace 1959)."""
    size = (df * torch.log1p(t**2 / df)).sqrt() * (8 * df + 1) / (8 * df + 3)
    return size * t.sign()


@torch.no_grad()
def _disturb(model: Diffusion, scale: float) -> None:
    dice = torch.Generator().manual_seed(1)
    for parameter in model.denoiser.parameters():
        parameter.add_(scale * torch.randn(parameter.shape, generator=dice, dtype=parameter.dtype))
