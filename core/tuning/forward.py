"""Forward-process objectives: samples are noised again, and what they are worth decides how the denoiser should move.

No trajectory is stored and every sampler serves. All methods are a line or two in the same three features at one shared
(x0, t, noise): ell_q, the bound of role q (`Bounds`), D_q, the divergence of theta from role q, and the sample's worth.
At theta = old = ref the gradient of each is -mean of c_i grad ell_i, with c stated below.

Only where the worth is a likelihood ratio is p* the fixed point (`RWR` from the reference). The others say where they
come to rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..diffusion import Diffusion, check_count
from ..processes.gaussian import Gaussian, Reweighted, Weighting
from ..states import match_rows
from ..tilt import Tilt
from .base import Loss, Tuning
from .checks import need_bounds
from .credit import Credit, Normalised, best_weights, centred, group_size, softmax_weights
from .roles import Decay, Roles


@dataclass(frozen=True)
class Features:
    """What objectives are made of, `[B]` each, means over the noise levels drawn; nats, but for reweighted Gaussians.

    Attributes:
        ell: bounds by role; only that of "theta" carries gradients.
        far: D_q by role q: how far theta is from q, 0 where they are equal, with gradients.
    """

    ell: Mapping[str, Tensor]
    far: Mapping[str, Tensor]

    @property
    def log_ratio(self) -> Tensor:
        """ell_theta - ell_old, `[B]`: stands in for log p_theta(x0) - log p_old(x0)."""
        return self.ell["theta"] - self.ell["old"]

    @property
    def ratio(self) -> Tensor:
        """exp(log_ratio) without gradient, `[B]`."""
        return self.log_ratio.detach().clamp(-10, 10).exp()


@dataclass(frozen=True)
class Bounds:
    """How features are measured.

    Args:
        draws: noise levels a sample, of low discrepancy, the same for all roles.
        weighting: of the denoising error of a Gaussian process ("elbo" for nats; None: of the kind that its networks
            predict, velocity or v). Tokens have the bound itself.
    """

    draws: int = 1
    weighting: Weighting | None = None

    def process(self, diffusion: Diffusion) -> Any:
        """The process whose `noise` and `elbo` are taken."""
        process: Any = diffusion.process
        if not isinstance(process, Gaussian) or isinstance(process, Reweighted) or self.weighting == "elbo":
            return process
        return process.reweighted(self.weighting or ("velocity" if process.path.predicts == "velocity" else "v"))

    def features(
        self, roles: Roles, needs: tuple[str, ...], x0: Tensor, cond: Any, *, generator: torch.Generator
    ) -> Features:
        """Features of clean samples x0 `[B, *shape]`, in terms of theta and the roles in `needs`."""
        process = self.process(roles.theta)
        repeated = x0.repeat_interleave(self.draws, 0)
        noised = process.noise(repeated, strata=self.draws if self.draws > 1 else None, generator=generator)
        cond = match_rows(cond, len(repeated))
        theta = roles.theta.clean(noised.x, noised.t, cond).double()
        with torch.no_grad():
            others = {name: roles[name].clean(noised.x, noised.t, cond).double() for name in needs}
        bounds = {
            name: self._mean(noised.importance * process.elbo(clean, repeated, noised.x, noised.t))
            for name, clean in {"theta": theta, **others}.items()
        }
        far = {
            name: self._mean(noised.importance * divergence(process, theta, clean, noised.x, noised.t))
            for name, clean in others.items()
        }
        return Features(bounds, far)

    def _mean(self, terms: Tensor) -> Tensor:
        return terms.double().reshape(-1, self.draws).mean(1)


def divergence(process: Any, theta: Tensor, other: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """D: how far theta's reverse process is from another's at (x, t), `[B]`, in the units of `process.elbo`.

    Tokens: the rate of KL(other || theta) between the two jump processes, sum over jumps of r_theta - r + r log(r / r_theta);
    in a masked process the weighted sum over masked sites of KL(p_other || p_theta). Gaussian: the weighted square of the
    difference of estimates. Where `other` is the exact posterior mean of x0, D is the mean of ell_other - ell_theta.

    Args:
        theta, other: clean estimates.
    """
    if isinstance(process, Reweighted):
        return process.loss(theta, other, t, process.weighting, process.gamma)
    if isinstance(process, Gaussian):
        return process.loss(theta, other, t, "elbo")
    mine, rates = process.rates(theta, x, t), process.rates(other, x, t)
    gap = rates.clamp(min=1e-300).log() - mine.clamp(min=1e-300).log()
    return (mine - rates + rates * gap).sum((1, 2))


@dataclass(frozen=True)
class Scored:
    """Clean samples `[B, *shape]` with their rewards and worth, float64 `[B]`."""

    x0: Tensor
    reward: Tensor
    worth: Tensor


@dataclass(frozen=True)
class ForwardTuning(Tuning):
    """What forward-process objectives share. A new one gives `objective`, and `worth` unless it is the advantage.

    Args:
        group: samples compared with each other (None: all of one condition).
        updates: optimiser steps that a round of samples is used for, each with fresh noise.
        beta: weight of D_ref, which holds theta at the pretrained model.
        credit: advantages from rewards.
        bounds: noise levels a sample, and their weighting.
    """

    group: int | None = None
    updates: int = 1  # type: ignore[misc]
    beta: float = 0.0
    credit: Credit = field(default_factory=Normalised)
    bounds: Bounds = field(default_factory=Bounds)

    needs: ClassVar[tuple[str, ...]] = ("old",)  # roles in the objective, besides theta

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("updates", self.updates)
        check_count("draws", self.bounds.draws)
        if not self.beta >= 0:
            raise ValueError(f"beta is {self.beta}; expected at least 0.")

    def check(self, tilt: Tilt) -> None:
        """A process without bounds and divergences, or groups that do not fit, are refused."""
        need_bounds(tilt, type(self).__name__)
        self._size(tilt)

    @property
    def averages(self) -> dict[str, Decay]:
        """ "old" is the model that the round's samples came from: it follows theta at the end of each round."""
        return {"old": lambda step: self.decay(step // self.updates) if step % self.updates == 0 else 1.0}

    def decay(self, number: int) -> float:
        """Share of "old" that stays after round `number` (from 1)."""
        return 0.0

    @property
    def source(self) -> str:
        """The role that samples are drawn from."""
        return "old"

    def worth(self, reward: Tensor, size: int, tilt: Tilt) -> Tensor:
        """What samples are worth, `[B]`, from rewards `[B]`, in groups of `size`."""
        return self.credit(reward, size)

    def objective(self, f: Features, worth: Tensor) -> Tensor:
        """`[B]`, minimised."""
        raise NotImplementedError

    def collect(self, tilt: Tilt, roles: Roles, generator: torch.Generator) -> Scored:
        x0 = roles[self.source].sample(self.batch, generator=generator, cond=tilt.cond)
        reward = tilt.reward(x0)
        return Scored(x0, reward, self.worth(reward, self._size(tilt), tilt))

    def loss(self, tilt: Tilt, roles: Roles, batch: Scored, generator: torch.Generator, progress: float) -> Loss:
        needs = (*self.needs, "ref") if self.beta and "ref" not in self.needs else self.needs
        f = self.bounds.features(roles, needs, batch.x0, tilt.cond, generator=generator)
        value = self.objective(f, batch.worth)
        if self.beta:
            value = value + self.beta * f.far["ref"]
        found = {name: float(far.detach().mean()) for name, far in f.far.items()}
        facts = {"reward": float(batch.reward.mean())} | {f"far from {name}": d for name, d in found.items()}
        return Loss(value.mean(), facts)

    def _size(self, tilt: Tilt) -> int:
        return group_size(self.batch, tilt.cond, self.group, type(self).__name__)


@dataclass(frozen=True)
class RWR(ForwardTuning):
    """Reward-weighted regression: -w ell_theta, w = exp(R / alpha) over its mean in the group. c = w.

    Samples of the reference, weighted so, are samples of p*: its minimiser is p* itself (as groups grow; a small alpha asks
    for large ones). From "theta" the law is p exp(n R / alpha) after n rounds, which ends at the best sample: published
    on-line variants do so, and need early stopping.
    """

    samples: Literal["ref", "theta"] = "ref"

    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def averages(self) -> dict[str, Decay]:
        return {}

    @property
    def source(self) -> str:
        return self.samples

    def worth(self, reward: Tensor, size: int, tilt: Tilt) -> Tensor:
        return softmax_weights(reward / tilt.alpha, size)

    def objective(self, f: Features, worth: Tensor) -> Tensor:
        return -worth * f.ell["theta"]


@dataclass(frozen=True)
class RAFT(RWR):
    """Ranked fine-tuning (Dong et al. 2023): learn from the `keep` best of each group. c = K / keep for these, else 0.

    alpha plays no part. From the reference it comes to rest at the law of best-of-N, N = K / keep; from theta (published)
    at the best sample.
    """

    keep: int = 1
    samples: Literal["ref", "theta"] = "theta"

    def check(self, tilt: Tilt) -> None:
        super().check(tilt)
        if not 1 <= self.keep < self._size(tilt):
            raise ValueError(f"RAFT(keep={self.keep}) of groups of {self._size(tilt)}: expected fewer than the group.")

    def worth(self, reward: Tensor, size: int, tilt: Tilt) -> Tensor:
        return best_weights(reward, size, self.keep)


@dataclass(frozen=True)
class EPG(ForwardTuning):
    """Policy gradient with the bound as log-likelihood: -rho A ell_theta, rho = exp(ell_theta - ell_old). c = A.

    Args:
        form: "epg"; "pepg", -rho (A - log rho) ell_theta, which is held near the old policy; "par", the regression
            rho / 2 (A - log rho)^2; "awm", the PPO clip of rho (Advantage Weighted Matching).
        clip_ratio: epsilon of "awm".

    Without beta all four go on to the best sample, since "old" follows theta. With it they come to rest where the pull of
    the advantages equals that of D_ref: to first order in 1 / alpha that is p* with alpha = beta std(R), no further.
    """

    form: Literal["epg", "pepg", "par", "awm"] = "epg"
    clip_ratio: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("epg", "pepg", "par", "awm"):
            raise ValueError(f"form is {self.form!r}; expected 'epg', 'pepg', 'par' or 'awm'.")

    def objective(self, f: Features, worth: Tensor) -> Tensor:
        if self.form == "epg":
            return -f.ratio * worth * f.ell["theta"]
        if self.form == "pepg":
            return -f.ratio * (worth - f.log_ratio.detach()) * f.ell["theta"]
        if self.form == "par":
            return f.ratio / 2 * (worth - f.log_ratio) ** 2
        rho = f.log_ratio.clamp(-10, 10).exp()
        return -torch.minimum(rho * worth, rho.clamp(1 - self.clip_ratio, 1 + self.clip_ratio) * worth)


@dataclass(frozen=True)
class DiffusionNFT(ForwardTuning):
    """Negative-aware fine-tuning (Zheng et al. 2025): towards v+ on good samples and v- on bad ones.

    With v+- = v_old +- b (v - v_old), r |v+ - v*|^2 + (1 - r) |v- - v*|^2 is, up to a constant,
    (b^2 - b (2r - 1)) D_old - b (2r - 1) (ell_theta - ell_old), where r = 1/2 + A / 10, cut off to [0, 1]. Tokens take the
    same form with their own ell and D. c = b (2r - 1).

    Each round moves v by 1 / b of the mean of (2r - 1)(v* - v_old) given x_t: a policy improvement, not a tilt. Without beta
    it goes on to the best sample; with it, it comes to rest where the advantage's pull equals that of D_ref, which is not p*.

    Args:
        strength: b.
        slowest, ramp: "old" keeps min(ramp n, slowest) of itself after round n: on-policy at first, slower later.
    """

    strength: float = 1.0
    slowest: float = 0.5
    ramp: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength > 0 or not 0 <= self.slowest < 1 or not self.ramp >= 0:
            raise ValueError(
                f"strength={self.strength}, slowest={self.slowest}, ramp={self.ramp}: expected positive, in [0, 1), at least 0."
            )

    def decay(self, number: int) -> float:
        return min(self.ramp * number, self.slowest)

    def worth(self, reward: Tensor, size: int, tilt: Tilt) -> Tensor:
        """2r - 1 in [-1, 1]."""
        return (self.credit(reward, size) / 5).clamp(-1, 1)

    def objective(self, f: Features, worth: Tensor) -> Tensor:
        b = self.strength
        return (b**2 - b * worth) * f.far["old"] - b * worth * f.log_ratio


@dataclass(frozen=True)
class RAM(ForwardTuning):
    """Reward-adjusted matching: |v - (v_ref + A (v* - v_old))|^2, up to a constant D_ref - A (ell_theta - ell_old + D_old).
    c = A.

    With A = (R - mean) / alpha it comes to rest where v = v_ref + Cov(R / alpha, v* | x_t), under theta itself. For p* that
    covariance would be integrated over all temperatures from infinity to alpha; this is one implicit Euler step of the
    integral: p* to first order in 1 / alpha, with a bias that stays.

    Args:
        tempered: A = (R - mean) / alpha in the group instead of the published advantages of `credit`. It diverges where
            rewards have long tails below (measured with a quadratic reward): A is then large just where theta is wrong.
    """

    tempered: bool = False

    needs: ClassVar[tuple[str, ...]] = ("old", "ref")

    def worth(self, reward: Tensor, size: int, tilt: Tilt) -> Tensor:
        return centred(reward, size) / tilt.alpha if self.tempered else self.credit(reward, size)

    def objective(self, f: Features, worth: Tensor) -> Tensor:
        return f.far["ref"] - worth * (f.log_ratio + f.far["old"])
