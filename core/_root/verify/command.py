"""`tiltflow verify`: arguments to a plan, the run, the report, the exit code."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..core.storage import StorageError
from ..runs import claim
from ..schema import nearest
from . import report
from .cases import METHODS, WORLDS
from .run import FAST, QUICK_WORLDS, Plan, Result, run
from .trainers import GROUNDS, TRAINERS, courses

FAILED, BAD_ARGUMENTS, INTERRUPTED = 1, 2, 130
ABOUT = """\
Run every steering method on small worlds in which the tilted law p*(x) ~ p(x) exp(r(x) / alpha) is known, and say how far
each is from it: distance to p*, whether the draws follow the method's own law, whether its weights are unbiased, and what
a sample costs. Train with every trainer on worlds in which the optimum is known, and say how far each ends from it, and how
biased its gradient is. Writes verify.json, verify.csv, figures and report.html.
"""
NOTES = """\
examples
  tiltflow verify --fast
  tiltflow verify --method svdd --method smc --world masked --seed 7
  tiltflow verify --method drakes --world train-parallel
  tiltflow verify --world tfbind8 --world gb1 --data-dir data

exit code: 0 all passed; 1 a test failed (right code does so with probability 1e-4); 2 wrong arguments; 130 interrupted.
Arguments may also be written as elsewhere in tiltflow: seed=7 method=svdd,smc fast=true.
"""


def main(argv: Sequence[str]) -> int:
    """Run `tiltflow verify` with these arguments and return its exit code."""
    parser = _parser()
    try:
        given = parser.parse_args([word for argument in argv for word in _dashed(argument)])
        plan = _plan(parser, given)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        result = _measured(plan)
        return _report(result, given.out, shlex.join(["tiltflow", "verify", *argv]))
    except KeyboardInterrupt:
        print("tiltflow verify: interrupted, nothing was written", file=sys.stderr)
        return INTERRUPTED
    except (StorageError, ValueError, OSError) as error:
        print(f"tiltflow verify: {error}", file=sys.stderr)
        return FAILED


def _dashed(argument: str) -> list[str]:
    """key=value as --key value."""
    key, equals, value = argument.partition("=")
    if argument.startswith("-") or not equals:
        return [argument]
    option = "--" + key.replace("_", "-")
    if key == "fast":
        return [option] if value.lower() in ("true", "1", "yes") else []
    return [word for part in value.strip("[]").split(",") for word in (option, part)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tiltflow verify", description=ABOUT, epilog=NOTES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names: dict[str, Any] = {"metavar": "NAME", "action": "append", "default": None}
    parser.add_argument("--fast", action="store_true", help="less than a minute on two cores; the default takes ten")
    parser.add_argument(
        "--method",
        **names,
        help=f"steering: {', '.join(METHODS)}; trainers: {', '.join(TRAINERS)} (may be repeated; default: all)",
    )
    parser.add_argument(
        "--world",
        **names,
        help=f"for steering: {', '.join(WORLDS)}; for trainers: {', '.join(GROUNDS)} (may be repeated; default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of draws, training and the worlds of steering (default 0)")
    parser.add_argument("--data-dir", type=Path, help="folder of the measured landscapes tfbind8 and gb1")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the run folder is made (default: runs)")
    parser.add_argument("--draws", type=int, help="at the most, of each row")
    return parser


def _plan(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Plan:
    for kind, known, words in (
        ("method", [*METHODS, *TRAINERS], given.method),
        ("world", [*WORLDS, *GROUNDS], given.world),
    ):
        for word in words or ():
            if word not in known:
                parser.error(f"no {kind} {word!r}{nearest(word, known)} (there are: {', '.join(known)})")
    if given.draws is not None and given.draws < 1:
        parser.error(f"--draws {given.draws}; expected a positive number")
    if given.data_dir is not None and not given.data_dir.expanduser().is_dir():
        parser.error(f"--data-dir {given.data_dir} is not a folder")
    limits: dict[str, Any] = dict(FAST) if given.fast else {}
    if given.draws is not None:
        limits |= {"draws": given.draws, "work": 1e12}
    quick = [name for name in QUICK_WORLDS if name in WORLDS] if given.fast else list(WORLDS)
    plan = Plan(
        worlds=_named(given.world, WORLDS, quick),
        methods=_named(given.method, METHODS, list(METHODS)),
        grounds=_named(given.world, GROUNDS, list(GROUNDS)),
        trainers=_named(given.method, TRAINERS, list(TRAINERS)),
        few=given.fast and not given.method,
        seed=given.seed,
        data_dir=None if given.data_dir is None else given.data_dir.expanduser(),
        **limits,
    )
    if not (plan.worlds and plan.methods) and not any(
        courses(plan.grounds, plan.trainers, quick=plan.quick, few=plan.few)
    ):
        parser.error(
            f"none of the methods is run on these worlds: steering is on {', '.join(WORLDS)}, and each trainer on some of "
            f"{', '.join(GROUNDS)}"
        )
    return plan


def _named(words: list[str] | None, known: Collection[str], all_of: list[str]) -> tuple[str, ...]:
    """Those of the words that are `known`; all where no word was given."""
    return tuple(dict.fromkeys(all_of if words is None else [word for word in words if word in known]))


def _measured(plan: Plan) -> Result:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("worlds") as status:
            return run(plan, status.update)
    return run(plan, lambda text: None if ":" in text else print(f"measuring on {text}", file=sys.stderr, flush=True))


def _report(result: Result, out: Path, command: str) -> int:
    from rich.console import Console

    console = Console()
    for name, why in result.absent.items():
        verb = "are" if name == "trainers" else "is"
        console.print(f"{name} {verb} left out: {why}", highlight=False, markup=False, soft_wrap=True)
    if not result.rows and not result.trained:
        raise ValueError("No world is left to measure on.")
    report.print_all(result, console)
    folder = claim(out.expanduser() / f"{datetime.now():%Y-%m-%d-%H%M}-verify-s{result.plan.seed}")
    report.write(folder, result, command)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    wrong = bool(result.failed or result.refuted)
    console.print(report.verdict(result), style="red" if wrong else None, highlight=False, soft_wrap=True)
    return FAILED if wrong else 0
