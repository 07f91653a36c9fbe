"""What a perfect method would give on a world: p*_T, its log Z and its mean reward, for the sampler's own base law p_T."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.tilt import Tilt
from ..core.worlds import World, total_variation
from ..core.worlds.statistics import contaminated

GROUPS = 4  # sets of outcomes whose weighted masses are tested
FAULT = 0.1  # the seeded faults: alpha too high by this share, or half this share of the draws uniform
DRAWS = 200_000  # where p_T is no table


@dataclass(frozen=True)
class Reference:
    """p*_T(x) ~ p_T(x) exp(r(x) / alpha), where p_T is the law of the tilt's own sampler.

    Attributes:
        base, tilted: float64 `[S]`, p_T and p*_T over outcomes.
        fault: size of the seeded faults. hotter: `[S]`, p*_T at a temperature that is too high by that share.
        growth: log of Z_T at that temperature over Z_T.
        log_z: log Z_T. reward: mean reward under p*_T.
        groups: int64 `[S]`, outcomes sorted by exp(r / alpha) into sets of about equal p*_T.
        error: float64 `[1 + GROUPS]`, standard errors of `moments`; 0 where p_T is a table.
    """

    fault: float
    base: Tensor
    tilted: Tensor
    hotter: Tensor
    growth: float
    log_z: float
    reward: float
    groups: Tensor
    error: Tensor

    @property
    def moments(self) -> Tensor:
        """E[Z_hat / Z_T] and E[Z_hat W(group) / Z_T] of every method with weights, `[1 + GROUPS]`."""
        return _moments(self.tilted, self.groups)

    @property
    def faulty(self) -> Tensor:
        """The same of a method whose alpha is too high."""
        return _moments(self.hotter, self.groups) * torch.tensor(self.growth, dtype=torch.float64).exp()

    def faults(self, law: Tensor, world: World, tilts: bool) -> list[Tensor]:
        """What draws from `law` `[S]` must not be mistaken for, on the cells: the same about at that alpha (where the method
        has one: `tilts`), and with uniform draws among them."""
        factor = torch.where(self.tilted > 0, self.hotter / self.tilted, 1.0)
        hot = world.pool(law * factor / (law * factor).sum())
        return [hot] * tilts + [world.pool(contaminated(law, self.fault / 2))]

    def faithful(self, world: World) -> bool:
        """Whether the sampler's law is p itself."""
        return total_variation(self.base, world.p) < 1e-9


def refer(world: World, tilt: Tilt, seed: int = 0, fault: float = FAULT) -> Reference:
    """Exactly where the world has a table of rewards; from unguided draws of the sampler elsewhere."""
    rewards = getattr(world, "rewards", None)
    hot = (1 + fault) * tilt.alpha
    parts = _measured(world, tilt, seed, hot) if rewards is None else _exact(world, tilt, rewards, hot)
    return Reference(fault, *parts)


Parts = tuple[Tensor, Tensor, Tensor, float, float, float, Tensor, Tensor]  # the fields of `Reference` from `base` on


def _exact(world: World, tilt: Tilt, rewards: Tensor, hot: float) -> Parts:
    base = world.base_law(tilt.diffusion)
    joint, hotter = (base.log() + rewards / alpha for alpha in (tilt.alpha, hot))
    log_z, tilted = float(joint.logsumexp(0)), joint.softmax(0)
    growth, mean = float(hotter.logsumexp(0)) - log_z, float((tilted * rewards).sum())
    error = torch.zeros(1 + GROUPS, dtype=torch.float64)
    return base, tilted, hotter.softmax(0), growth, log_z, mean, _sets(base, tilted), error


def _measured(world: World, tilt: Tilt, seed: int, hot: float) -> Parts:
    x = tilt.diffusion.sample(DRAWS, generator=torch.Generator().manual_seed(seed))
    number, reward = world.outcome(x), tilt.reward(x)
    log_z, log_hot = (float((reward / alpha).logsumexp(0)) - math.log(DRAWS) for alpha in (tilt.alpha, hot))
    weight, hotter = (reward / tilt.alpha - log_z).exp(), (reward / hot - log_hot).exp()
    base, tilted, overheated = (_table(number, w, len(world.p)) for w in (torch.ones_like(weight), weight, hotter))
    groups = _sets(base, tilted)
    error = moments_of(weight, groups[number]).std(0) / math.sqrt(DRAWS)
    return base, tilted, overheated, log_hot - log_z, log_z, float((weight * reward).mean()), groups, error


def _table(number: Tensor, weight: Tensor, size: int) -> Tensor:
    return number.bincount(weight, minlength=size) / len(number)


def _sets(base: Tensor, tilted: Tensor) -> Tensor:
    order = torch.where(base > 0, tilted / base, 0.0).argsort()
    below = tilted[order].cumsum(0) - tilted[order] / 2
    return torch.empty_like(order).scatter_(0, order, (below * GROUPS).long().clamp(0, GROUPS - 1))


def _moments(law: Tensor, groups: Tensor) -> Tensor:
    parts = torch.zeros(GROUPS, dtype=torch.float64).index_add_(0, groups, law)
    return torch.cat([parts.sum().reshape(1), parts])


def moments_of(weights: Tensor, groups: Tensor) -> Tensor:
    """Each draw's share in the moments: weights and their groups `[n]` -> `[n, 1 + GROUPS]`."""
    return torch.cat([torch.ones(len(groups), 1), torch.nn.functional.one_hot(groups, GROUPS)], 1) * weights.unsqueeze(
        1
    )
