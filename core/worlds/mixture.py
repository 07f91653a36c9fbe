"""MixtureWorld: a Gaussian mixture with a quadratic reward. Its tilt is a mixture again, and so is every noisy marginal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion import Diffusion
from ..parameterisations.gaussian import Prediction
from ..paths import FlowMatching, Path
from ..processes.gaussian import Gaussian
from ..samplers import Ancestral, Sampler
from ..steering import SVDD, BestOfN, Doob, ImportanceResampling, Steering
from ..steering.svdd import argmax, softmax
from ..tilt import Tilt
from ..values import Given, PosteriorMean
from .line import Change, Intervals, path_kl, push, walk
from .selection import select_best, select_one


@dataclass(frozen=True)
class Mixture:
    """sum_k w_k N(m_k, diag v_k) on d coordinates, float64.

    Attributes:
        log_w: `[k]`, normalised; mean, variance: `[k, d]`.
    """

    log_w: Tensor
    mean: Tensor
    variance: Tensor

    def noised(self, a: Tensor, s: Tensor) -> Mixture:
        """The law of a x + s eps."""
        return Mixture(self.log_w, a * self.mean, a**2 * self.variance + s**2)

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_k N(x; m_k, v_k), `[B, d] -> [B, k]`."""
        z = (x.unsqueeze(1) - self.mean) ** 2 / self.variance + (2 * math.pi * self.variance).log()
        return self.log_w - z.sum(-1) / 2

    def log_prob(self, x: Tensor) -> Tensor:
        """`[B, d] -> [B]`."""
        return self.log_joint(x).logsumexp(1)

    def cdf(self, edges: Tensor, axis: int) -> Tensor:
        """P(coordinate `axis` of component k < edge): `[e] -> [k, e]`."""
        return torch.special.ndtr((edges - self.mean[:, axis, None]) / self.variance[:, axis, None].sqrt())

    def cells(self, edges: list[Tensor]) -> Tensor:
        """Masses of the cells of a product grid, `[C]`, the first coordinate slowest; the outermost cells are unbounded."""
        parts = [torch.nn.functional.pad(self.cdf(edge, i), (1, 1)) for i, edge in enumerate(edges)]
        for part in parts:
            part[:, -1] = 1
        masses = self.log_w.exp().unsqueeze(1)
        for part in parts:
            masses = (masses.unsqueeze(2) * part.diff(dim=1).unsqueeze(1)).flatten(1)
        return masses.sum(0)

    def tilt(self, linear: Tensor, quadratic: Tensor) -> tuple[Mixture, float]:
        """The law proportional to this one times exp(linear . x - quadratic . x^2 / 2), and the log of its normaliser.

        Raises:
            ValueError: the product is not integrable.
        """
        precision = 1 / self.variance + quadratic
        if bool((precision <= 0).any()):
            raise ValueError("The reward grows faster than p falls: p exp(r / alpha) has no finite mass. Raise alpha.")
        slope = self.mean / self.variance + linear
        gain = slope**2 / precision - self.mean**2 / self.variance - (precision * self.variance).log()
        log_w = self.log_w + gain.sum(-1) / 2
        log_z = log_w.logsumexp(0)
        return Mixture(log_w - log_z, slope / precision, 1 / precision), float(log_z)


def _draw(size: int, components: int, seed: int) -> Mixture:
    """A mixture with modes within about 2 of the origin and widths .3 to .8."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(components, 2 * size + 1, dtype=torch.float64, generator=generator)
    spread = 4 * (torch.arange(components) + u[:, 0]) / components - 2  # modes that do not fall together
    mean = torch.cat([spread.unsqueeze(1), 3 * u[:, 1:size] - 1.5], 1)
    return Mixture((0.5 + u[:, -1]).log().log_softmax(0), mean, (0.3 + 0.5 * u[:, size : 2 * size]) ** 2)


@dataclass(frozen=True)
class MixtureWorld:
    """A random Gaussian mixture p under a Gaussian process, and the reward r(x) = b . x - q |x - c|^2 / 2.

    Everything is float64 and in closed form. Outcomes are cells of a grid, about equally likely under p and p*.

    Args:
        size: coordinates, 1 or 2; components: of the mixture; seed: draws p and the reward.
        path: how data is noised, for instance `VPCosine()` or `FlowMatching()`.
        alpha: temperature of the tilt. quadratic: q, at least 0; 0 makes the reward linear.
        steps: of the default sampler, which is ancestral; its law is p up to about 1 / steps.

    Raises:
        ValueError: a size other than 1 or 2, or a number out of range.
    """

    size: int = 1
    components: int = 3
    seed: int = 0
    path: Path = field(default_factory=FlowMatching)
    alpha: float = 0.5
    quadratic: float = 0.3
    steps: int = 32

    def __post_init__(self) -> None:
        if self.size not in (1, 2) or self.components < 1:
            raise ValueError(f"size={self.size}, components={self.components}: expected size 1 or 2, components >= 1.")
        if self.alpha <= 0 or self.quadratic < 0 or self.steps < 1:
            raise ValueError("Expected alpha > 0, quadratic >= 0 and steps >= 1.")

    @cached_property
    def data(self) -> Mixture:
        """p."""
        return _draw(self.size, self.components, self.seed)

    @cached_property
    def _reward(self) -> tuple[Tensor, Tensor]:
        """b and c, `[d]` each."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        b, c = torch.randn(2, self.size, dtype=torch.float64, generator=generator)
        return 0.6 * b, c

    @cached_property
    def _tilted(self) -> tuple[Mixture, float]:
        """p* and log Z: r / alpha is a quadratic with a constant."""
        b, c = self._reward
        mixture, log_z = self.data.tilt(
            (b + self.quadratic * c) / self.alpha, torch.full_like(b, self.quadratic / self.alpha)
        )
        return mixture, log_z - self.quadratic * float((c**2).sum()) / (2 * self.alpha)

    @property
    def target(self) -> Mixture:
        """p*."""
        return self._tilted[0]

    @property
    def log_z(self) -> float:
        """log E_p[exp(r / alpha)]."""
        return self._tilted[1]

    def reward(self, x: Tensor) -> Tensor:
        """r(x), `[B, d] -> [B]`; differentiable."""
        b, c = self._reward
        return x.double() @ b - self.quadratic * ((x.double() - c) ** 2).sum(-1) / 2

    def marginal(self, t: float | Tensor, law: Mixture | None = None) -> Mixture:
        """The noisy marginal p_t, or that of another law."""
        time = torch.as_tensor(t, dtype=torch.float64)
        return (law or self.data).noised(self.path.a(time), self.path.s(time))

    def value(self, x: Tensor, t: float = 0.0) -> Tensor:
        """V(x_t, t) = alpha log E[exp(r / alpha) | x_t] = alpha log(Z p*_t(x) / p_t(x)), float64 `[B]`; differentiable."""
        x = x.double()
        ratio = self.marginal(t, self.target).log_prob(x) - self.marginal(t).log_prob(x)
        return self.alpha * (self.log_z + ratio)

    def h(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Doob's h = exp(V / alpha), float64 `[B]`."""
        return (self.value(x, t) / self.alpha).exp()

    def posterior_mean(self, x: Tensor, t: Tensor, law: Mixture | None = None) -> Tensor:
        """E[x0 | x_t], `[B, d]`, at times `[B]`; of p unless another law is given."""
        law = law or self.data
        a, s = (f(t.double()).reshape(-1, 1, 1) for f in (self.path.a, self.path.s))
        total = a**2 * law.variance + s**2  # [B, k, d]
        gap = x.double().unsqueeze(1) - a * law.mean
        log_joint = law.log_w - (gap**2 / total + total.log()).sum(-1) / 2
        mean = law.mean + a * law.variance / total * gap
        return (log_joint.softmax(1).unsqueeze(-1) * mean).sum(1)

    def exact(self, law: Mixture | None = None) -> Diffusion:
        """The diffusion with the exact posterior mean of p, or of another law (p* gives the exactly tilted model)."""
        process = Gaussian(self.path, dtype=torch.float64)
        network = Denoiser(lambda x, t: self.posterior_mean(x, t, law), Prediction(self.path, "x0"))
        return Diffusion(process, network, (self.size,), steps=self.steps, sampler=Ancestral())

    @cached_property
    def diffusion(self) -> Diffusion:
        """The exact denoiser with the ancestral sampler."""
        return self.exact()

    def tilt(self, *, steps: int | None = None, sampler: Sampler | None = None, value: Any = None) -> Tilt:
        """The tilt of this world, with its exact value unless another is given; `sampler` and `steps` replace the default."""
        diffusion = replace(self.diffusion, sampler=sampler or Ancestral(), steps=steps or self.steps, grid=None)
        return Tilt(diffusion, Quadratic(self), self.alpha, value=Given(self.value) if value is None else value)

    # Outcomes: cells of a grid.

    @cached_property
    def edges(self) -> list[Tensor]:
        """Inner edges of the cells along each coordinate: quantiles of the even mixture of p and p*, so that all are seen."""
        both = Mixture(
            torch.cat([self.data.log_w, self.target.log_w]) - math.log(2),
            torch.cat([self.data.mean, self.target.mean]),
            torch.cat([self.data.variance, self.target.variance]),
        )
        fine = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
        count = 64 if self.size == 1 else 12
        shares = torch.arange(1, count, dtype=torch.float64) / count
        below = [both.log_w.exp() @ both.cdf(fine, axis) for axis in range(self.size)]
        return [fine[torch.searchsorted(cdf, shares)] for cdf in below]

    def outcome(self, x: Tensor) -> Tensor:
        """Number of the cell of each sample: `[B, d] -> int64 [B]`."""
        number = torch.zeros(len(x), dtype=torch.int64)
        for axis, edge in enumerate(self.edges):
            number = number * (len(edge) + 1) + torch.searchsorted(edge, x[:, axis].double().contiguous(), right=True)
        return number

    @property
    def p(self) -> Tensor:
        """float64 `[C]`: masses of the cells."""
        return self.data.cells(self.edges)

    @property
    def tilted(self) -> Tensor:
        """float64 `[C]`: masses of the cells under p*."""
        return self.target.cells(self.edges)

    def pool(self, law: Tensor) -> Tensor:
        """Outcomes are cells already."""
        return law

    # Laws of samplers and methods, computed on the line.

    def bounds(self, t: float) -> tuple[float, float]:
        """Where all but 1e-10 of the first coordinate's mass is at time t, under p, p* and the prior."""
        marginals = [self.marginal(t), self.marginal(t, self.target)]
        if t == 1:
            marginals.append(
                Mixture(torch.zeros(1), torch.zeros(1, self.size), self.path.s(torch.ones(1, 1).double()) ** 2)
            )
        ends = [(m.mean[:, 0] + side * 6.5 * m.variance[:, 0].sqrt()) for m in marginals for side in (-1, 1)]
        return float(torch.cat(ends).min()), float(torch.cat(ends).max())

    def base_law(self, diffusion: Diffusion | None = None, *, points: int = 1500) -> Tensor:
        """p_T, the law of the unguided sampler over the cells, `[C]`, on `points` intervals (one coordinate only)."""
        return self._push(diffusion or self.diffusion, points).cells(self.edges[0])

    def log_z_of(self, diffusion: Diffusion, *, points: int = 1500) -> float:
        """log E[exp(r / alpha)] under p_T, the sampler's own law: what weights estimate (one coordinate only)."""
        law = self._push(diffusion, points)
        return float((law.mass.log() + self.reward(law.middles.unsqueeze(1)) / self.alpha).logsumexp(0))

    def _push(
        self, diffusion: Diffusion, points: int, change: Change | None = None, still: Diffusion | None = None
    ) -> Intervals:
        if self.size != 1:
            raise NotImplementedError("Laws of samplers are computed on the line; a world of size 2 has none.")
        return push(diffusion, self.bounds, points, change, still)

    def law(self, method: Steering, tilt: Tilt, *, points: int = 300) -> Tensor:
        """The method's own law over the cells, `[C]`, whatever the quality of its value (one coordinate only).

        On `points` intervals. The error is of second order in their width, but for argmax picks, which prefer one end of
        an interval: there it is of first order, about .01 in total variation at 500 points.

        Raises:
            NotImplementedError: two coordinates, or no computable law for this method or value.
        """
        if isinstance(method, (ImportanceResampling, BestOfN)):
            base = self._push(tilt.diffusion, 4 * points)
            select = select_one if isinstance(method, ImportanceResampling) else select_best
            log_w = self.reward(base.middles.unsqueeze(1)) / tilt.alpha
            mass = select(base.mass.unsqueeze(0), log_w, method.candidates)[0]
            return replace(base, mass=mass).cells(self.edges[0])
        if isinstance(tilt.value, (Given, PosteriorMean)):
            if isinstance(method, Doob):
                still = tilt.diffusion if tilt.diffusion.sampler.stochastic else None  # as in Doob.move
                return self._push(method.guided(tilt), 4 * points, still=still).cells(self.edges[0])
            if isinstance(method, SVDD) and method.selection in ("softmax", softmax, "argmax", argmax):
                return self._svdd(method, tilt, points).cells(self.edges[0])
        raise NotImplementedError(f"MixtureWorld has no computable law of {method} with {tilt.value}.")

    def _svdd(self, method: SVDD, tilt: Tilt, points: int) -> Intervals:
        select = select_one if method.selection in ("softmax", softmax) else select_best

        def choose(middles: Tensor, masses: Tensor, s: float) -> Tensor:
            log_h = tilt.evaluate(middles.unsqueeze(1), s).value / tilt.alpha
            return select(masses, log_h, method.candidates)

        return self._push(tilt.diffusion, points, choose)

    # What a trainer maximises, computed on the line: J = E[r] - alpha KL(path), and how far it is from the best there is.

    def objective(self, model: Diffusion, tilt: Tilt, *, points: int = 300) -> Tensor:
        """J(model) = E[r] - alpha KL(path of the model || path of the pretrained sampler), 0-d, in units of the reward.

        Differentiable in the model's parameters. On `points` intervals within `bounds`: models that leave them, as those
        that are trained without a divergence may, are seen at their ends. One coordinate and single-step samplers only.
        """
        laws = self._walk(model, points)
        mean = laws[-1].mass @ self.reward(laws[-1].middles.unsqueeze(1))
        return mean - tilt.alpha * path_kl(model, tilt.diffusion, laws)

    @torch.no_grad()
    def gap(self, model: Diffusion, tilt: Tilt, *, points: int = 300) -> float:
        """What the model's J is short of the largest that any path can have: the optimality gap of a trainer's output.

        At least 0 up to the error of the intervals. Models that differ from the pretrained one by the means of their steps
        alone reach it where p is one Gaussian and the reward is linear, and tend to it as the steps become more.
        """
        return self._largest(tilt, points) - float(self.objective(model, tilt, points=points))

    def _walk(self, model: Diffusion, points: int) -> list[Intervals]:
        """The model's laws at all of its times."""
        if self.size != 1 or not model.sampler.single_step:
            raise NotImplementedError(
                f"J is computed on the line, for single-step samplers; this is a world of size {self.size} with {model.sampler}."
            )
        return list(walk(model, self.bounds, points))

    def _largest(self, tilt: Tilt, points: int) -> float:
        """alpha log E[exp(V / alpha)] before the sampler's last step, V being what this step can gain at best.

        The last step has no noise. It may move by any distance d at the price of alpha SNR d^2 / 2 (`path_kl`), so that
        V = max over d of r(m + d) - alpha SNR d^2 / 2, a quadratic.
        """
        diffusion = tilt.diffusion
        t, s = diffusion.times[-2:].tolist()
        law = self._walk(diffusion, points)[-2]
        x = law.middles.unsqueeze(1)
        step: Any = diffusion.transition(x, t, s)
        if not diffusion.sampler.stochastic or not step.deterministic:
            raise NotImplementedError(
                f"The largest J is known for noisy samplers up to t = 0, not for {diffusion.sampler}."
            )
        price = tilt.alpha * float(self.path.log_snr(torch.tensor(t, dtype=torch.float64)).exp())
        b, c = self._reward
        best = (b + self.quadratic * c + price * step.mean) / (self.quadratic + price)
        value = self.reward(best) - price * ((best - step.mean) ** 2).sum(-1) / 2
        return tilt.alpha * float((law.mass.log() + value / tilt.alpha).logsumexp(0))


@dataclass(frozen=True)
class Quadratic:
    """The reward of a mixture world: float `[B, d] -> [B]`."""

    world: MixtureWorld
    takes = "tokens"
    differentiable = True

    def __call__(self, x: Tensor) -> Tensor:
        return self.world.reward(x)
