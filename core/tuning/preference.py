"""Preference objectives: pairs of samples, the better of which should gain bound against the reference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..diffusion import check_count
from ..states import index_tree, match_rows
from ..tilt import Tilt
from .base import Loss, Tuning
from .conditions import digest
from .credit import group_size
from .forward import Bounds, need_bounds
from .roles import Roles

Link = Literal["sigmoid", "ipo", "hinge", "regression"]


@dataclass(frozen=True, repr=False)
class Pairs:
    """An offline set of N comparisons.

    Args:
        winner, loser: clean samples `[N, *shape]`; cond: their conditions, a tree of tensors `[N, ...]`, or None.

    Raises:
        ValueError: no pairs, or winners and losers of different shapes.
    """

    winner: Tensor
    loser: Tensor
    cond: Any = None

    def __post_init__(self) -> None:
        if self.winner.shape != self.loser.shape or not len(self.winner):
            raise ValueError(
                f"Winners {tuple(self.winner.shape)}, losers {tuple(self.loser.shape)}: expected equal shapes."
            )

    def __len__(self) -> int:
        return len(self.winner)

    def __repr__(self) -> str:
        """Names the content, so that a run is not resumed on other pairs."""
        return f"Pairs({len(self)}, {digest([self.winner, self.loser, self.cond])})"


@dataclass(frozen=True)
class Compared:
    """P pairs: samples `[P, *shape]`, and the probability float64 `[P]` that the first is preferred; reward: mean, or 0."""

    first: Tensor
    second: Tensor
    prefer: Tensor
    cond: Any
    reward: float


@dataclass(frozen=True)
class DiffusionDPO(Tuning):
    """Direct preference optimisation with bounds for log-likelihoods (Wallace et al. 2024; masked: VRPO, Zhu et al. 2025).

        p link(d) + (1 - p) link(-d),   d = Delta_a - Delta_b,   Delta = ell_theta - ell_ref,

    p being the probability that a is preferred. t and mask (or noise) are shared by theta and the reference, and by both
    samples of a pair: only differences matter, and shared noise cancels in them.

    Published forms put the noisy estimate of d into the link, whose curvature then punishes the noise: a spurious force
    towards the reference (on a world with 8 levels a sample, stronger than the preferences). Here the levels are split in two
    independent halves, and the slope of the link at one multiplies the gradient of the other, both ways: unbiased where the
    slope is linear ("ipo", "regression"), and without that force everywhere.

    Without `pairs` they are drawn from a role and compared by the reward, softly: p = sigmoid(beta (r_a - r_b) / alpha). The
    links "sigmoid" and "regression" then ask for Delta = r / alpha + const, which p* fulfils where the reference is exact.
    But other models have the same differences of bounds: a small loss does not say that samples follow p*. With hard labels
    only signs count: "sigmoid" and "hinge" go on growing the winners where p* would stop.

    Args:
        pairs: offline comparisons (None: see above); `batch` counts samples, two a pair.
        beta: how sharp a preference is for a given d.
        link: "sigmoid", -log sigmoid(beta d); "ipo", (d - 1 / (2 beta))^2, which does not run away on hard labels (Azar et
            al. 2024); "hinge", relu(1 - beta d) (Zhao et al. 2023); "regression", (d - (r_a - r_b) / alpha)^2 / 2, for soft
            labels of the reward only.
        split: see above; False as published.
        samples: role that pairs are drawn from. Those of "theta" cover what p* favours; on continuous states they can run
            away, since nothing keeps the bounds of both samples of a pair from falling together (measured: they did).
        labels: "soft", or "hard": the higher reward wins for certain.
        updates: optimiser steps a round of pairs is used for.
        bounds: noise levels a sample, and their weighting. The bound itself by default, so that Delta is in nats; of another
            weighting of Gaussian errors beta is in other units (published: 2000 to 5000, of errors averaged over
            coordinates), and the target r / alpha has no meaning.
    """

    pairs: Pairs | None = None
    beta: float = 1.0
    link: Link = "sigmoid"
    split: bool = True
    samples: Literal["ref", "theta"] = "ref"
    labels: Literal["soft", "hard"] = "soft"
    updates: int = 1  # type: ignore[misc]
    bounds: Bounds = field(default_factory=lambda: Bounds(draws=8, weighting="elbo"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("updates", self.updates)
        check_count("draws", self.bounds.draws)
        if not self.beta > 0 or self.link not in get_args(Link) or self.labels not in ("soft", "hard"):
            raise ValueError(
                f"beta={self.beta}, link={self.link!r}, labels={self.labels!r}: expected a positive beta, one of the links "
                f"{', '.join(get_args(Link))}, and 'soft' or 'hard' labels."
            )
        if self.link == "regression" and (self.labels == "hard" or self.pairs is not None):
            raise ValueError("The link 'regression' needs rewards: soft labels, and no offline pairs.")
        if self.split and (self.bounds.draws < 4 or self.bounds.draws % 2):
            raise ValueError(
                f"Bounds(draws={self.bounds.draws}) cannot be split in halves of at least 2; use 4, 6, 8..."
            )

    def check(self, tilt: Tilt) -> None:
        """A process without bounds, pairs of another shape, or a batch that is not made of pairs, are refused."""
        need_bounds(tilt, "DiffusionDPO")
        if self.pairs is None:
            group_size(self.batch, tilt.cond, 2, "DiffusionDPO")
            return
        if self.batch % 2:
            raise ValueError(f"batch is {self.batch}; expected an even number: it counts samples, two a pair.")
        if tuple(self.pairs.winner.shape[1:]) != tilt.diffusion.shape:
            shape = tuple(self.pairs.winner.shape[1:])
            raise ValueError(f"The pairs have samples of shape {shape}; the model has {tilt.diffusion.shape}.")
        for x in (self.pairs.winner, self.pairs.loser):
            tilt.diffusion.process.check(x, clean=True)

    def collect(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Compared:
        if self.pairs is not None:
            return self._offline(self.pairs, tilt, roles, generator)
        x = roles[self.samples].sample(self.batch, generator=generator, cond=tilt.cond)
        reward = tilt.reward(x)
        gap = (reward[::2] - reward[1::2]).nan_to_num(0.0)  # two samples that may never occur are equally bad
        prefer = torch.sigmoid(self.beta * gap / tilt.alpha) if self.labels == "soft" else (gap.sign() + 1) / 2
        return Compared(x[::2], x[1::2], prefer, tilt.cond, float(reward.mean()))

    def _offline(self, pairs: Pairs, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Compared:
        count = self.batch // 2
        rows = torch.randint(len(pairs), (count,), generator=generator, device=generator.device).cpu()
        device = roles.theta.device
        winner, loser = (x[rows.to(x.device)].to(device) for x in (pairs.winner, pairs.loser))
        cond = tilt.cond if pairs.cond is None else index_tree(match_rows(pairs.cond, len(pairs)), rows)
        return Compared(winner, loser, torch.ones(count, dtype=torch.float64, device=device), cond, 0.0)

    def loss(self, tilt: Tilt, roles: Roles, batch: Compared, generator: torch.Generator, progress: float) -> Loss:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        first, second = (self._gain(roles, x, batch.cond, seed, generator.device) for x in (batch.first, batch.second))
        d = first - second
        value = self._value(d.mean(1), batch.prefer)
        if self.split:
            # Shown is the value; the gradient is that of one half times the slope at the other.
            pull = (self._slope(d.detach().flip(1), batch.prefer.unsqueeze(1)) * d).mean(1)
            value = value.detach() + pull - pull.detach()
        margin = d.detach().mean(1)
        right = ((margin > 0) == (batch.prefer > 0.5)).double().mean()
        margin = (margin * (2 * batch.prefer - 1)).mean()
        return Loss(value.mean(), {"reward": batch.reward, "accuracy": float(right), "margin": float(margin)})

    def _gain(self, roles: Roles, x0: Tensor, cond: Any, seed: int, device: torch.device) -> Tensor:
        """Delta of samples, `[P, parts]`, one or two independent parts; equal seeds give equal noise."""
        parts = 2 if self.split else 1
        bounds = replace(self.bounds, draws=self.bounds.draws // parts)
        generator = torch.Generator(device).manual_seed(seed)
        ell = bounds.features(roles, ("ref",), x0.repeat_interleave(parts, 0), cond, generator=generator).ell
        return (ell["theta"] - ell["ref"]).reshape(-1, parts)

    def _slope(self, d: Tensor, prefer: Tensor) -> Tensor:
        """The derivative of `_value` in d."""
        with torch.enable_grad():
            d = d.requires_grad_()
            return torch.autograd.grad(self._value(d, prefer).sum(), d)[0]

    def _value(self, d: Tensor, prefer: Tensor) -> Tensor:
        """The loss at margins d, for the probabilities that the first is preferred."""
        if self.link == "regression":
            return (d - torch.logit(prefer, eps=1e-12) / self.beta) ** 2 / 2
        return prefer * self._link(d) + (1 - prefer) * self._link(-d)

    def _link(self, d: Tensor) -> Tensor:
        if self.link == "sigmoid":
            return -logsigmoid(self.beta * d)
        if self.link == "ipo":
            return (d - 1 / (2 * self.beta)) ** 2
        return (1 - self.beta * d).clamp(min=0)
