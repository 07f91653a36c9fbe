"""The two tests of a row: do the draws follow the method's own law, and are its weights unbiased?"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..core.worlds import total_variation
from ..core.worlds.statistics import MISS, Outcome, accept, mean_scores, normal_quantile
from .reference import Reference, moments_of

SKEWED = 0.1  # skewness / sqrt(n) of a mean above which its score says nothing

NO_LAW: dict[str, Any] = {"law": None, "p_value": None, "tv_law": None}


def check_law(counts: Tensor, own: Tensor, faults: list[Tensor], alarm: float) -> dict[str, Any]:
    """Chi-square of `counts` `[C]` against the method's own law, and its power against `faults`, both on the cells."""
    found = accept(counts, own, faults, alarm)
    return {
        "law": found.outcome,
        "p_value": found.p_value,
        "tv_law": total_variation(counts / counts.sum(), own),
    }


NO_WEIGHTS: dict[str, Any] = {"weights": None, "log_z": None, "z": None}


def check_weights(log_weight: Tensor, reference: Reference, number: Tensor, alarm: float) -> dict[str, Any]:
    """Both unbiasedness identities, as means of the weights and of their parts in each group of outcomes."""
    shares = _shares(log_weight, reference, number)
    z, skew = mean_scores(shares, reference.moments, reference.error)
    limit = normal_quantile(alarm / 2 / len(z))
    seen = weighs_enough(log_weight, reference, number, alarm)
    judged = skew.abs() < SKEWED
    broken = not bool((log_weight < math.inf).all())  # also where there is a NaN
    wrong = broken or bool((z.abs()[judged] > limit).any())
    outcome: Outcome = "fail" if wrong else "pass" if seen and bool(judged.all()) else "underpowered"
    estimate = float(log_weight.logsumexp(0)) - math.log(len(number))
    return {
        "weights": outcome,
        "log_z": estimate if math.isfinite(estimate) else None,
        "z": float(z[0]) if judged[0] else None,
    }


def weighs_enough(log_weight: Tensor, reference: Reference, number: Tensor, alarm: float) -> bool:
    """Whether the spread of the weights would let the seeded fault be seen. It says nothing about their means."""
    shares = _shares(log_weight, reference, number)
    error = (shares.var(0) / len(shares) + reference.error**2).sqrt().clamp(min=1e-300)
    shift = float(((reference.faulty - reference.moments).abs() / error).amax())
    return shift > normal_quantile(alarm / 2 / shares.shape[1]) + normal_quantile(MISS)


def _shares(log_weight: Tensor, reference: Reference, number: Tensor) -> Tensor:
    return moments_of((log_weight - reference.log_z).exp(), reference.groups[number])
