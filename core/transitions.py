"""One reverse step as a distribution over x_s given x_t. Methods ask a transition for draws, densities and tilts only.

Sampling is exact: categorical draws invert a float64 cumulative sum, so that a token of mass 1e-12 is drawn as often as it
should be (float32 Gumbel noise loses small masses).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .states import log_normalise, one_hot, to_sites


class Transition(Protocol):
    """A distribution over x_s, one for each of B samples."""

    def sample(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw `[B, ...]`, or n draws `[n, B, ...]` from the same forward pass."""
        ...

    def rsample(self, temperature: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
        """A draw through which gradients flow: `[B, ...]` continuous, `[B, L, S]` relaxed discrete."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density or mass of x `[..., B, *shape]`, summed over sites: `[..., B]`."""
        ...

    def kl(self, other: Any) -> Tensor:
        """KL(self || other) in nats, `[B]`, in closed form, for another of the same class; the step size is part of both."""
        ...

    def tilt(self, log_h: Tensor) -> Transition:
        """This law reweighted by h (Doob). What `log_h` holds is stated by each class."""
        ...


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """float64 uniforms in [0, 1), made on the generator's device and moved to that of `like`."""
    device = generator.device if generator is not None else like.device
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=device).to(like.device)


_BELOW_ONE = 1 - 2.0**-53  # the largest float64 below 1


def categorical(log_probs: Tensor, u: Tensor) -> Tensor:
    """Exact categorical draws by inversion.

    Args:
        log_probs: `[..., S]`, normalised or not; -inf is mass zero.
        u: float64 `[...]` (broadcastable) uniforms in [0, 1).

    Returns:
        int64 `[...]`. A state of mass zero is never drawn.

    Raises:
        ValueError: a row holds NaN, or no state of it has any mass.
    """
    # Subtracting the maximum keeps the largest mass at 1 whatever the scale; the sum need not be 1, so u is scaled by it.
    log_probs = log_probs.double()
    cdf = (log_probs - log_probs.amax(-1, keepdim=True)).exp().cumsum(-1)
    total = cdf[..., -1]
    if bool(total.isnan().any()):
        raise ValueError(
            "A law to draw from has NaN, or no mass at all: the network returned NaN or infinite logits, or the tokens "
            "allowed at some site all have probability zero."
        )
    # Rounding can turn a u just below 1 into 1; then threshold < total would fail and a last state of mass zero be drawn.
    threshold = (u.clamp(max=_BELOW_ONE) * total).unsqueeze(-1)
    return (cdf <= threshold).sum(-1)


def kl_categorical(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Sum over the last dimension of p (log p - log q), with 0 log 0 = 0; inf where q misses mass of p. `[..., S] -> [...]`."""
    gap = torch.where(log_p == -math.inf, 0.0, log_p - log_q)
    return (log_p.exp() * gap).sum(-1)


@dataclass(frozen=True)
class CategoricalTransition:
    """Independent categoricals over S states at each of L sites.

    Attributes:
        log_probs: `[B, L, S]`, normalised over S. For a masked process S = K + 1, the mask last.
    """

    log_probs: Tensor

    def sample(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        lead = self.log_probs.shape[:2] if n is None else (n, *self.log_probs.shape[:2])
        return categorical(self.log_probs, uniform(lead, self.log_probs, generator))

    def rsample(
        self, temperature: float = 1.0, *, generator: torch.Generator | None = None, straight_through: bool = False
    ) -> Tensor:
        """Gumbel-softmax draw `[B, L, S]` on the simplex (Jang et al. 2017; Maddison et al. 2017).

        `straight_through` returns the hard one-hot whose gradient is that of the soft sample.

        Raises:
            ValueError: temperature is not positive.
        """
        u = uniform(tuple(self.log_probs.shape), self.log_probs, generator)
        return self.relax(u, temperature, straight_through=straight_through)

    def relax(self, u: Tensor, temperature: float = 1.0, *, straight_through: bool = False) -> Tensor:
        """`rsample` with given uniforms u, float64 `[B, L, S]`, so that a step can be run again.

        Raises:
            ValueError: temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number.")
        exponential = -torch.log1p(-u.clamp(min=1e-300))  # in float64, so that the far tail of the noise exists
        gumbel = -exponential.log().to(self.log_probs.dtype)
        # -inf would give NaN gradients through the softmax; a very low finite score has the same value and gradient zero.
        scores = (self.log_probs.clamp(min=torch.finfo(self.log_probs.dtype).min / 4) + gumbel) / temperature
        soft = scores.softmax(-1)
        if not straight_through:
            return soft
        hard = one_hot(scores.argmax(-1), scores.shape[-1], soft.dtype)
        return hard + (soft - soft.detach())  # in this order the value is one-hot to the last bit

    def log_prob(self, x: Tensor) -> Tensor:
        table = self.log_probs.expand(*x.shape[:-2], *self.log_probs.shape)
        return table.gather(-1, x.unsqueeze(-1)).squeeze(-1).sum(-1)

    def kl(self, other: CategoricalTransition) -> Tensor:
        return kl_categorical(self.log_probs, other.log_probs).sum(-1)

    def tilt(self, log_h: Tensor) -> CategoricalTransition:
        """Reweight each site: p(x_s^i = k) exp(log_h[b, i, k]), renormalised. log_h broadcasts to `[B, L, S]`.

        Exact Doob when h factorises over sites; its first-order form otherwise.
        """
        return CategoricalTransition(log_normalise(self.log_probs + log_h))


class UnmaskingTransition(CategoricalTransition):
    """The reverse step of a masked process: a masked site stays masked with probability `stay`, else it takes a token.

    The same law as the dense `CategoricalTransition`, held in parts: a draw touches only the sites that change, which is
    1 / steps of them, and the dense `log_probs` are built only when asked for.
    """

    x: Tensor  # int64 [B, L], the current state
    clean: Tensor  # [B, L, K], log p(x0 | x_t)
    stay: Tensor  # float64, broadcastable to [B, L], in [0, 1]

    def __init__(self, x: Tensor, clean: Tensor, stay: Tensor):
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "clean", clean)
        object.__setattr__(self, "stay", stay)

    @property
    def log_probs(self) -> Tensor:
        """`[B, L, K + 1]`, the mask last."""
        vocab = self.clean.shape[-1]
        masked = (self.x == vocab).unsqueeze(-1)
        # 1 - stay can be tiny: its log is taken in float64.
        stay = self.stay.expand(self.x.shape).unsqueeze(-1)
        leave, remain = torch.log1p(-stay).to(self.clean), stay.log().to(self.clean)
        free = torch.cat([self.clean + leave, remain], -1)
        held = one_hot(self.x, vocab + 1, self.clean.dtype).log()
        return torch.where(masked, free, held)

    def sample(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        lead = self.x.shape if n is None else (n, *self.x.shape)
        u = uniform(tuple(lead), self.x, generator)
        changed = ((u >= self.stay) & (self.x == self.clean.shape[-1])).nonzero(as_tuple=True)
        out = self.x.clone() if n is None else self.x.repeat(n, 1, 1)
        # Given u >= stay, (u - stay) / (1 - stay) is uniform again: one number decides both when and what.
        stay = self.stay.reshape(()) if self.stay.numel() == 1 else self.stay.expand(lead)[changed]
        out[changed] = categorical(self.clean[changed[-2:]], (u[changed] - stay) / (1 - stay))
        return out


@dataclass(frozen=True)
class OneSiteTransition:
    """Unmask exactly one masked site, chosen uniformly (first-hitting, Zheng et al. 2024). Full samples stay as they are.

    Attributes:
        x: int64 `[B, L]`.
        clean: `[B, L, K]`, log p(x0 | x_t).
    """

    x: Tensor
    clean: Tensor

    @property
    def masked(self) -> Tensor:
        """bool `[B, L]`."""
        return self.x == self.clean.shape[-1]

    def sample(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        lead = (len(self.x),) if n is None else (n, len(self.x))
        u = uniform((2, *lead), self.x, generator)
        full = ~self.masked.any(-1, keepdim=True)
        site = categorical(torch.where(self.masked | full, 0.0, -math.inf), u[0])
        rows = torch.arange(len(self.x), device=self.x.device).expand(lead)
        token = categorical(self.clean[rows, site], u[1])
        out = self.x.expand(*lead, -1).clone()
        new = torch.where(full.squeeze(-1), out.gather(-1, site.unsqueeze(-1)).squeeze(-1), token)
        return out.scatter_(-1, site.unsqueeze(-1), new.unsqueeze(-1))

    def log_prob(self, x: Tensor) -> Tensor:
        moved = x != self.x
        unmasked = moved & self.masked & (x < self.clean.shape[-1])
        full = ~self.masked.any(-1)
        legal = (moved.sum(-1) == unmasked.sum(-1)) & (moved.sum(-1) == torch.where(full, 0, 1))
        token = x.clamp(max=self.clean.shape[-1] - 1).unsqueeze(-1)
        chosen = self.clean.expand(*x.shape, -1).gather(-1, token).squeeze(-1)
        mass = torch.where(moved, chosen, 0.0).sum(-1) - self.masked.sum(-1).clamp(min=1).to(self.clean.dtype).log()
        return torch.where(legal, torch.where(full, 0.0, mass), -math.inf)

    def kl(self, other: OneSiteTransition) -> Tensor:
        """The site law is shared, so this is the mean over masked sites of the token KL."""
        per_site = kl_categorical(self.clean, other.clean)
        return torch.where(self.masked, per_site, 0.0).sum(-1) / self.masked.sum(-1).clamp(min=1)

    def rsample(self, temperature: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
        raise NotImplementedError(
            "A one-site step has no relaxed draw: which site changes is a discrete choice. Use the ancestral sampler."
        )

    def tilt(self, log_h: Tensor) -> OneSiteTransition:
        raise NotImplementedError("A one-site step does not factorise over sites; tilt the ancestral sampler's step.")


@dataclass(frozen=True)
class GaussianTransition:
    """x_s ~ N(mean, std^2), independent over coordinates. Where std is 0 a coordinate is an atom at its mean.

    Attributes:
        mean: `[B, *shape]`.
        std: at least 0; `[B]`, or broadcastable to `[B, *shape]`.
    """

    mean: Tensor
    std: Tensor

    @property
    def _std(self) -> Tensor:
        return to_sites(self.std, self.mean) if self.std.ndim == 1 else self.std

    @property
    def deterministic(self) -> bool:
        """No coordinate has any noise: the last step of most samplers, and every step of an ODE."""
        return not bool(self.std.any())

    def sample(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self._draw(n, generator)

    def rsample(self, temperature: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
        """A reparameterised draw `[B, *shape]`; `temperature` scales the noise."""
        return self._draw(None, generator, temperature)

    def _draw(self, n: int | None, generator: torch.Generator | None, temperature: float = 1.0) -> Tensor:
        shape = self.mean.shape if n is None else (n, *self.mean.shape)
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(shape, dtype=self.mean.dtype, generator=generator, device=device).to(self.mean.device)
        return self.move(noise, temperature)

    def move(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """mean + temperature std noise, for given standard normal `noise` `[..., B, *shape]`."""
        return self.mean + temperature * self._std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density `[..., B]`. An atom has log-mass 0 at its mean, to the last bit, and -inf elsewhere."""
        std = self._std
        atom = std == 0
        safe = torch.where(atom, 1.0, std)
        density = -0.5 * ((x - self.mean) / safe) ** 2 - safe.log() - 0.5 * math.log(2 * math.pi)
        per_site = torch.where(atom, torch.where(x == self.mean, 0.0, -math.inf), density)
        return per_site.reshape(*x.shape[: x.ndim - self.mean.ndim + 1], -1).sum(-1)

    def kl(self, other: GaussianTransition) -> Tensor:
        """`[B]` nats. Two atoms: 0 where they agree, else inf; an atom and a density: inf."""
        p, q = self._std, other._std
        atom, both = (p == 0) | (q == 0), (p == 0) & (q == 0)
        ratio = torch.where(atom, 1.0, p) / torch.where(atom, 1.0, q)
        gap = self.mean - other.mean
        density = 0.5 * (ratio**2 + (gap / torch.where(atom, 1.0, q)) ** 2 - 1) - ratio.log()
        per_site = torch.where(atom, torch.where(both & (gap == 0), 0.0, math.inf), density)
        return per_site.expand(self.mean.shape).flatten(1).sum(-1)

    def tilt(self, log_h: Tensor) -> GaussianTransition:
        """Shift the mean by std^2 grad log h. Here `log_h` holds the gradient at the mean, `[B, *shape]`.

        Exact Doob when log h is linear in x_s, its first-order form otherwise.
        """
        return GaussianTransition(self.mean + self._std**2 * log_h, self.std)
