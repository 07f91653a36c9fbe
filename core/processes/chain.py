"""What continuous-time Markov chains on each site share: bounds, rates, ratios and guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..parameterisations.logits import Logits
from ..schedules import Schedule
from ..states import is_discrete, log_normalise, per_sample
from ..transitions import categorical, uniform
from .base import Noised
from .times import stratified_uniforms

_EARLY = 1e-30  # times below are taken as this: some derivatives are infinite at 0
WIPED = 1e-12  # at alphas below, x_t tells nothing of x0 that float64 could hold
# Where a rate is asked for, alphas outside are taken as these: it may be infinite at the ends.
_LEAST, _MOST = 1e-30, 1 - 1e-12


class Kernel(Protocol):
    """P: the law of a noised site given what it was, one matrix `[S, S]` for each time."""

    def row(self, x: Tensor) -> Tensor:
        """P[x, .], int64 `[B, L]` -> float64 `[B, L, S]`."""
        ...

    def column(self, x: Tensor) -> Tensor:
        """P[., x], int64 `[B, L]` -> float64 `[B, L, S]`."""
        ...

    def push(self, weights: Tensor) -> Tensor:
        """weights P, float64 `[B, L, S]` -> `[B, L, S]`."""
        ...

    def pull(self, masses: Tensor) -> Tensor:
        """masses P^-1, float64 `[B, L, S]` -> `[B, L, S]`; what the noise has wiped out is taken to be uniform."""
        ...


class SiteChain:
    """A chain that noises every site on its own, with rates beta(t) Q: beta = -alpha' / alpha, so P_t = exp(-log alpha(t) Q).

    K tokens, S >= K states: states K and above exist only as noise (a mask, for instance). A process of this kind gives Q
    and P; everything else follows. With w_j = p(x0 = j | x_t) / P_t[j, x_t] at a site:

        ratios   p_t(x with k at the site) / p_t(x)  =  (w P_t)_k
        rates    of the reverse process, x_t -> k:   beta(t) Q[k, x_t] (w P_t)_k
        step     p(x_s = k | x_t)                    =  P_{s -> t}[k, x_t] (w P_s)_k

    (Campbell et al. 2022; Lou et al. 2024). All are exact for an exact clean estimate; the step is exact at each site, and
    sites are drawn independently.
    """

    vocab: int
    schedule: Schedule

    @property
    def states(self) -> int:
        """S."""
        raise NotImplementedError

    @property
    def stationary(self) -> Tensor:
        """float64 `[S]`, the law of a site at t = 1."""
        raise NotImplementedError

    def kernel(self, left: Tensor) -> Kernel:
        """exp(-log(left) Q) for `left` float64 `[b]` in [0, 1], all S states as rows and columns; b is 1 or B."""
        raise NotImplementedError

    def into(self, x: Tensor) -> Tensor:
        """Q[., x] without its diagonal, int64 `[B, L]` -> float64 `[B, L, S]`: the rates at which x is entered."""
        raise NotImplementedError

    def out_of(self, x: Tensor) -> Tensor:
        """Q[x, .] without its diagonal, `[B, L, S]`: the rates at which x is left."""
        raise NotImplementedError

    def _parameterisation(self) -> Logits:
        return Logits(self.vocab)

    # What follows is the same for all chains.

    def alpha(self, t: float | Tensor, x: Tensor) -> Tensor:
        """alpha(t), float64 `[1]` or `[B]`, on x's device."""
        return self.schedule.alpha(_times(t, x))

    def prior(self, n: int, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """int64 `[n, L]`, independent draws of the stationary law; on the generator's device."""
        law = self.stationary.to(generator.device if generator else "cpu")
        return categorical(law.log(), uniform((n, *shape), law, generator))

    def corrupt(self, x0: Tensor, t: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """x_t ~ q(x_t | x0), int64 `[B, L]`. Relaxed `[B, L, K]` (or S) -> `[B, L, S]`: each token of the mixture is
        noised with the same random number, so that one-hot states give exactly the discrete rule."""
        kernel = self.kernel(self.alpha(t, x0))
        u = uniform(tuple(x0.shape[:2]), x0, generator)
        if is_discrete(x0):
            return categorical(kernel.row(x0).log(), u)
        every = torch.arange(x0.shape[-1], device=x0.device).expand(x0.shape)
        noised = categorical(self._rows(kernel, every).log(), u.unsqueeze(-1))
        return x0.new_zeros(*x0.shape[:2], self.states).scatter_add(-1, noised, x0)

    def _rows(self, kernel: Kernel, x: Tensor) -> Tensor:
        return kernel.row(x.flatten(1)).reshape(*x.shape, -1)

    def _over(self, kernel: Kernel, clean: Tensor, x: Tensor) -> Tensor:
        """w = p(x0 | x_t) / P[x0, x_t], float64 `[B, L, K]`; 0 where x0 cannot have become x_t."""
        column = kernel.column(x)[..., : self.vocab]
        reached = column > 0
        return torch.where(reached, clean.double().exp() / torch.where(reached, column, 1.0), 0.0)

    def ratios(self, clean: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """p_t(x with k at site i) / p_t(x), float64 `[B, L, S]`; 1 at the state that is there.

        Right for every k that the reverse process can jump to (for a mask: from the mask to tokens, not back).

        Args:
            clean: log p(x0 | x_t) `[B, L, K]`; x: int64 `[B, L]`.
        """
        kernel = self.kernel(self.alpha(t, x).clamp(_LEAST, _MOST))
        return kernel.push(self._padded(self._over(kernel, clean, x)))

    def left_out(self, ratios: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """p(x0^i = k | x_t without site i), float64 `[B, L, K]`, from the ratios `[B, L, S]`: those of p_t(x^i = k | the rest),
        with the noise of site i undone. Ratios that belong to no law give some negative masses."""
        marginal = ratios.double() / ratios.double().sum(-1, keepdim=True)
        return self.kernel(self.alpha(t, x)).pull(marginal)[..., : self.vocab]

    def likelihood(self, x: Tensor, t: float | Tensor) -> Tensor:
        """q(x_t^i = x^i | x0^i), float64 `[B, L, K]`."""
        return self.kernel(self.alpha(t, x)).column(x)[..., : self.vocab]

    def open_sites(self, x: Tensor) -> Tensor:
        """bool `[B, L]`: the sites of x int64 `[B, L]` that a reverse step can change: all of them."""
        return torch.ones_like(x, dtype=torch.bool)

    def inside(self, t: float) -> float:
        """t, or the last time at which enough signal is left for h to depend on x_t (alpha = 1e-3)."""
        return min(t, float(self.schedule.inverse(torch.tensor(1e-3, dtype=torch.float64))))

    def guide(self, clean: Tensor, x: Tensor, t: float | Tensor, log_h: Tensor) -> Tensor:
        """The clean estimate `[B, L, K]` of the law reweighted by h (Doob), at x int64 `[B, L]`.

        The ratios are multiplied by h(x with k at site i) / h(x) and read back (guided rates, Nisonoff et al. 2024). A mass
        that comes out negative, as an h that is no conditional mean can make it, becomes 1e-3 of what it was unguided: not
        0, so that weights stay unbiased. Where alpha(t) = 0, h says nothing about x0 and the estimate stays as it is.

        Args:
            log_h: `[B, L, K]`, log h of x with site i set to k; any constant may be added to a site.

        Raises:
            ValueError: the process has noise states, at which h is not given.
        """
        if self.states > self.vocab:
            raise ValueError("Guiding a chain with noise states is not supported; a mask is: processes.Masked.")
        shift = log_h.double() - log_h.double().amax(-1, keepdim=True)
        mass = self.left_out(self.ratios(clean, x, t) * shift.exp(), x, t)
        guided = log_normalise(mass.clamp(min=0).log() + self.likelihood(x, t).log())
        guided = log_normalise(torch.where(guided == -math.inf, clean.double() + math.log(1e-3), guided))
        gone = (self.alpha(t, x) < WIPED).reshape(-1, 1, 1)
        return torch.where(gone, clean, guided.to(clean.dtype))

    def _padded(self, weights: Tensor) -> Tensor:
        """`[B, L, K]` -> `[B, L, S]`: no sample has a noise state at t = 0."""
        return torch.nn.functional.pad(weights, (0, self.states - weights.shape[-1]))

    def rates(self, clean: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """Rates of the reverse process out of x `[B, L]`, float64 `[B, L, S]`, per unit of t; 0 at the state that is there."""
        return self._beta(t, x) * self.into(x) * self.ratios(clean, x, t)

    def forward_rates(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Rates of the noising process out of x, float64 `[B, L, S]`."""
        return self._beta(t, x) * self.out_of(x)

    def _beta(self, t: float | Tensor, x: Tensor) -> Tensor:
        """-alpha' / alpha, float64 `[b, 1, 1]`."""
        time = _times(t, x).clamp(min=_EARLY)
        return (-self.schedule.derivative(time) / self.schedule.alpha(time).clamp(min=_LEAST)).reshape(-1, 1, 1)

    def elbo(self, clean: Tensor, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """- beta(t) sum over sites and k != x_t of Q[k, x_t] (a_k - b_k + b_k log(b_k / a_k)), `[B]` nats per unit of t.

        a: the ratios under the model, b_k = P_t[x0, k] / P_t[x0, x_t]: the divergence between the reverse process given x0
        and the model's (Campbell et al. 2022; score entropy, Lou et al. 2024; UDLM, Schiff et al. 2024). Its mean over
        t ~ U(0, 1) and x_t ~ q is a lower bound of log p(x0), and equals it for the exact estimate, sites correlated or
        not: given x0, path and end are the same thing. (Where alpha(1) > 0 the divergence of q(x_1 | x0) from the prior,
        of the order alpha(1)^2 for uniform noise, is left out.)

        Args:
            clean: log p(x0 | x_t) `[B, L, K]`; x0, x: int64 `[B, L]`; t: `[B]` or a number.
        """
        kernel = self.kernel(self.alpha(t, x).clamp(_LEAST, _MOST))
        row = kernel.row(x0)
        truth = row / row.gather(-1, x.unsqueeze(-1))
        model = kernel.push(self._padded(self._over(kernel, clean, x)))
        gap = truth.log() - torch.where(truth > 0, model, 1.0).log()
        divergence = model - truth + torch.where(truth > 0, truth * gap, 0.0)
        edges = self.into(x)
        total = torch.where(edges > 0, edges * divergence, 0.0).sum((1, 2))
        return -(self._beta(t, x).flatten() * total).to(clean.dtype)

    def noise(self, x0: Tensor, *, strata: int | None = None, generator: torch.Generator | None = None) -> Noised:
        """Times with 1 - alpha = u^2, u uniform and low-discrepancy (Kingma et al. 2021); x_t ~ q.

        Near the data the term is rare and large, 1 / (1 - alpha) with probability 1 - alpha: at uniform times its variance
        is infinite, at these it is finite. The estimate does not depend on the schedule.
        """
        u = stratified_uniforms(len(x0), strata or len(x0), generator).to(x0.device)
        t = self.schedule.inverse(1 - u**2).clamp(min=_EARLY, max=1 - 1e-7).to(torch.get_default_dtype())
        importance = 2 * u / (-self.schedule.derivative(t.double())).clamp(min=_LEAST)
        return Noised(self.corrupt(x0, t, generator=generator), t, importance.to(t.dtype))

    def parameterise(self, network: Callable[..., Tensor]) -> Denoiser:
        """Logits `[B, L, K]` of p(x0 | x_t) to the clean estimate."""
        return Denoiser(network, self._parameterisation())

    def check(self, x: Tensor, *, clean: bool) -> None:
        """Raises ValueError unless x is int64 `[B, L]` in [0, S - 1] (`clean`: [0, K - 1])."""
        name = type(self).__name__
        if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.ndim != 2:
            came = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"A process {name} got {came}; expected int64 tokens [B, L].")
        top = (self.vocab if clean else self.states) - 1
        if x.numel() and (int(x.min()) < 0 or int(x.max()) > top):
            raise ValueError(f"Tokens run from {int(x.min())} to {int(x.max())}; expected 0 to {top}.")


def _times(t: float | Tensor, x: Tensor) -> Tensor:
    """float64 `[1]` for a number, or `[B]`: one kernel serves all rows that share a time."""
    time = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    if time.ndim:
        per_sample(time, x)  # raises where the shape is wrong
    return time.reshape(-1)


def between(after: Tensor, before: Tensor) -> Tensor:
    """alpha_t / alpha_s for s < t: what is left at t of a site at s. 1 where both are 0."""
    return torch.where(before > 0, after / torch.where(before > 0, before, 1.0), 1.0)
