"""The units that are left, in this process or in workers; what is finished stays, whatever ends the others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from typing import Any

from .plan import Plan
from .units import Unit, run

Finished = tuple[Unit, "Mapping[str, Any] | Exception"]


def run_all(
    plan: Plan,
    report: Callable[[Unit, Mapping[str, Any] | Exception], Any],
    on_round: Callable[[Unit, int], Any] | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Run what is not finished, and return the summaries of all units that are in the end, by name.

    A unit that fails does not stop the others.

    Args:
        report: hears of every unit as it ends, with its summary or its error.
        on_round: where there are no workers, hears of the unit that is run and its number of calls so far.

    Raises:
        KeyboardInterrupt: Ctrl-C; units under way are given up.
    """
    done = dict(plan.done)
    left = [unit for unit in plan.units if unit.name not in done]
    for unit, outcome in _outcomes(left, min(plan.workers, len(left)), on_round or (lambda unit, calls: None)):
        report(unit, outcome)
        if not isinstance(outcome, Exception):
            done[unit.name] = outcome
    return {unit.name: done[unit.name] for unit in plan.units if unit.name in done}


def _outcomes(units: Sequence[Unit], workers: int, on_round: Callable[[Unit, int], Any]) -> Iterator[Finished]:
    """Each unit with what became of it, as they end."""
    if workers > 1:
        yield from _in_workers(units, workers)
        return
    for unit in units:
        yield unit, _attempt(unit, on_round)


def _attempt(unit: Unit, on_round: Callable[[Unit, int], Any]) -> Mapping[str, Any] | Exception:
    try:
        return run(unit, lambda budget: on_round(unit, len(budget.calls)))
    except Exception as error:  # an optimiser of the user's may fail in any way
        return error


def _in_workers(units: Sequence[Unit], workers: int) -> Iterator[Finished]:
    """The same in processes of one thread each, which end with this one."""
    from joblib.externals.loky import ProcessPoolExecutor

    env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    executor = ProcessPoolExecutor(workers, initializer=_start, initargs=(os.getpid(),), env=env)
    futures = {executor.submit(run, unit): unit for unit in units}
    try:
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], (error if isinstance(error, Exception) else future.result())
    finally:
        with warnings.catch_warnings():
            # Where pgrep is missing, loky warns that it cannot find grandchildren; there are none.
            warnings.filterwarnings("ignore", message="Failed to kill subprocesses")
            executor.shutdown(wait=True, kill_workers=True)


def _start(parent: int) -> None:
    """Set up this process as a worker of `parent`."""
    from ..memory import keep_memory
    from ..rewards import _worker

    _worker.prepare(parent)
    keep_memory()
