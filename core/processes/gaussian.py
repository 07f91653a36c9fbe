"""Gaussian diffusion on any affine path: x_t = a(t) x0 + s(t) eps. VP, VE, EDM and flow matching are paths of one class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..parameterisations.gaussian import Kind, Prediction, combine, convert, on_sites
from ..paths import Path
from ..transitions import GaussianTransition
from .base import Noised
from .times import Span, TimeLaw, UniformShare, UniformTime, stratified_uniforms

Weighting = Literal["x0", "simple", "snr", "min-snr", "v", "velocity", "elbo"]
_SIGNAL_FLOOR = 2 * math.log(1e-3)  # log-SNR below which the gradient of a value, of the order a / s, is only noise
_NOISE_FLOOR = -20.0  # log-SNR at which the bound may begin: the signal that is left is 5e-5 of the noise


@dataclass(frozen=True)
class Gaussian:
    """q(x_t | x0) = N(a(t) x0, s(t)^2) and the reverse steps that go with it.

    States and clean estimates (E[x0 | x_t]) are `[B, *shape]` floats of any shape. A bare network is taken to predict
    `path.predicts`: the velocity for `FlowMatching`, as published flow models do, and v on every other path, because v
    (unlike eps) determines x0 at every time, also where no signal is left, and its targets have unit variance at every
    time when the data have. A network of another kind is named: `Gaussian(VPLinear(), predicts="eps")`.

    Args:
        path: a(t) and s(t).
        predicts: what a bare network returns: "x0", "eps", "v", "velocity" or "score"; see `parameterisations.gaussian`.
        law: law of the time in `noise`.
        sigma_min: s / a at which the bound ends, in the units of the data; see `elbo`.
        dtype: of the draws of the prior (None: torch's default).

    Raises:
        ValueError: an unknown kind of prediction, one that the path does not allow, or a sigma_min outside the path.
    """

    path: Path
    predicts: Kind | None = None
    law: TimeLaw = field(default_factory=UniformShare)
    sigma_min: float = 1e-4
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, Path):
            raise ValueError(f"path is a {type(self.path).__name__}; expected a path such as VPCosine().")
        object.__setattr__(self, "predicts", self.predicts or self.path.predicts)
        Prediction(self.path, cast(Kind, self.predicts))
        low, high = self.span if self.sigma_min > 0 else (0, 0)
        if not 0 < low < high:
            raise ValueError(f"sigma_min is {self.sigma_min}; expected a positive noise level of the path.")

    @property
    def span(self) -> Span:
        """(t_min, t_max) of the bound: where s / a is `sigma_min`, and where the log-SNR is -20, or 1."""
        one = torch.ones((), dtype=torch.float64)
        last = self.path.log_snr(one)
        t_max = 1.0 if last >= _NOISE_FLOOR else float(self.path.inverse(_NOISE_FLOOR * one))
        return float(self.path.inverse(-2 * math.log(self.sigma_min) * one)), t_max

    def grid(self, steps: int) -> Tensor:
        """The path's own inference grid, float64 `[steps + 1]`."""
        return self.path.grid(steps)

    # --- The process contract ---

    def prior(self, n: int, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """N(0, s(1)^2), `[n, *shape]`; on the generator's device."""
        scale = float(self.path.s(torch.ones((), dtype=torch.float64)))
        device = generator.device if generator else None
        return scale * torch.randn(n, *shape, dtype=self.dtype, generator=generator, device=device)

    def corrupt(self, x0: Tensor, t: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        device = generator.device if generator else x0.device
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=generator, device=device).to(x0.device)
        time = on_sites(t, x0)
        return combine(x0, eps, self.path.a(time), self.path.s(time))

    def transition(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> GaussianTransition:
        """q(x_s | x_t, x0 = clean), the exact Gaussian posterior: DDPM's step on any path (Ho et al. 2020, eq. 7)."""
        return self.bridge(clean, x, t, s, self.snr_ratio(x, t, s))

    def elbo(self, clean: Tensor, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """One-sample estimate of a continuous-time lower bound (Kingma et al. 2021, eq. 17), `[B]` nats.

        Its mean over t ~ U(0, 1) (0 outside `span`) and x ~ q(x_t | x0) is

            - 1/2 int |eps - eps_hat|^2 d lambda  -  KL(q(x_tmax | x0) || N(0, s^2))  -  d / 2 log(2 pi e sigma_min^2),

        which bounds, for any network, the mean of log p(x0 + sigma_min z) over z ~ N(0, I), where p is the density that
        the exact reverse process has at t_min (in units of the data). It tends to a bound on log p(x0) as sigma_min
        falls. The last term is a Gaussian decoder, N(x_tmin / a, sigma_min^2). At t_max the prior is N(0, s(t_max)^2).

        For a low variance, sigmoid(lambda) |eps|^2, of known mean, is taken from the error, and the constants are spread
        over time by the density of `law`, so that importance weights do not disturb them.
        """
        time = _per_sample(t, x)
        error, noise = self._errors(clean, x0, x, time)
        known = torch.sigmoid(self.path.log_snr(time)) * noise
        density = self.law.density(time, self.path, self.span)
        terms = self.path.log_snr_rate(time) / 2 * (error - known) - density * self._constant(x0)
        return terms.to(clean.dtype)

    def noise(self, x0: Tensor, *, strata: int | None = None, generator: torch.Generator | None = None) -> Noised:
        """t ~ `law` within `span`, of low discrepancy over the batch (Kingma et al. 2021); t and importance float64 `[B]`."""
        u = stratified_uniforms(len(x0), strata or len(x0), generator).to(x0.device)
        t = self.law.quantile(u, self.path, self.span)
        return Noised(self.corrupt(x0, t, generator=generator), t, 1 / self.law.density(t, self.path, self.span))

    def parameterise(self, network: Callable[..., Tensor]) -> Denoiser:
        """Network output `[B, *shape]`, of the kind `predicts`, to the posterior mean."""
        return Denoiser(network, Prediction(self.path, cast(Kind, self.predicts)))

    def check(self, x: Tensor, *, clean: bool) -> None:
        """Raises ValueError unless x is a finite float tensor `[B, *shape]`."""
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point or x.ndim < 2:
            came = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"A Gaussian process got {came}; expected floats [B, *shape].")
        if not bool(x.isfinite().all()):
            raise ValueError("A Gaussian process got NaN or infinite values; expected finite floats.")

    # --- Steps that keep the marginals ---

    def snr_ratio(self, x: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
        """sqrt(SNR(t) / SNR(s)) in [0, 1], float64 `[1 or B, 1, ...]`: the part of the noise that the posterior keeps."""
        time, after = on_sites(t, x), on_sites(s, x)
        return self.path.s(after) * self.path.a(time) / (self.path.a(after) * self.path.s(time))

    def bridge(
        self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor, kept: Tensor | float
    ) -> GaussianTransition:
        """x_s = a_s x0 + s_s (kept eps + sqrt(1 - kept^2) z): x_s has the law q(x_s | x0) whatever part is kept.

        kept = 1 is deterministic (DDIM), sqrt(SNR(t) / SNR(s)) the posterior (DDPM), 0 forgets x_t. At s = 0 the step is
        deterministic and gives the clean estimate.

        Args:
            clean, x: `[B, *shape]`; kept: in [0, 1], float64 `[1 or B, 1, ...]` or a number.
        """
        time, after = on_sites(t, x), on_sites(s, x)
        kept = torch.as_tensor(kept, dtype=torch.float64, device=x.device)
        noise = self.path.s(after)
        on_x = noise * kept / self.path.s(time)
        mean = combine(x, clean, on_x, self.path.a(after) - on_x * self.path.a(time))
        std = noise * ((1 - kept) * (1 + kept)).clamp(min=0).sqrt()
        return GaussianTransition(mean, std.to(x.dtype))

    # --- What a clean estimate says in other words ---

    def predict(self, kind: Kind, clean: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """The clean estimate at (x, t) as eps, v, velocity or score, `[B, *shape]`."""
        return convert(self.path, clean, "x0", kind, x, t)

    def guide(self, clean: Tensor, x: Tensor, t: float | Tensor, log_h: Tensor) -> Tensor:
        """The clean estimate `[B, *shape]` of the law reweighted by h (Doob): score + grad log h, in terms of x0.

        Args:
            log_h: `[B, *shape]`, the gradient of log h at (x, t), or at (x, `inside(t)`) where no signal is left at t.
        """
        time = self.path.inverse(self.path.log_snr(on_sites(t, x)).clamp(min=_SIGNAL_FLOOR))
        return combine(clean, log_h, torch.ones_like(time), self.path.s(time) ** 2 / self.path.a(time))

    def inside(self, t: float) -> float:
        """t, or the last time at which enough signal is left for h to depend on x_t (a / s = 1e-3)."""
        limit = float(self.path.inverse(torch.tensor(_SIGNAL_FLOOR, dtype=torch.float64)))
        return min(t, limit)

    def loss(
        self, clean: Tensor, x0: Tensor, t: float | Tensor, weighting: Weighting = "simple", gamma: float = 5.0
    ) -> Tensor:
        """The weighted denoising error w(t) |clean - x0|^2, summed over coordinates, `[B]`, for t inside (0, 1).

        "x0" is plain. "simple" is the error of eps, w = SNR (Ho et al. 2020); "v" that of v, w = SNR + 1; "velocity" that of
        the flow's velocity; "snr" has w = max(SNR, 1) (Salimans and Ho 2022); "min-snr" w = min(SNR, gamma) (Hang et al.
        2023); "elbo" is the integrand of the bound, w = -SNR'(t) / 2.

        Raises:
            ValueError: an unknown weighting.
        """
        time = _per_sample(t, x0)
        weight = self.weight(time, weighting, gamma)
        return (weight * _square(clean - x0)).to(clean.dtype)

    def weight(self, t: Tensor, weighting: Weighting, gamma: float = 5.0) -> Tensor:
        """w(t) of `loss`, float64, elementwise."""
        path, snr = self.path, self.path.log_snr(t).exp()
        if weighting == "velocity":
            return ((path.a(t) * path.ds(t) - path.s(t) * path.da(t)) / path.s(t)) ** 2
        if weighting == "elbo":
            return -path.log_snr_rate(t) * snr / 2
        weights = {"x0": torch.ones_like(snr), "simple": snr, "v": snr + 1, "snr": snr.clamp(min=1)}
        weights["min-snr"] = snr.clamp(max=gamma)
        if weighting not in weights:
            raise ValueError(f"weighting is {weighting!r}; expected one of {', '.join(get_args(Weighting))}.")
        return weights[weighting]

    def reweighted(self, weighting: Weighting = "simple", law: TimeLaw | None = None, gamma: float = 5.0) -> Reweighted:
        """This process for training on another loss than the bound; its `law` is uniform in time unless given."""
        law = law or UniformTime()
        return Reweighted(self.path, self.predicts, law, self.sigma_min, self.dtype, weighting, gamma)

    def _errors(self, clean: Tensor, x0: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """|eps - eps_hat|^2 and |eps|^2, float64 `[B]`."""
        ratio = self.path.a(t) / self.path.s(t)
        return ratio**2 * _square(clean - x0), _square(convert(self.path, x0, "x0", "eps", x, t))

    def _constant(self, x0: Tensor) -> Tensor:
        """What the bound subtracts whatever the network says, float64 `[B]`."""
        highest, lowest = self.path.log_snr(torch.tensor(self.span, dtype=torch.float64)).tolist()
        per_site = math.log(2 * math.pi * math.e) + math.log1p(math.exp(-highest)) - math.log1p(math.exp(lowest))
        return x0[0].numel() / 2 * per_site + math.exp(lowest) / 2 * _square(x0)


@dataclass(frozen=True)
class Reweighted(Gaussian):
    """A Gaussian process whose `elbo` is minus a weighted loss: it trains, and bounds nothing.

    The objective is the mean of `loss` over t ~ `law`; the law is a part of the weighting, so importances are 1. Make it by
    `Gaussian.reweighted`, train on it, and put the trained denoiser back under the process itself.
    """

    weighting: Weighting = "simple"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weight(torch.full((), 0.5, dtype=torch.float64), self.weighting, self.gamma)

    def elbo(self, clean: Tensor, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        return -self.loss(clean, x0, t, self.weighting, self.gamma)

    def noise(self, x0: Tensor, *, strata: int | None = None, generator: torch.Generator | None = None) -> Noised:
        noised = super().noise(x0, strata=strata, generator=generator)
        return Noised(noised.x, noised.t, torch.ones_like(noised.t))


def _per_sample(t: float | Tensor, x: Tensor) -> Tensor:
    """Time as float64 `[B]`."""
    return on_sites(t, x).flatten().expand(len(x))


def _square(x: Tensor) -> Tensor:
    """Sum of squares over all but the first dimension, float64 `[B]`."""
    return x.double().square().flatten(1).sum(1)
