"""Scores of a set in a few numbers, the same for every domain: medians, best tenths, and how many have none."""

from __future__ import annotations

import math

from torch import Tensor

#: What each key of `summarise` means, with its unit.
SCORES: dict[str, str] = {
    "reward_median": "median reward of the designs with a finite one (the reward's own unit)",
    "reward_top_decile_mean": "mean reward of the best tenth (the reward's own unit)",
    "reward_excluded": "designs left out of the two lines above: reward NaN (failed) or infinite (forbidden) (count)",
    "heldout_median": "median score by the oracle that was never optimised (its own unit)",
    "heldout_top_decile_mean": "mean held-out score of the tenth best by the held-out oracle itself (its own unit)",
    "heldout_of_reward_top_decile": "mean held-out score of the tenth best by the optimised reward (its own unit)",
    "heldout_excluded": "designs without a finite held-out score (count)",
    "nelbo_median": "median NELBO under the pretrained model: how hard a site is to guess; natural is neither above nor below "
    "that of natural data (nats per site)",
    "nelbo_top_decile_mean": "mean NELBO of the tenth that is hardest to guess (nats per site)",
    "nelbo_bottom_decile_mean": "mean NELBO of the tenth that is easiest to guess, such as long runs (nats per site)",
    "nelbo_excluded": "designs without a finite NELBO (count)",
}


def summarise(
    n: int, reward: Tensor | None = None, heldout: Tensor | None = None, nelbo: Tensor | None = None
) -> dict[str, float | int]:
    """Figures of the scores `[n]` that are given, by the keys of `SCORES`; NaN where none is finite.

    Raises:
        ValueError: a score that is not [n].
    """
    scores = {"reward": reward, "heldout": heldout, "nelbo": nelbo}
    given = {name: _score(name, value, n) for name, value in scores.items() if value is not None}
    report: dict[str, float | int] = {}
    for name, value in given.items():
        report |= _summary(name, value)
    if "reward" in given and "heldout" in given:
        report["heldout_of_reward_top_decile"] = of_top_decile(given["heldout"], given["reward"])
    return report


def _score(name: str, value: Tensor, n: int) -> Tensor:
    """`value` as float64 [n] on the CPU."""
    if value.shape != (n,):
        raise ValueError(f"{name} must hold one number per design, [{n}], got {list(value.shape)}")
    return value.detach().double().cpu()


def _summary(name: str, value: Tensor) -> dict[str, float | int]:
    finite = value[value.isfinite()]
    low = {f"{name}_bottom_decile_mean": of_top_decile(value, -value)} if name == "nelbo" else {}
    return {
        f"{name}_median": float(finite.quantile(0.5)) if len(finite) else math.nan,
        f"{name}_top_decile_mean": of_top_decile(value, value),
        **low,
        f"{name}_excluded": len(value) - len(finite),
    }


def of_top_decile(value: Tensor, rank_by: Tensor) -> float:
    """Mean of `value` [B] over the ceil(n / 10) largest by `rank_by` [B], where both are finite; NaN for none."""
    kept = value.isfinite() & rank_by.isfinite()
    if not bool(kept.any()):
        return math.nan
    best = rank_by[kept].topk(math.ceil(int(kept.sum()) / 10)).indices
    return float(value[kept][best].mean())
