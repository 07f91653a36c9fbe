"""A Gaussian mixture with its exact posterior mean on any affine path, for the tests of Gaussian processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from tiltflow.core import Diffusion
from tiltflow.core.paths import EDM, VE, Affine, FlowMatching, SubVP, VPCosine, VPLinear
from tiltflow.core.processes import Gaussian
from torch import Tensor

PATHS = {
    "vp": VPLinear(),
    "subvp": SubVP(),
    "cosine": VPCosine(),
    "ve": VE(),
    "edm": EDM(),
    "flow": FlowMatching(),
    "affine": Affine(lambda t: (1 - t) * (1 + t / 2), lambda t: t),
}


@dataclass(frozen=True)
class Mixture:
    """weights `[K]`, means `[K, D]`, variances `[K]` of isotropic components; float64."""

    weights: Tensor
    means: Tensor
    variances: Tensor

    def log_prob(self, x: Tensor, a: float | Tensor = 1.0, s: float | Tensor = 0.0) -> Tensor:
        """log density of a x0 + s eps at x `[B, D]`; a, s numbers or `[B, 1]`."""
        return self._joint(x, a, s).logsumexp(-1)

    def _joint(self, x: Tensor, a: float | Tensor, s: float | Tensor) -> Tensor:
        variance = a * a * self.variances + s * s
        gaps = x.unsqueeze(-2) - torch.as_tensor(a, dtype=torch.float64)[..., None] * self.means
        square = gaps.square().sum(-1)
        return self.weights.log() - 0.5 * square / variance - x.shape[-1] / 2 * (2 * math.pi * variance).log()

    def posterior_mean(self, x: Tensor, a: float | Tensor, s: float | Tensor) -> Tensor:
        """E[x0 | x] `[B, D]`."""
        a, s = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(s, dtype=torch.float64)
        shrink = a * self.variances / (a * a * self.variances + s * s)
        centres = self.means + shrink[..., None] * (x.unsqueeze(-2) - a[..., None] * self.means)
        return (self._joint(x, a, s).softmax(-1).unsqueeze(-1) * centres).sum(-2)

    def network(self, path):
        """A bare network that predicts x0, exact at every (x, t)."""

        def predict(x: Tensor, t: Tensor) -> Tensor:
            time = t.double().unsqueeze(-1)
            return self.posterior_mean(x.double(), path.a(time), path.s(time)).to(x.dtype)

        return predict

    def diffusion(self, path, **options) -> Diffusion:
        process = Gaussian(path, predicts="x0", dtype=torch.float64)
        return Diffusion(process, self.network(path), self.means.shape[1:], **options)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[component] + self.variances[component].sqrt().unsqueeze(-1) * noise


def tensor(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PLANE = Mixture(tensor(0.3, 0.7), tensor([-1.0, 0.5], [1.2, -0.2]), tensor(0.3, 0.5))
LINE = Mixture(tensor(0.4, 0.6), tensor([-1.2], [0.8]), tensor(0.1, 0.2))


def slope(errors: list[float], factor: float = 2.0) -> float:
    """Observed order: mean of log(error ratio) / log(factor) over successive refinements."""
    ratios = [math.log(coarse / fine) / math.log(factor) for coarse, fine in pairwise(errors)]
    return sum(ratios) / len(ratios)
