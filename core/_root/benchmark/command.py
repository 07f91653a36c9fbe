"""`tiltflow benchmark=pmo`: a checked plan, run to the report; the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import report
from .plan import Plan
from .run import run_all
from .table import columns, duels, published
from .units import Unit

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1


def run(plan: Plan, console: Console) -> int:
    """Run what is left and report; 0, or 1 where a unit failed.

    Raises:
        KeyboardInterrupt: Ctrl-C; the same command goes on with what is not finished.
    """
    told = f"{len(plan.units)} runs, {len(plan.done)} of them finished" if plan.done else f"{len(plan.units)} runs"
    console.print(f"{report.title(plan)}: {told}\n{plan.out}", highlight=False, soft_wrap=True)
    failed, ended = [], len(plan.done)

    def heard(unit: Unit, outcome: Mapping[str, Any] | Exception) -> None:
        nonlocal ended
        ended += 1
        wrong = isinstance(outcome, Exception)
        if wrong:
            failed.append(unit)
        text = f"failed: {type(outcome).__name__}: {outcome}" if wrong else _line(outcome)
        style = "red" if wrong else None
        console.print(
            f"{ended} of {len(plan.units)}  {unit.name}: {text}",
            style=style,
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    with console.status(f"{plan.workers} at a time" if plan.workers > 1 else "") as status:
        done = run_all(plan, heard, lambda unit, calls: status.update(f"{unit.name}: {calls} of {plan.calls} calls"))
    if done:
        _tell(plan, done, console)
    return FAILED if failed else 0


def _line(summary: Any) -> str:
    """A finished unit in words."""
    best = f"{summary['auc_top10']:.3f}, best {summary['top1']:.3f}"
    lost = f", {summary['failed']} not scored" if summary["failed"] else ""
    return f"top-10 AUC {best}, {summary['calls']} calls{lost}, {summary['seconds']:.0f} s"


def _tell(plan: Plan, done: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    report.write(plan, done)
    console.print("", report.show(plan, done))
    own = columns(plan, done)
    lines = [*report.NOTES, *filter(None, [report.caution(plan)])]
    console.print("\n".join(lines), style="dim", highlight=False, markup=False)
    for line in report.verdict(duels(plan, own, published(plan.tasks))):
        console.print(line, highlight=False, markup=False)
    console.print(f"report: {plan.out / 'report.md'}", highlight=False, soft_wrap=True)
