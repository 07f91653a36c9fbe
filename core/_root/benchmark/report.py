"""What is shown and written of a benchmark: a table in the terminal, report.md, report.json and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..core.storage import write_json, write_text
from .figure import draw
from .plan import Plan
from .published import CALLS
from .table import Cell, Column, Duel, columns, comparable, duels, published

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("Graph GA", "Genetic GFN", "GenMol")  # of the published ones, in the terminal
SCREENED = "†"
NOTES = (
    "Top-10 AUC (Gao et al., NeurIPS 2022): area under the mean of the best ten so far against the number of calls, "
    "mean ± standard deviation over runs. Higher is better.",
    f"{SCREENED} starts from the best molecules of ZINC250k by the task itself; these calls (about 250 000) are not counted.",
    "close: apart by no more than the larger of the two standard deviations.",
)
SOURCES = {
    "Gao 2022": "Gao et al., Sample Efficiency Matters, NeurIPS 2022",
    "Tripp 2023": "Tripp and Hernandez-Lobato, Genetic algorithms are strong baselines, 2023, as quoted by Lee et al. 2024",
    "Kim 2024": "Kim et al., Genetic-guided GFlowNets, NeurIPS 2024, Table 12",
    "Lee 2024": "Lee et al., f-RAG, NeurIPS 2024, Table 1",
    "Lee 2025": "Lee et al., GenMol, ICML 2025, as quoted by Kaech et al. 2025",
    "Kaech 2025": "Kaech et al., arXiv:2509.26405",
}


def show(plan: Plan, done: Mapping[str, Mapping[str, Any]]) -> Table:
    """The table of the terminal: all methods, and a few published ones."""
    from rich.table import Table

    theirs = [column for column in published(plan.tasks) if column.name in SHOWN]
    made = Table(box=None, pad_edge=False, title=title(plan), title_justify="left", title_style="bold")
    for index, word in enumerate(("task", *map(heading, [*columns(plan, done), *theirs]))):
        made.add_column(word, justify="right" if index else "left", no_wrap=not index)
    for row in body(plan, [*columns(plan, done), *theirs]):
        made.add_row(*row, style="bold" if row[0] == "sum" else None)
    return made


def title(plan: Plan) -> str:
    """What was measured, in a line."""
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) != 1)}"
    return f"{plan.name}: top-10 AUC in {plan.calls} calls, {len(plan.tasks)} tasks, {seeds}"


def heading(column: Column) -> str:
    """The name of a method, with a mark where it had a head start."""
    screened = column.published is not None and column.published.screened
    return column.name + (f" {SCREENED}" if screened else "")


def body(plan: Plan, shown: Sequence[Column]) -> list[list[str]]:
    """A row for each task, and the sums."""
    rows = [[task, *(_cell(column.cells.get(task)) for column in shown)] for task in plan.tasks]
    sums = [column.total(plan.tasks) for column in shown]
    return [*rows, ["sum", *("-" if total is None else f"{total:.3f}" for total in sums)]]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.mean:.3f}" + ("" if cell.std is None else f" ±{cell.std:.3f}")


def verdict(duels: Sequence[Duel]) -> list[str]:
    """The duels in words."""
    return [
        f"{each.one} against {each.other}: won {each.won}, lost {each.lost}, even {each.even} (close: {each.close})"
        for each in duels
    ]


def caution(plan: Plan) -> str:
    """Why published numbers cannot be held against this benchmark; empty where they can."""
    if comparable(plan):
        return ""
    return f"Published numbers are for {CALLS} calls; those in {plan.calls} calls are not to be compared with them."


def content(plan: Plan, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """report.json. The same benchmark gives the same content, but for `seconds`."""
    own, theirs = columns(plan, done), published(plan.tasks)
    return {
        "benchmark": plan.name,
        "calls": plan.calls,
        "tasks": list(plan.tasks),
        "seeds": list(plan.seeds),
        "comparable": comparable(plan),
        "methods": {column.name: _numbers(plan, column, done) for column in own},
        "published": {
            column.name: {
                "source": SOURCES[column.published.source],
                "screened": column.published.screened,
                "auc_top10": {task: asdict(cell) for task, cell in column.cells.items()},
                "sum": column.total(plan.tasks),
            }
            for column in theirs
            if column.published is not None
        },
        "duels": [asdict(each) for each in duels(plan, own, theirs)],
        "missing": [unit.name for unit in plan.units if unit.name not in done],
        "seconds": {
            method: sum(done[unit.name]["seconds"] for unit in _finished(plan, done, method)) for method in plan.methods
        },
    }


def _finished(plan: Plan, done: Mapping[str, Any], method: str, task: str | None = None) -> list[Any]:
    mine = [unit for unit in plan.units if unit.settings["method"] == method and unit.name in done]
    return [unit for unit in mine if task in (None, unit.settings["task"])]


def _numbers(plan: Plan, column: Column, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of a method: the cells, the sum, and for each task the means over seeds of the other measures."""
    measures = ("auc_top1", "auc_top100", "top1", "top10", "top100", "calls", "failed")
    by_task = {}
    for task in column.cells:
        runs = [done[unit.name] for unit in _finished(plan, done, column.name, task)]
        by_task[task] = {name: mean(run[name] for run in runs) for name in measures}
    return {
        "auc_top10": {task: asdict(cell) for task, cell in column.cells.items()},
        "sum": column.total(plan.tasks),
        "means": by_task,
    }


def write(plan: Plan, done: Mapping[str, Mapping[str, Any]]) -> None:
    """All files of the report, into the folder of the benchmark."""
    from ..domains.canvas import save

    found = content(plan, done)
    write_json(plan.out / "report.json", found)
    save(draw(plan, columns(plan, done), published(plan.tasks)), plan.out / "report.png")
    write_text(plan.out / "report.md", markdown(plan, done))


def markdown(plan: Plan, done: Mapping[str, Mapping[str, Any]]) -> str:
    """The report as text."""
    own, theirs = columns(plan, done), published(plan.tasks)
    fought = duels(plan, own, theirs)
    parts = [f"# {title(plan)}", *NOTES[:1], "![top-10 AUC by task](report.png)"]
    parts += [_markdown_table(["task", *map(heading, own)], body(plan, own))]
    parts += ["## Published", *filter(None, [caution(plan)]), NOTES[1]]
    parts += [_markdown_table(["task", *map(heading, theirs)], body(plan, theirs))]
    where = {c.name: c.published.source for c in theirs if c.published is not None}
    parts += ["\n".join(f"* {name}: {SOURCES[source]}" for name, source in where.items())]
    if fought:
        rows = [[e.one, e.other, *map(str, (e.won, e.lost, e.even, e.close))] for e in fought]
        parts += ["## Tasks won and lost", _markdown_table(["method", "against", "won", "lost", "even", "close"], rows)]
        parts += [NOTES[2]]
    missing = [unit.name for unit in plan.units if unit.name not in done]
    if missing:
        parts += ["## Missing", "\n".join(f"* {name}" for name in missing)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
