"""Trainers in words: a table for each world, one of gradients, and the claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .bias import FAULT, Bias
from .train import Trained
from .trainers import GROUNDS, TRAINERS, Claim, label

if TYPE_CHECKING:
    from rich.table import Table

HEADER = (
    "trainer",
    "gap before",
    "gap",
    "above floor",
    "TV to p*",
    "reward",
    "path KL",
    "steps",
    "batch",
    "rows",
    "calls",
    "s",
)
ROOMY = ("gap before", "steps", "batch", "calls", "s")  # left out where the terminal is narrow
WIDE = 118  # characters that the whole table takes
CAPTION = (
    "gap: alpha log Z - J, computed, not sampled; J = E[r] - alpha KL(path). floor: the gap of the best model that takes its "
    "steps as this sampler does, found by exact ascent. TV: of the tuned model's own law. path KL: nats from the pretrained "
    "model's paths. rows, calls: network rows and reward calls of the whole training; equal sequences of a batch are paid for "
    "once. *: does not aim at p*, but goes on to the best sample or rests elsewhere; shown, not judged. On the line, policy "
    "gradients leave out the last step, which has no noise, and RWR learns the denoiser of p* itself: with few steps neither "
    "is the best by J."
)
GRADIENTS = ("world", "trainer", "bias", "cosine", "z", "")
ABOUT_GRADIENTS = (
    "bias: |E[g] - G| / |G| of the trainer's gradient g of one batch and the exact gradient G of J, near the pretrained "
    "weights; ± its standard error, at most. No number where a trainer's gradient has a unit of its own. z: for those that "
    "claim no bias, the largest of the scores along fixed directions. ?: too few batches to see an alpha that is {fault:.0%} off."
)
MARKS = {"pass": "ok", "fail": "FAIL", "underpowered": "?", None: ""}


def name(row: Trained | Bias) -> str:
    """What a row is called; a star where the trainer does not aim at p*."""
    if row.method not in TRAINERS:
        return f"{row.method} {row.variant}".strip()
    return label(row.method, row.variant) + ("" if TRAINERS[row.method].aims else " *")


def cells(row: Trained) -> list[str]:
    """A row as words, in the order of `HEADER`."""
    return [
        name(row),
        f"{row.before:.4f}",
        f"{row.gap:.5f}",
        f"{row.excess:.5f}",
        f"{row.tv:.4f}",
        f"{row.reward:.3f}",
        f"{row.kl:.3f}",
        str(row.steps),
        str(row.batch or "-"),
        str(row.training_rows),
        str(row.training_calls),
        f"{row.seconds:.1f}",
    ]


def title(rows: Sequence[Trained]) -> str:
    """Of the table of one world."""
    world = rows[0].world
    about = f" ({GROUNDS[world].title})" if world in GROUNDS else ""
    return f"{world}{about}: gap of the pretrained model {rows[0].before:.4f}, floor {rows[0].floor:.4f}"


def table(rows: Sequence[Trained], width: int = WIDE) -> Table:
    """The rows of one world as a rich table. `width`: of the terminal, in characters."""
    shown = [word for word in HEADER if width >= WIDE or word not in ROOMY]
    made = _columns(title(rows), shown, 1)
    for row in rows:
        words = dict(zip(HEADER, cells(row), strict=True))
        made.add_row(*(words[word] for word in shown))
    return made


def bias_cells(bias: Bias) -> list[str]:
    """A gradient as words, in the order of `GRADIENTS`."""
    size = "" if bias.bias is None else f"{bias.bias:.4f} ±{bias.error:.4f}"
    score = "" if bias.z is None else f"{bias.z:.1f}"
    return [bias.world, name(bias), size, f"{bias.cosine:.4f}", score, MARKS[bias.outcome]]


def bias_table(biases: Sequence[Bias]) -> Table:
    """All gradients as a rich table; those that failed are red."""
    made = _columns("gradients against the exact gradient of J", GRADIENTS, 2)
    for bias in biases:
        made.add_row(*bias_cells(bias), style="red" if bias.outcome == "fail" else None)
    return made


def about_gradients() -> str:
    """What the columns of gradients mean."""
    return ABOUT_GRADIENTS.format(fault=FAULT)


def claim_cells(claim: Claim) -> list[str]:
    """World, claim, what was found, whether it holds."""
    return [claim.world, claim.text, claim.found, MARKS[claim.outcome]]


def claim_table(claims: Sequence[Claim]) -> Table:
    """All claims as a rich table; refuted ones are red."""
    made = _columns("claims", ("world", "claim", "found", ""), 4)
    for claim in claims:
        made.add_row(*claim_cells(claim), style="red" if claim.outcome == "fail" else None)
    return made


def by_world(rows: Sequence[Trained]) -> list[list[Trained]]:
    """The rows of each world."""
    return [[row for row in rows if row.world == world] for world in dict.fromkeys(row.world for row in rows)]


def _columns(caption: str, words: Sequence[str], left: int) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, title=caption, title_justify="left", title_style="bold")
    for number, word in enumerate(words):
        made.add_column(word, justify="left" if number < left else "right", no_wrap=number >= left)
    return made
