"""DDIM: any part of the posterior's noise, down to none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..processes.base import Process
from ..transitions import GaussianTransition
from .base import Sampler, need_gaussian

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = a_s x0 + sqrt(s_s^2 - std^2) eps + std z, with std = eta times that of the posterior (Song et al. 2021, eq. 12).

    eta = 0 is deterministic: the first-order exponential solver of the probability flow, on any affine path. eta = 1 is
    the ancestral sampler (DDPM). For flow matching eta = 0 is Euler's method in time.

    Args:
        eta: from 0 to 1.

    Raises:
        ValueError: eta outside [0, 1]; (when run) a process that is not Gaussian.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; expected 0 <= eta <= 1. ExponentialSDE takes more noise than DDPM.")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def times(self, diffusion: Diffusion) -> Tensor:
        need_gaussian(diffusion.process, "DDIM")
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> GaussianTransition:
        gaussian = need_gaussian(process, "DDIM")
        ratio = gaussian.snr_ratio(x, t, s)
        return gaussian.bridge(clean, x, t, s, (1 - self.eta**2 * (1 - ratio) * (1 + ratio)).sqrt())
