"""What is shown and written: tables in the terminal, verify.json, verify.csv, figures and report.html."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, page
from ..core.storage import write_json, write_text
from ..core.worlds.statistics import ALARM
from . import train_report
from .figure import draw
from .measure import Point, Row
from .run import Result
from .train import Trained
from .train_figure import draw as draw_trainers

if TYPE_CHECKING:
    from rich.table import Table

HEADER = ("method", "value", "N", "TV to p*", "KL", "own law", "reward", "log Z", "z", "calls", "rows", "draws", "s")
ROOMY = ("KL", "rows", "draws", "s")  # left out where the terminal is narrow
WIDE = 118  # characters that the whole table takes
CAPTION = (
    "TV, KL: of the method's exact law, or (~) of its draws, where noise alone gives the ±. own law: do the draws follow the "
    "method's own law (chi-square, p-value)? z: standard errors from the true Z. calls, rows: reward calls and network rows "
    "for one sample alone. ?: too few draws to see an alpha that is {fault:.0%} off, or {half:.0%} of uniform draws."
)
MARKS = {"pass": "ok", "fail": "FAIL", "underpowered": "?", None: ""}
FIGURE = (
    "Total variation to p* against reward calls a sample (a look at a known value counts as one), for growing numbers of "
    "candidates or particles. Exact laws where computable; open circles lie within twice the noise of the draws. Dotted: what "
    "the sampler's own error makes of a perfect method."
)
TRAINING = (
    "Optimality gap alpha log Z - J before (open) and after training (filled), a panel for each world; gaps below 1e-5 or above "
    "10 are drawn there. Dashed: the floor, what ascent along the exact gradient reaches. Grey: trainers that do not aim at "
    "p*. Last panel: how far the mean gradient of a batch is from the exact one, with its standard error."
)


def cells(row: Row) -> list[str]:
    """A row as words, in the order of `HEADER`."""
    noise = f" ±{row.floor:.3f}" if row.floor else ""
    own = "" if row.p_value is None else f"{MARKS[row.law]} {row.p_value:.2g}"
    weights = f"{'' if row.z is None else f'{row.z:+.1f}'} {MARKS[row.weights]}".strip()
    return [
        row.method,
        row.value,
        "" if row.budget is None else str(row.budget),
        f"{'FAIL ' if row.claim == 'fail' else ''}{'~' if row.floor else ''}{row.tv:.4f}{noise}",
        "inf" if row.kl is None else f"{row.kl:.4f}",
        own,
        f"{row.reward:.3f}",
        "" if row.log_z is None else f"{row.log_z:.3f}",
        weights,
        f"{row.reward_calls:.0f}",
        f"{row.forward_rows:.0f}",
        str(row.n),
        f"{row.seconds:.1f}",
    ]


def table(rows: Sequence[Row], width: int = WIDE) -> Table:
    """The rows of one world as a rich table; rows that failed are red. `width`: of the terminal, in characters."""
    from rich.table import Table

    first = rows[0]
    title = f"{first.world}: a perfect method has mean reward {first.reward_true:.3f}, log Z {first.log_z_true:.3f}"
    made = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    shown = [word for word in HEADER if width >= WIDE or word not in ROOMY]
    for word in shown:
        made.add_column(word, justify="left" if word in HEADER[:2] else "right", no_wrap=True)
    for row in rows:
        words = dict(zip(HEADER, cells(row), strict=True))
        made.add_row(*(words[word] for word in shown), style="red" if row.failed else None)
    return made


def caption(fault: float) -> str:
    """What the columns mean."""
    return CAPTION.format(fault=fault, half=fault / 2)


def by_world(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of each world, those of a method and value one below the other."""
    for world in dict.fromkeys(row.world for row in rows):
        mine = [row for row in rows if row.world == world]
        order = list(dict.fromkeys((row.method, row.value) for row in mine))
        yield sorted(mine, key=lambda row: (order.index((row.method, row.value)), row.budget or 0))


def show(rows: Sequence[Row | Trained], console: Any = None) -> None:
    """Print rows of `measure` and of `measure_trainer` as tables, one for each world."""
    from rich.console import Console

    console = console or Console()
    for part in by_world([row for row in rows if isinstance(row, Row)]):
        console.print(table(part, console.width))
        console.print()
    for trained in train_report.by_world([row for row in rows if isinstance(row, Trained)]):
        console.print(train_report.table(trained, console.width))
        console.print()


def print_all(result: Result, console: Any) -> None:
    """Print everything that was found, with what the columns mean."""
    if result.rows:
        show(result.rows, console)
        console.print(caption(result.plan.fault) + "\n", style="dim", highlight=False, markup=False)
    if result.trained:
        show(result.trained, console)
        console.print(train_report.CAPTION + "\n", style="dim", highlight=False, markup=False)
    if result.biases:
        console.print(train_report.bias_table(result.biases))
        console.print("\n" + train_report.about_gradients() + "\n", style="dim", highlight=False, markup=False)
    if result.claims:
        console.print(train_report.claim_table(result.claims))
        console.print()


def verdict(result: Result) -> str:
    """The last lines: how many tests, what failed, and how often right code would."""
    failed, blurred, parts = result.failed, result.underpowered, []
    if result.rows:
        named = "".join(f"\n  {row.world}: {row.method}, {row.value} {row.budget or ''}".rstrip() for row in failed)
        parts.append(
            f"{len(result.rows)} rows with {result.tests} tests; {len(failed)} rows failed, {blurred} with too few draws for "
            f"a test. Right code fails any of them with probability {ALARM:g} (each with {result.alarm:.1g}).{named}"
        )
    if result.claims:
        unsure = sum(claim.outcome == "underpowered" for claim in result.claims)
        named = "".join(f"\n  {claim.world}: {claim.text} ({claim.found})" for claim in result.refuted)
        parts.append(
            f"{len(result.claims)} claims about trainers; {len(result.refuted)} failed, {unsure} with too few samples to "
            f"tell.{named}"
        )
    return "\n".join(parts) or f"{len(result.trained)} trainings, about which nothing is claimed."


def settings(result: Result) -> dict[str, Any]:
    """What it takes to run the same again."""
    plan = result.plan
    return {
        "version": __version__,
        "seed": plan.seed,
        "worlds": [*result.references, *dict.fromkeys(row.world for row in result.trained)],
        "absent": result.absent,
        "methods": list(plan.methods),
        "trainers": list(plan.trainers),
        "quick": plan.quick,
        "draws": plan.draws,
        "work": plan.work,
        "fault": plan.fault,
    }


def content(result: Result) -> dict[str, Any]:
    """verify.json. Two runs with one seed differ in `seconds` alone."""
    return {
        "settings": settings(result),
        "rows": [{**asdict(row), "failed": row.failed} for row in result.rows],
        "points": [asdict(point) for point in result.points],
        "sampler": result.reach,
        "trained": [asdict(row) for row in result.trained],
        "gradients": [asdict(bias) for bias in result.biases],
        "claims": [asdict(claim) for claim in result.claims],
        "tests": result.tests,
        "alarm": result.alarm,
        "failed": len(result.failed) + len(result.refuted),
        "underpowered": result.underpowered,
    }


def write(folder: Path, result: Result, command: str) -> None:
    """All files of a run."""
    from ..domains.canvas import save

    write_json(folder / "verify.json", content(result))
    write_text(folder / "verify.csv", _csv([*result.rows, *result.points, *result.trained]))
    pictures = {}
    if result.rows:
        pictures["steering"] = folder / "verify.png"
        save(draw(result), pictures["steering"])
    if result.trained:
        pictures["training"] = folder / "trainers.png"
        save(draw_trainers(result), pictures["training"])
    write_text(folder / "report.html", page.page("How exact are the methods?", _body(result, pictures, command)))


def _csv(points: Sequence[Point | Trained]) -> str:
    """One table: what a row has no number for is left empty."""
    kinds = [Row] * any(isinstance(p, Point) for p in points) + [Trained] * any(isinstance(p, Trained) for p in points)
    names = dict.fromkeys(field.name for kind in kinds for field in fields(kind))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return buffer.getvalue()


def _body(result: Result, pictures: dict[str, Path], command: str) -> Iterator[str]:
    yield page.heading("How exact are the methods?", 1)
    for text in verdict(result).split("\n"):
        yield (page.warning if result.failed or result.refuted else page.paragraph)(text)
    if result.rows:
        yield from _steering(result, pictures["steering"])
    if result.trained:
        yield from _training(result, pictures["training"])
    for name, why in result.absent.items():
        yield page.paragraph(f"Left out: {name}. {why}")
    yield page.heading("The same again")
    yield page.code(command)


def _steering(result: Result, picture: Path) -> Iterator[str]:
    yield page.picture(picture, FIGURE)
    for part in by_world(result.rows):
        title = table(part).title
        yield page.heading(str(title))
        yield page.table(HEADER, map(cells, part), ["", "", *["n"] * (len(HEADER) - 2)])
    yield page.paragraph(caption(result.plan.fault), "faint")


def _training(result: Result, picture: Path) -> Iterator[str]:
    yield page.heading("Trainers")
    yield page.picture(picture, TRAINING)
    for part in train_report.by_world(result.trained):
        yield page.heading(train_report.title(part))
        head = train_report.HEADER
        yield page.table(head, map(train_report.cells, part), ["", *["n"] * (len(head) - 1)])
    yield page.paragraph(train_report.CAPTION, "faint")
    if result.biases:
        yield page.heading("Gradients against the exact gradient of J")
        yield page.table(train_report.GRADIENTS, map(train_report.bias_cells, result.biases), ["", "", *["n"] * 4])
        yield page.paragraph(train_report.about_gradients(), "faint")
    if result.claims:
        yield page.heading("Claims about trainers")
        yield page.table(
            ("world", "claim", "found", ""), map(train_report.claim_cells, result.claims), ["", "", "", ""]
        )
