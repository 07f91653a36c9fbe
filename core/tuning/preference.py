"""Preference objectives: pairs of samples, the better of which should gain bound against the reference."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..diffusion import check_count
from ..states import index_tree, match_rows
from ..tilt import Tilt
from .base import Loss, Tuning
from .credit import group_size
from .forward import Bounds, need_bounds
from .roles import Roles


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
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.winner, self.loser):
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return f"Pairs({len(self)}, {digest.hexdigest()})"


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
    samples of a pair: only differences matter, and shared noise cancels in them. The logarithm of a noisy d is biased:
    more `draws` of noise levels lessen that.

    Without `pairs` they are drawn from a role and compared by the reward, softly: p = sigmoid(beta (r_a - r_b) / alpha). The
    sigmoid link then asks for Delta = r / alpha + const, which p* fulfils where the reference is exact. But other models may
    have the same differences of bounds, so that the loss says nothing of their samples; and with hard labels (pairs of one
    label each, `labels="hard"`) only signs count: it goes on growing the winners, past p*.

    Args:
        pairs: offline comparisons (None: see above); `batch` counts samples, two a pair.
        beta: how sharp a preference is for a given d.
        link: "sigmoid", -log sigmoid(beta d); "ipo", (d - 1 / (2 beta))^2, which does not run away on hard labels (Azar et
            al. 2024); "hinge", relu(1 - beta d) (Zhao et al. 2023).
        samples: role that pairs are drawn from.
        labels: "soft", or "hard": the higher reward wins for certain.
        updates: optimiser steps a round of pairs is used for.
        bounds: noise levels a sample, and their weighting (Gaussian processes: beta is in its units; published values of 2000
            to 5000 are for errors averaged over coordinates).
    """

    pairs: Pairs | None = None
    beta: float = 1.0
    link: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    samples: Literal["ref", "theta"] = "ref"
    labels: Literal["soft", "hard"] = "soft"
    updates: int = 1  # type: ignore[misc]
    bounds: Bounds = field(default_factory=lambda: Bounds(draws=8))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("updates", self.updates)
        check_count("draws", self.bounds.draws)
        if not self.beta > 0 or self.link not in ("sigmoid", "ipo", "hinge") or self.labels not in ("soft", "hard"):
            raise ValueError(
                f"beta={self.beta}, link={self.link!r}, labels={self.labels!r}: expected a positive beta, one of the links "
                "'sigmoid', 'ipo' and 'hinge', and 'soft' or 'hard' labels."
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
        value = batch.prefer * self._link(d) + (1 - batch.prefer) * self._link(-d)
        right = ((d.detach() > 0) == (batch.prefer > 0.5)).double().mean()
        margin = (d.detach() * (2 * batch.prefer - 1)).mean()
        return Loss(value.mean(), {"reward": batch.reward, "accuracy": float(right), "margin": float(margin)})

    def _gain(self, roles: Roles, x0: Tensor, cond: Any, seed: int, device: torch.device) -> Tensor:
        """Delta of samples, `[P]`; equal seeds give equal noise."""
        generator = torch.Generator(device).manual_seed(seed)
        ell = self.bounds.features(roles, ("ref",), x0, cond, generator=generator).ell
        return ell["theta"] - ell["ref"]

    def _link(self, d: Tensor) -> Tensor:
        if self.link == "sigmoid":
            return -logsigmoid(self.beta * d)
        if self.link == "ipo":
            return (d - 1 / (2 * self.beta)) ** 2
        return (1 - self.beta * d).clamp(min=0)
