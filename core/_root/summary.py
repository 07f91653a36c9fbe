"""A job in numbers that people look at first: the rows of the tables on the terminal and in the report, and warnings."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from .job import Result

#: What to show of a domain's metrics, where it has them: key, words, format.
ROWS = (
    ("reward_median", "reward, median", ".2f"),
    ("reward_top_decile_mean", "reward, mean of the best tenth", ".2f"),
    ("heldout_median", "held-out reward, median", ".2f"),
    ("heldout_of_reward_top_decile", "held-out reward of the best tenth by reward", ".2f"),
    ("kmer3_correlation", "3-mer correlation with natural", ".3f"),
    ("kmer6_correlation", "6-mer correlation with natural", ".3f"),
    ("motif_correlation", "motif correlation with natural", ".3f"),
    ("nelbo_median", "NELBO (nats per base), median", ".3f"),
    ("nearest_hamming_median", "bases to the nearest natural one, median", ".0f"),
    ("diversity", "diversity", ".3f"),
    ("unique", "distinct", "d"),
    ("n", "sequences", "d"),
)
#: Those of the short tables, and what they are called where there is little room.
BRIEF = {
    "reward_median": "reward",
    "heldout_median": "held-out",
    "kmer3_correlation": "3-mers",
    "nelbo_median": "NELBO",
    "diversity": "diversity",
}
SETS = ("natural", "pretrained", "steered")


def number(value: Any, form: str) -> str:
    """A figure in a table; a dash where it is not defined."""
    if value is None:
        return "-"
    return format(round(value) if form.endswith("d") else value, form)


def rows(metrics: Mapping[str, Any], keys: Container[str] | None = None) -> dict[str, tuple[str, list[str]]]:
    """By key, words and one figure for each set, wherever any set has a figure."""
    sets = [metrics[name] for name in SETS if name in metrics]
    return {
        key: (words, [number(each.get(key), form) for each in sets])
        for key, words, form in ROWS
        if (keys is None or key in keys) and any(each.get(key) is not None for each in sets)
    }


def table(result: Result) -> Table:
    """The short table for the terminal."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("")
    for name in SETS:
        if name in result.metrics:
            shown.add_column(name, justify="right")
    for words, figures in rows(result.metrics, BRIEF).values():
        shown.add_row(words, *figures)
    return shown


def comparison(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and one row for each run: what tells the runs apart, the brief figures of the designs, and what they cost."""
    steered = [result.metrics["steered"] for result in results]
    kept = [row for row in ROWS if row[0] in BRIEF and any(each.get(row[0]) is not None for each in steered)]
    header = ["run", *(BRIEF[key] for key, _, _ in kept), "rows", "calls", "seconds"]
    body = []
    for result, name in zip(results, _differing([result.plan.command for result in results]), strict=True):
        cost = result.samples.cost
        figures = [number(result.metrics["steered"].get(key), form) for key, _, form in kept]
        body.append([name, *figures, str(cost.forward_rows), str(cost.reward_calls), f"{cost.seconds:.1f}"])
    return header, body


def _differing(commands: Sequence[str]) -> list[str]:
    """The words of each command that not all of them share."""
    words = [command.split() for command in commands]
    shared = set(words[0]).intersection(*words)
    return [" ".join(word for word in each if word not in shared) or each[0] for each in words]


def warnings(result: Result) -> list[str]:
    """What a reader must know before trusting the designs, from the figures of this very run."""
    return [text for check in (_early, _excluded, _exploited, _beyond, _unnatural, _alike) if (text := check(result))]


def _early(result: Result) -> str:
    samples, n = result.samples, result.plan.n
    if len(samples) == n and samples.stopped is None:
        return ""
    step = f" Its last batch was steered for {samples.stopped} steps only and finished unguided."
    return f"The run was stopped: {len(samples)} of {n} designs were made.{step if samples.stopped else ''}"


def _excluded(result: Result) -> str:
    if result.excluded == 0:
        return ""
    if result.excluded == len(result.samples):
        return (
            "Every sample breaks a hard rule (reward minus infinity). They are listed all the same; use none of them."
        )
    return f"{result.excluded} of {len(result.samples)} samples break a hard rule and are left out."


def _exploited(result: Result) -> str:
    gain = result.metrics["gain"]
    reward, heldout = (gain.get(f"{key}_median_gain_in_natural_sd") for key in ("reward", "heldout"))
    if reward is None or heldout is None or reward <= 0.5 or heldout >= reward / 2:
        return ""
    return (
        f"The reward rose by {reward:.1f} natural standard deviations, the held-out oracle, which was not optimised, only by "
        f"{heldout:.1f}. Part of the gain may be an error of the reward; a larger alpha or fewer candidates ask for less."
    )


def _beyond(result: Result) -> str:
    natural = result.sets.get("natural")
    if natural is None or not bool(natural.reward.isfinite().any()):
        return ""
    best = float(natural.reward[natural.reward.isfinite()].max())
    above = int((result.sets["steered"].reward > best).sum())
    if 2 * above < len(result.sets["steered"]):
        return ""
    return (
        f"{above} of {len(result.sets['steered'])} designs have a higher reward than any of {len(natural)} natural sequences "
        f"({best:.2f}). A learned reward extrapolates there: take its order seriously, and its numbers with caution."
    )


def _unnatural(result: Result) -> str:
    before, after = (result.metrics[name].get("nelbo_median") for name in ("pretrained", "steered"))
    if before is None or after is None or abs(after - before) < 0.1:
        return ""
    figures = f"({after:.3f} against {before:.3f} nats per base)"
    if after < before:
        return f"The model finds the designs easier to predict than its own samples {figures}: look for repeats and long runs."
    return f"The designs are less natural than samples of the model {figures}. A larger alpha keeps them closer."


def _alike(result: Result) -> str:
    steered, before = result.metrics["steered"], result.metrics["pretrained"]
    copies = steered["n"] - steered["unique"] if "unique" in steered else 0
    if copies > 0:
        return f"{copies} of {steered['n']} designs are copies of another one."
    spread, usual = steered.get("diversity"), before.get("diversity")
    if spread is None or usual is None or spread > 0.7 * usual:
        return ""
    return f"The designs resemble each other (diversity {spread:.2f}, pretrained {usual:.2f}); a larger alpha spreads them."
