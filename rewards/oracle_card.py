"""The card of an expression oracle: what it is, from what, and how far to trust it. Written from the facts in its file."""

from __future__ import annotations

from typing import Any

from .learned import CnnRegressor, KmerRidge

_ABOUT = {
    CnnRegressor.kind: (
        "Expression oracle (to optimise)",
        "Convolutional network that reads both strands with {scanners} motif scanners. Takes tokens and relaxed sequences, "
        "differentiable.",
    ),
    KmerRidge.kind: (
        "Held-out expression oracle (to judge by, never to optimise)",
        "Ridge regression on the counts of {ks}-mers. Takes tokens.",
    ),
}

_TEXT = """# {title}

{what}
Input: 80-bp yeast promoters. Output: expression in YPD and in SC-Ura, in sorting bins (0 to 17, logarithmic in fluorescence).

* **Data**: expression of native, random and evolved (SSWM) 80-mers, Vaishnav et al., *The evolution, evolvability and
  engineering of gene regulatory DNA*, Nature 603:455 (2022), https://github.com/1edv/evolution, MIT licence.{motifs}
* **Licence** of this file: Apache-2.0, as the rest of tiltflow.
* **Trained on** {trained_on}.
  The two oracles and the test fold share no relatives: rows with a common 20-mer on either strand, or 56 equal positions
  of 80, are one family and stay in one fold. Settings of both were chosen by fits on the first half scored on the second;
  the test fold took no part in that.
* **Made by** `{command}` (seed {seed}).

## Pearson R (Spearman) on the test fold

{table}

**Quote the Random figure.** Random sequences have no relatives at all. Native and SSWM rows come in few families
(promoters of 199 genes, some 440 trajectories), so their figures rest on few independent cases and say more about
ranking variants of one promoter than about new sequences. A random split of rows, which puts relatives on both sides,
gives higher figures for all of them; they mean nothing for designs.

**The difference (YPD minus SC-Ura) is weak.** Measured levels in the two media correlate at 0.97, so little is left to
predict: trust it only as far as the last row goes.

## Over natural promoters, one per gene

{natural}

Pearson R between the two oracles: {between}.

Predictions far above the natural range are extrapolation: believe a gain only as far as both oracles show it.
"""

_JASPAR = """
* **Motifs**: JASPAR 2022, fungi (Castro-Mondragon et al., Nucleic Acids Research 50:D165, 2022; CC BY 4.0), as the start
  of the scanners; training changes them. Motif counts of designs are therefore no independent evidence. What the start is
  worth, measured on the second half after 10 epochs (R on Random, YPD / SC-Ura): random start 0.78 / 0.81, the same motifs
  with positions and letters shuffled 0.78 / 0.81, the motifs themselves 0.85 / 0.87."""


def card(model: CnnRegressor | KmerRidge) -> str:
    """Markdown card of a predictor that holds the facts of `tiltflow.rewards.expression.train`."""
    facts = model.facts
    title, what = _ABOUT[model.kind]
    ks = scanners = ""
    if isinstance(model, KmerRidge):
        ks = ", ".join(map(str, model.ks))
    else:
        scanners = str(model.network.settings["scanners"])
    return _TEXT.format(
        title=title,
        what=what.format(ks=ks, scanners=scanners),
        motifs=_JASPAR if facts.get("motifs") else "",
        trained_on=", ".join(f"{count} {name}" for name, count in facts["trained_on"].items()) + " sequences",
        command=facts["command"],
        seed=facts["seed"],
        table=_scores(facts["test"]),
        natural=_natural(facts),
        between="; ".join(_pairs(name, row) for name, row in facts["between"].items()),
    )


def _scores(test: dict[str, Any]) -> str:
    subsets = list(next(iter(test.values())))
    head = "| | " + " | ".join(subsets) + " |\n|---" + "|---" * len(subsets) + "|"
    rows = [f"| {name} | " + " | ".join(_score(row[subset]) for subset in subsets) + " |" for name, row in test.items()]
    return "\n".join([head, *rows])


def _score(cell: dict[str, Any]) -> str:
    return f"{_number(cell['pearson'])} ({_number(cell['spearman'])}), n = {cell['n']}"


def _natural(facts: dict[str, Any]) -> str:
    rows = [f"| {name} | {facts['natural_mean'][name]:.3f} | {std:.3f} |" for name, std in facts["natural_std"].items()]
    return "\n".join(["| predicted | mean | standard deviation |", "|---|---|---|", *rows])


def _pairs(name: str, row: dict[str, float | None]) -> str:
    return f"{name} " + ", ".join(f"{_number(r)} ({condition})" for condition, r in row.items())


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
