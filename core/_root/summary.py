"""A job in numbers that people look at first: the rows of the tables on the terminal and in the report, and warnings."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import tuned
from .core.observers import quantiles

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from .job import Result

#: What to show of a domain's metrics, where it has them: key, words, format.
ROWS = (
    ("reward_median", "reward, median", ".2f"),
    ("reward_top_decile_mean", "reward, mean of the best tenth", ".2f"),
    ("heldout_median", "held-out reward, median", ".2f"),
    ("heldout_of_reward_top_decile", "held-out reward of the best tenth by reward", ".2f"),
    ("kmer3_correlation", "3-mer correlation with natural (strand given)", ".3f"),
    ("kmer6_correlation", "6-mer correlation with natural (strand given)", ".3f"),
    ("motif_correlation", "motif correlation with natural (either strand)", ".3f"),
    ("nelbo_median", "NELBO, median (nats per {site})", ".3f"),
    ("validity", "valid", ".3f"),
    ("novelty", "new to the model", ".3f"),
    ("qed_median", "QED, median", ".2f"),
    ("descriptor_distance", "descriptors: distance from natural (standard deviations)", ".2f"),
    ("alert_free", "without structural alerts", ".2f"),
    ("scaffolds", "distinct scaffolds", "d"),
    ("nearest_hamming_median", "bases to the nearest natural one, median", ".0f"),
    ("diversity", "diversity", ".3f"),
    ("unique", "distinct", "d"),
    ("n", "{unit}s", "d"),
)
#: Those of the short tables, and what they are called where there is little room.
BRIEF = {
    "reward_median": "reward",
    "heldout_median": "held-out",
    "kmer3_correlation": "3-mers",
    "nelbo_median": "NELBO",
    "qed_median": "QED",
    "novelty": "new",
    "diversity": "diversity",
}
SETS = ("natural", "pretrained", "steered", "tuned", "tuned_without_kl")


def number(value: Any, form: str) -> str:
    """A figure in a table; a dash where it is not defined."""
    if value is None:
        return "-"
    return format(round(value) if form.endswith("d") else value, form)


def rows(
    metrics: Mapping[str, Any], keys: Container[str] | None = None, site: str = "site", unit: str = "sequence"
) -> dict[str, tuple[str, list[str]]]:
    """By key, words and one figure for each set, wherever any set has a figure; `site` and `unit` are what one site and one
    sample are called."""
    sets = [metrics[name] for name in SETS if name in metrics]
    return {
        key: (words.format(site=site, unit=unit), [number(each.get(key), form) for each in sets])
        for key, words, form in ROWS
        if (keys is None or key in keys) and any(each.get(key) is not None for each in sets)
    }


def called(result: Result) -> dict[str, str]:
    """The sets of a run that have figures, in their order, and what a table calls them."""
    names = {name: name for name in SETS if name in result.metrics}
    return names if not result.plan.tunes else {name: tuned.name(result.plan, name) for name in names}


def table(result: Result) -> Table:
    """The short table for the terminal; where sets are many, with a row for each."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    if result.plan.tunes:
        header, body = tuned.four_rows(result)
        for index, word in enumerate(header):
            shown.add_column(word, justify="right" if index else "left", no_wrap=not index)
        for row in body:
            shown.add_row(*row)
        return shown
    shown.add_column("")
    for name in called(result).values():
        shown.add_column(name, justify="right")
    for words, figures in rows(result.metrics, BRIEF, result.plan.domain.site).values():
        shown.add_row(words, *figures)
    return shown


def comparison(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and one row for each run: what tells the runs apart, the brief figures of the designs, and what they cost."""
    steered = [result.metrics[result.plan.designs] for result in results]
    kept = [row for row in ROWS if row[0] in BRIEF and any(each.get(row[0]) is not None for each in steered)]
    header = ["run", *(BRIEF[key] for key, _, _ in kept), "rows", "calls", "seconds"]
    body = []
    for result, name in zip(results, _differing([result.plan.command for result in results]), strict=True):
        cost = result.samples.cost
        figures = [number(result.metrics[result.plan.designs].get(key), form) for key, _, form in kept]
        body.append([name, *figures, str(cost.forward_rows), str(cost.reward_calls), f"{cost.seconds:.1f}"])
    return header, body


def _differing(commands: Sequence[str]) -> list[str]:
    """The words of each command that not all of them share."""
    words = [command.split() for command in commands]
    shared = set(words[0]).intersection(*words)
    return [" ".join(word for word in each if word not in shared) or each[0] for each in words]


def warnings(result: Result) -> list[str]:
    """What a reader must know before trusting the designs, from the figures of this very run."""
    checks = (_early, _excluded, _exploited, _beyond, _unnatural, _words, _alike)
    exploited = tuned.warnings(result) if result.plan.tunes else []
    said = [text for check in checks if (text := check(result)) and not (check is _words and exploited)]
    return said + exploited


def _early(result: Result) -> str:
    samples, n, training = result.samples, result.plan.n, result.info.get("training", {})
    if training.get("stopped") is not None:
        return (
            f"The tuning was stopped after step {training['stopped']}: the model is what it was then, and is compared with "
            f"the pretrained one only. Go on by the same command with resume={result.folder}."
        )
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
    said = list(filter(None, (_above(result, name) for name in ("reward", "heldout"))))
    if not said:
        return ""
    unit = result.plan.domain.unit
    return (
        f"{' and '.join(said)} are beyond all {len(result.sets['natural'])} natural {unit}s. A learned reward extrapolates "
        "there: take its order seriously, and its numbers with caution."
    )


def _above(result: Result, name: str) -> str:
    """How many designs a reward puts above every natural sequence, where these are at least half; empty otherwise."""
    natural, steered = result.sets.get("natural"), result.sets[result.plan.designs]
    usual, values = None if natural is None else _finite(getattr(natural, name)), getattr(steered, name)
    if usual is None or not len(usual) or values is None:
        return ""
    best = float(usual.max())
    above = int((values > best).sum())
    words = {"heldout": "held-out reward"}.get(name, name)
    return f"{above} of {len(steered)} designs by the {words} (above {best:.2f})" if 2 * above >= len(steered) else ""


def _finite(values: Tensor | None) -> Tensor | None:
    return None if values is None else values[values.isfinite()]


def _unnatural(result: Result) -> str:
    """Too many designs outside of the NELBO that 9 in 10 natural (or, for want of these, pretrained) ones have."""
    usual, name = _usual(result)
    ours = _finite(result.sets[result.plan.designs].nelbo)
    if usual is None or ours is None or not len(usual) or not len(ours):
        return ""
    low, high = quantiles(usual, (0.05, 0.95))
    hard, easy = int((ours > high).sum()), int((ours < low).sum())
    site, (median,) = result.plan.domain.site, quantiles(ours, (0.5,))
    said = [
        f"{count} of {len(ours)} designs are {words} for the model than 19 in 20 {name} (NELBO {side}, median {median:.3f} "
        f"nats per {site}): {meaning}"
        for count, words, side, meaning in (
            (hard, "harder to guess", f"above {high:.3f}", "unlike what it knows. A larger alpha keeps them closer."),
            (easy, "easier to guess", f"below {low:.3f}", "no praise. Look for repeats and long runs of one token."),
        )
        if count > max(1, len(ours) / 5)
    ]
    return " ".join(said)


def _usual(result: Result) -> tuple[Tensor | None, str]:
    """The NELBO that is normal, and whose it is."""
    natural = result.sets.get("natural")
    return (
        (_finite(result.sets["pretrained"].nelbo), "samples of it")
        if natural is None
        else (_finite(natural.nelbo), f"natural {result.plan.domain.unit}s")
    )


def _words(result: Result) -> str:
    """Words of three letters: what NELBO may not show, since each of many small shifts is easy to guess.

    Measured against what as many natural sequences reach and what the model reaches unguided, under the same template.
    """
    steered, before = (result.metrics[name] for name in (result.plan.designs, "pretrained"))
    reached, *others = (steered.get("kmer3_correlation"), steered.get("kmer3_ceiling"), before.get("kmer3_correlation"))
    known = [other for other in others if other is not None]
    if reached is None or not known or reached > min(known) - 0.1:
        return ""
    return (
        f"The designs use words of three bases less as natural sequences do than they could (correlation {reached:.2f}, within "
        f"reach {min(known):.2f}). A larger alpha keeps them closer."
    )


def _alike(result: Result) -> str:
    steered, before = result.metrics[result.plan.designs], result.metrics["pretrained"]
    copies = steered["n"] - steered["unique"] if "unique" in steered else 0
    if copies > 0:
        return f"{copies} of {steered['n']} designs are copies of another one."
    spread, usual = steered.get("diversity"), before.get("diversity")
    if spread is None or usual is None or spread > 0.7 * usual:
        return ""
    return f"The designs resemble each other (diversity {spread:.2f}, pretrained {usual:.2f}); a larger alpha spreads them."
