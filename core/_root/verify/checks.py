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
    n, groups = len(number), reference.groups[number]
    shares = moments_of((log_weight - reference.log_z).exp(), groups)
    z, skew = mean_scores(shares, reference.moments, reference.error)
    limit = normal_quantile(alarm / 2 / len(z))
    error = (shares.var(0) / n + reference.error**2).sqrt().clamp(min=1e-300)
    seen = float(((reference.faulty - reference.moments).abs() / error).amax()) - limit > normal_quantile(MISS)
    judged = skew.abs() < SKEWED
    broken = not bool((log_weight < math.inf).all())  # also where there is a NaN
    wrong = broken or bool((z.abs()[judged] > limit).any())
    outcome: Outcome = "fail" if wrong else "pass" if seen and bool(judged.all()) else "underpowered"
    estimate = float(log_weight.logsumexp(0)) - math.log(n)
    return {
        "weights": outcome,
        "log_z": estimate if math.isfinite(estimate) else None,
        "z": float(z[0]) if judged[0] else None,
    }
