"""Log-likelihood of a Gaussian diffusion by the probability flow (Chen et al. 2018; Song et al. 2021, section 4.3).

The flow is followed in y = x / (a + s) against u = s / (a + s), where every affine path is y = (1 - u) x0 + u eps and the
slope w = eps - x0 has no singularity: at u = 0 it is -x0, because the mean of the noise given x_0 is 0. Then

    log p(x0) = log N(x_1; 0, s(1)^2) + d log(a(1) + s(1)) + int_0^{u(1)} div w du.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .parameterisations.gaussian import to_eps
from .processes.gaussian import Gaussian

if TYPE_CHECKING:
    from .diffusion import Diffusion

Slope = Callable[[float, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Flow:
    """The flow with its divergence: (u, y `[B, *shape]`) -> (dy / du, div `[B]`), float64."""

    diffusion: Diffusion
    process: Gaussian
    directions: Tensor | None  # [P, B, *shape] probes; None for the exact divergence
    cond: Any
    dtype: torch.dtype

    def __call__(self, u: float, y: Tensor) -> tuple[Tensor, Tensor]:
        if u == 0:
            return -y, y.new_full((len(y),), -float(y[0].numel()))
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = self._slope(u, y)
            divergence = self._divergence(slope, y)
        return slope.detach(), divergence

    def _slope(self, u: float, y: Tensor) -> Tensor:
        path = self.process.path
        t = path.inverse(2 * torch.logit(torch.tensor(1 - u, dtype=torch.float64))).clamp(max=1)
        x = y * (path.a(t) + path.s(t))
        clean = self.diffusion.clean(x.to(self.dtype), float(t), self.cond).double()
        return to_eps(path, "x0", clean, x, t) - clean

    def _divergence(self, slope: Tensor, y: Tensor) -> Tensor:
        """Mean over probes v of v' J v, or the sum over coordinates where they are the unit vectors."""
        exact = self.directions is None
        probes = _units(y) if self.directions is None else self.directions
        products = torch.autograd.grad(slope, y, probes, is_grads_batched=True)[0]
        total = (products * probes).flatten(2).sum((0, 2))
        return total if exact else total / len(probes)


def log_likelihood(
    diffusion: Diffusion,
    x0: Tensor,
    *,
    steps: int = 64,
    solver: Literal["rk4", "heun"] = "rk4",
    divergence: Literal["exact", "hutchinson"] = "exact",
    probes: int = 1,
    cond: Any = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p(x0) under the model's own probability flow, float64 `[B]` nats.

    The density of the exact flow, not of a sampler with few steps. Estimates a step: 4 (rk4) or 2 (heun), each with d vector
    products for the exact divergence and `probes` for Hutchinson's.

    Args:
        x0: `[B, *shape]` floats; the network sees its dtype, the state is kept in float64.
        steps: equal steps of the noise's share u. Data with details of size sigma need steps finer than sigma.
        divergence: "hutchinson" takes Rademacher probes, the same along the path: unbiased (Grathwohl et al. 2019).
        probes: their number.

    Raises:
        ValueError: a process that is not Gaussian, bad data, or an unknown solver or divergence.
    """
    process = diffusion.process
    if not isinstance(process, Gaussian):
        raise ValueError(
            f"A probability flow needs a Gaussian process, not {type(process).__name__}; use elbo instead."
        )
    process.check(x0, clean=True)
    if solver not in _SOLVERS or divergence not in ("exact", "hutchinson"):
        raise ValueError(
            f"Got solver {solver!r} and divergence {divergence!r}; see the signature for those that exist."
        )
    if min(steps, probes) < 1:
        raise ValueError(f"steps and probes are {steps} and {probes}; expected at least 1.")
    directions = _rademacher(x0, probes, generator) if divergence == "hutchinson" else None
    flow = _Flow(diffusion, process, directions, cond, x0.dtype)
    a, s = (float(f(torch.ones((), dtype=torch.float64))) for f in (process.path.a, process.path.s))
    y, integral = x0.double(), torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for u, v in pairwise(torch.linspace(0, s / (a + s), steps + 1, dtype=torch.float64).tolist()):
        y, gained = _SOLVERS[solver](flow, y, u, v)
        integral = integral + gained
    z = y * ((a + s) / s)
    normal = -0.5 * z.square().flatten(1).sum(1) - z[0].numel() * (0.5 * math.log(2 * math.pi) + math.log(s / (a + s)))
    return normal + integral


def _heun(flow: Slope, y: Tensor, u: float, v: float) -> tuple[Tensor, Tensor]:
    h = v - u
    first, rate = flow(u, y)
    second, rate_2 = flow(v, y + h * first)
    return y + h / 2 * (first + second), h / 2 * (rate + rate_2)


def _rk4(flow: Slope, y: Tensor, u: float, v: float) -> tuple[Tensor, Tensor]:
    h, middle = v - u, (u + v) / 2
    k1, d1 = flow(u, y)
    k2, d2 = flow(middle, y + h / 2 * k1)
    k3, d3 = flow(middle, y + h / 2 * k2)
    k4, d4 = flow(v, y + h * k3)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)


_SOLVERS = {"rk4": _rk4, "heun": _heun}


def _units(y: Tensor) -> Tensor:
    """The unit vectors of one sample, for every sample: `[d, B, *shape]`."""
    size = y[0].numel()
    eye = torch.eye(size, dtype=y.dtype, device=y.device).reshape(size, 1, *y.shape[1:])
    return eye.expand(size, *y.shape)


def _rademacher(x0: Tensor, probes: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator else x0.device
    bits = torch.randint(2, (probes, *x0.shape), generator=generator, device=device).to(x0.device)
    return 2.0 * bits.double() - 1
