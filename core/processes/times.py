"""Laws of the time at which a denoiser is trained, and uniforms of low discrepancy to draw from them.

A law is restricted to the span [t_min, t_max] that a process asks for. `quantile` turns uniforms into times, `density` is
that of the restricted law, so that one over it is the importance weight of a mean over times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..paths import Path

Span = tuple[float, float]


class TimeLaw(Protocol):
    """A law on times; everything float64, elementwise."""

    def quantile(self, u: Tensor, path: Path, span: Span) -> Tensor:
        """Times of uniforms u in [0, 1)."""
        ...

    def density(self, t: Tensor, path: Path, span: Span) -> Tensor:
        """Density at times within the span, which integrates to 1 over it."""
        ...


@dataclass(frozen=True)
class UniformTime:
    """Equal density over time."""

    def quantile(self, u: Tensor, path: Path, span: Span) -> Tensor:
        return span[0] + u * (span[1] - span[0])

    def density(self, t: Tensor, path: Path, span: Span) -> Tensor:
        return torch.full_like(t, 1 / (span[1] - span[0]))


@dataclass(frozen=True)
class UniformShare:
    """Equal density over s / (a + s), the noise's share of x: for `FlowMatching` the same as uniform time.

    Its tails fall with the log-SNR as those of the bound's integrand do, for data of about unit scale: the default for
    estimating bounds on any path.
    """

    def quantile(self, u: Tensor, path: Path, span: Span) -> Tensor:
        low, high = self._ends(path, span)
        return path.inverse(-2 * torch.logit(low + u * (high - low))).clamp(*span)

    def density(self, t: Tensor, path: Path, span: Span) -> Tensor:
        low, high = self._ends(path, span)
        share = torch.sigmoid(-path.log_snr(t) / 2)
        return -path.log_snr_rate(t) / 2 * share * (1 - share) / (high - low)

    def _ends(self, path: Path, span: Span) -> tuple[Tensor, Tensor]:
        high, low = _log_snrs(path, span)
        return torch.sigmoid(-high / 2), torch.sigmoid(-low / 2)


@dataclass(frozen=True)
class UniformLogSnr:
    """Equal density over the log-SNR: a law of the noise level that is the same on every path, all levels equal."""

    def quantile(self, u: Tensor, path: Path, span: Span) -> Tensor:
        high, low = _log_snrs(path, span)
        return path.inverse(high + u * (low - high)).clamp(*span)

    def density(self, t: Tensor, path: Path, span: Span) -> Tensor:
        high, low = _log_snrs(path, span)
        return -path.log_snr_rate(t) / (high - low)


@dataclass(frozen=True)
class LogitNormal:
    """logit t ~ N(mean, std^2): most training at the middle times (Esser et al. 2024, Stable Diffusion 3)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std is {self.std}; expected a positive number.")

    def quantile(self, u: Tensor, path: Path, span: Span) -> Tensor:
        low, high = self._ends(u, span)
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(low + u * (high - low))).clamp(*span)

    def density(self, t: Tensor, path: Path, span: Span) -> Tensor:
        low, high = self._ends(t, span)
        z = (torch.logit(t) - self.mean) / self.std
        normal = torch.distributions.Normal(torch.zeros_like(z), 1.0)
        return normal.log_prob(z).exp() / (self.std * t * (1 - t)) / (high - low)

    def _ends(self, like: Tensor, span: Span) -> Tensor:
        """The distribution function at both ends of the span, `[2]`."""
        return torch.special.ndtr((torch.logit(like.new_tensor(span)) - self.mean) / self.std)


def _log_snrs(path: Path, span: Span) -> tuple[Tensor, Tensor]:
    ends = path.log_snr(torch.tensor(span, dtype=torch.float64))
    return ends[0], ends[1]


def stratified_uniforms(n: int, strata: int, generator: torch.Generator | None) -> Tensor:
    """float64 `[n]` in [0, 1): each block of `strata` is one uniform shift of an even comb, so every entry is uniform."""
    blocks = -(-n // strata)
    shift = torch.rand(
        blocks, 1, dtype=torch.float64, generator=generator, device=generator.device if generator else None
    )
    return ((torch.arange(strata, device=shift.device) / strata + shift) % 1).flatten()[:n]
