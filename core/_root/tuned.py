"""What a report says of a tuned model: the four-row table, curves, and where the reward was optimised too far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .domains import Drawing
    from .job import Result
    from .settings import Plan

#: Columns of the four-row table: key of the metrics, words, format.
COLUMNS = (
    ("reward_median", "reward", ".2f"),
    ("reward_top_decile_mean", "best tenth", ".2f"),
    ("heldout_median", "held-out", ".2f"),
    ("kmer3_correlation", "3-mers", ".3f"),
    ("kmer3_ceiling", "reachable", ".3f"),
    ("nelbo_median", "NELBO", ".3f"),
    ("qed_median", "QED", ".2f"),
    ("novelty", "new", ".3f"),
    ("diversity", "diversity", ".3f"),
    ("n", "n", "d"),
)
LOST_WORDS = 0.05  # fall of the 3-mer correlation that is worth a word
NOTE = (
    "3-mers: correlation of their frequencies with those of natural sequences; reachable: what as many natural ones reach "
    "themselves, since few sequences cannot fill all frequencies evenly."
)
CAVEAT = (
    "A tuned model draws from a law of its own, near the tilted law but not equal to it; its samples carry no weights to "
    "correct averages by (log_weight is 0)."
)


def name(plan: Plan, key: str) -> str:
    """What a table calls a set of a job that tunes."""
    method = type(plan.method).__name__
    steered = f"SVDD, M = {plan.tune.candidates}"
    return {"steered": steered, "tuned": method, "tuned_without_kl": f"{method} without KL"}.get(key, key)


def four_rows(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each set: natural (if there), pretrained, SVDD, tuned, tuned without KL."""
    from .summary import SETS, number

    sets = {key: result.metrics[key] for key in SETS if key in result.metrics}
    kept = [column for column in COLUMNS if any(each.get(column[0]) is not None for each in sets.values())]
    rows = [[name(result.plan, s), *(number(each.get(k), form) for k, _, form in kept)] for s, each in sets.items()]
    return ["", *(words for _, words, _ in kept)], rows


def errors(result: Result) -> str:
    """Standard errors of the medians of each set, in a sentence: differences within them mean nothing."""
    texts = []
    for key, each in result.sets.items():
        if key in result.metrics:
            both = [e for e in (median_error(each.reward), median_error(each.heldout)) if e is not None]
            if both:
                texts.append(f"{name(result.plan, key)} {', '.join(f'{e:.2f}' for e in both)}")
    judged = any(each.heldout is not None for each in result.sets.values())
    of = "reward and held-out reward" if judged else "reward"
    return f"Standard errors of the medians ({of}): {'; '.join(texts)}." if texts else ""


def median_error(values: Tensor | None) -> float | None:
    """Standard error of the median of the finite values, taken as normal; None for fewer than two."""
    kept = None if values is None else values[values.isfinite()].double()
    return None if kept is None or len(kept) < 2 else float(1.2533 * kept.std() / len(kept) ** 0.5)


def described(result: Result) -> list[tuple[str, str]]:
    """What each set is."""
    plan = result.plan
    words = {
        "steered": "the pretrained model, steered with as many designs and the same alpha",
        "tuned": "the designs: samples of the tuned model, without steering",
        "tuned_without_kl": "samples of a model tuned for the reward alone, alike in all else: what alpha prevents",
    }
    return [(name(plan, key), text) for key, text in words.items() if key in result.metrics]


def spent(result: Result) -> str:
    """The cost of training, in a sentence."""
    training = result.info["training"]
    cost = training["cost"]
    return (
        f"Before that, {training['steps']} training steps took {cost['seconds']:.0f} seconds, {cost['forward_rows']:,} "
        f"sequences through the network and {cost['reward_calls']:,} evaluations of the reward (without those of a run that "
        "was resumed)."
        + (f" It ended early: {training['ended']}." if training.get("ended") else "")
        + (
            f" The weights are those after step {training['kept']}."
            if training.get("kept") != training["steps"]
            else ""
        )
    )


# --- over-optimisation ---------------------------------------------------------------------------------------------


def warnings(result: Result) -> list[str]:
    """Where the reward rises while the held-out reward or the words of three letters fall."""
    texts: list[str] = []
    for key, rows in result.curves.items():
        if key in result.metrics:
            texts += filter(
                None, (_words_lost(result, key), _held_out_fell(result, key, rows), _collapsed(result, key))
            )
    return texts


def _words_lost(result: Result, key: str) -> str:
    before, after = result.metrics["pretrained"], result.metrics[key]
    reward, words = _pair(before, after, "reward_median"), _pair(before, after, "kmer3_correlation")
    reachable = _pair(before, after, "kmer3_ceiling")
    if words is not None and reachable is not None:  # as if the pretrained samples were as few
        words = (words[0] - reachable[0] + reachable[1], words[1])
    if reward is None or words is None or reward[1] <= reward[0] or words[1] > words[0] - LOST_WORDS:
        return ""
    return (
        f"Over-optimised: {name(result.plan, key)} raised the reward from {reward[0]:.2f} to {reward[1]:.2f}, and the 3-mer "
        f"correlation fell from {words[0]:.3f} to {words[1]:.3f} (for as many sequences).{_advice(key)}"
    )


def _held_out_fell(result: Result, key: str, rows: list[dict[str, Any]]) -> str:
    """The held-out median at the end clearly (two standard errors) below its highest, while the reward is above."""
    seen = [row for row in rows if row.get("heldout_median") is not None and row.get("heldout_sem") is not None]
    if len(seen) < 2:
        return ""
    top, last = max(seen, key=lambda row: float(row["heldout_median"])), seen[-1]
    error = (top["heldout_sem"] ** 2 + last["heldout_sem"] ** 2) ** 0.5
    fell = top["heldout_median"] - last["heldout_median"]
    if fell <= 2 * error or last["reward_median"] <= top["reward_median"]:
        return ""
    return (
        f"Over-optimised: from step {top['step']} on {name(result.plan, key)} raised the reward from "
        f"{top['reward_median']:.2f} to {last['reward_median']:.2f}, and the held-out reward fell from "
        f"{top['heldout_median']:.2f} to {last['heldout_median']:.2f}.{_advice(key)}"
    )


def _collapsed(result: Result, key: str) -> str:
    """Of the model without KL: that its samples resemble each other (of the designs, `summary` says it)."""
    spread = _pair(result.metrics["pretrained"], result.metrics[key], "diversity")
    if key == "tuned" or spread is None or spread[1] > 0.7 * spread[0]:
        return ""
    figures = f"diversity {spread[1]:.2f}, pretrained {spread[0]:.2f}"
    return f"Over-optimised: samples of {name(result.plan, key)} resemble each other ({figures})."


def _pair(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    first, second = before.get(key), after.get(key)
    return None if first is None or second is None else (first, second)


def _advice(key: str) -> str:
    return "" if key == "tuned_without_kl" else " A larger alpha keeps closer to the pretrained model."


# --- figures -------------------------------------------------------------------------------------------------------


def figures(result: Result) -> Iterator[Drawing]:
    """The meters along the training, and what the reward cost in divergence."""
    from .domains import Drawing, figures
    from .tune import look_steps

    curves = {name(result.plan, key): rows for key, rows in result.curves.items()}
    yield Drawing(
        "training",
        figures.training(curves, result.plan.label),
        f"Looks at the model along the training, each at {result.plan.tune.judged} samples that it did not learn from, drawn in "
        f"{look_steps(result.plan)} steps (those of the table: {result.plan.tilt.diffusion.steps}). Where the held-out reward, "
        "which is never optimised, or the 3-mer correlation with natural sequences falls while the reward rises, the model "
        "exploits errors of the reward.",
    )
    yield Drawing(
        "reward_against_kl",
        figures.reward_against_kl(curves, result.plan.label),
        "What the reward costs: its median against the divergence (KL) of the sampling path from that of the pretrained "
        "model. Solid: the reward; dashed: the held-out one. Higher at the same divergence is better.",
    )
