"""Worker processes for `BlackBox`, each of which can be ended without harm to the others (a hanging function has no
other end)."""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Literal

from . import _worker

STARTUP_SECONDS = 300.0  # for a worker to start and unpack the function, with all that it imports

HOPELESS = 8  # late batches in a row before a run gives up

Batch = list[str]
Result = list[_worker.Outcome] | Literal["timeout", "crash"]
Take = Callable[[Batch, Result], None]


@dataclass
class _Process:
    """A loky executor of one process, and what it is doing."""

    executor: Any
    pid: int = 0
    batch: Batch = field(default_factory=list)
    future: Future[Any] | None = None
    deadline: float | None = None

    def end(self) -> None:
        """Stop at once, whatever it is doing."""
        if self.pid:
            _worker.kill_group(self.pid)
        with warnings.catch_warnings():
            # Where pgrep is missing, loky warns that it cannot find grandchildren; kill_group has ended those.
            warnings.filterwarnings("ignore", message="Failed to kill subprocesses")
            self.executor.shutdown(wait=True, kill_workers=True)


class Processes:
    """At most `count` processes that hold one function and are kept until `close`.

    Args:
        function: any callable; lambdas and local functions travel by value (cloudpickle).
        count: number of processes.
        memory: GiB that each may take on top of what it holds once it has the function, or None.

    Raises:
        TypeError: the function cannot be sent to another process.
    """

    def __init__(self, function: Callable[..., Any], count: int, memory: float | None = None) -> None:
        from joblib.externals.loky.backend.reduction import dumps  # cloudpickle, wherever joblib keeps it

        try:
            self._payload = bytes(dumps(function))
        except Exception as error:
            raise TypeError(
                f"{function!r} cannot be sent to a worker process ({type(error).__name__}: {error}); open files, "
                "connections and the like inside the function, or use workers=1 without a timeout"
            ) from error
        self._count, self._memory = count, memory
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []

    def run(self, batches: list[Batch], vectorised: bool, timeout: float | None, take: Take) -> None:
        """Evaluate `batches` and call take(batch, result) for each as it finishes, in any order.

        A batch that takes longer than `timeout` seconds, not counting the start of a process, is a "timeout"; one whose
        process died is a "crash". Its process is ended and replaced. Whatever goes wrong here or in `take`, Ctrl-C
        included, ends all busy processes.

        Raises:
            BadReturn: the function broke its contract.
            TimeoutError: `HOPELESS` batches in a row were late.
            RuntimeError: a worker cannot start or unpack the function.
        """
        pending, late = deque(batches), 0
        try:
            while pending or self._busy:
                self._staff(min(self._count, len(pending) + len(self._busy)))
                while pending and self._idle:
                    self._give(self._idle.pop(), pending.popleft(), vectorised, timeout)
                for batch, result in self._collect():
                    take(batch, result)
                    late = late + 1 if result == "timeout" else 0
                    if late == HOPELESS:
                        raise TimeoutError(f"{late} batches in a row")
        finally:
            for process in self._busy:
                process.end()
            self._busy.clear()

    def close(self) -> None:
        """End all processes."""
        while self._idle or self._busy:
            (self._idle or self._busy).pop().end()

    def _staff(self, wanted: int) -> None:
        """Start processes until there are `wanted`, all at the same time."""
        missing = wanted - len(self._idle) - len(self._busy)
        started = [_Process(_executor(self._count)) for _ in range(missing)]
        try:
            loading = [process.executor.submit(_worker.load, self._payload, self._memory) for process in started]
            wait(loading, timeout=STARTUP_SECONDS)
            for process, future in zip(started, loading, strict=True):
                process.pid = _started(future)
        except BaseException:
            for process in started:
                process.end()
            raise
        self._idle += started

    def _give(self, process: _Process, batch: Batch, vectorised: bool, timeout: float | None) -> None:
        process.batch = batch
        process.future = process.executor.submit(_worker.call, batch, vectorised)
        process.deadline = None if timeout is None else time.monotonic() + timeout
        self._busy.append(process)

    def _collect(self) -> list[tuple[Batch, Result]]:
        """Wait until a batch is done or late; all that are, their processes idle or ended."""
        deadlines = [process.deadline for process in self._busy if process.deadline is not None]
        patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        wait([process.future for process in self._busy if process.future], patience, FIRST_COMPLETED)
        now, finished = time.monotonic(), []
        for process in list(self._busy):
            result = _result(process, now)
            if result is None:
                continue
            self._busy.remove(process)
            if isinstance(result, str):
                process.end()
            else:
                self._idle.append(process)
            finished.append((process.batch, result))
        return finished


def _result(process: _Process, now: float) -> Result | None:
    """What became of a batch, or None while it may still run."""
    if process.future is None or not process.future.done():
        return "timeout" if process.deadline is not None and now >= process.deadline else None
    try:
        outcomes: list[_worker.Outcome] = process.future.result()
        return outcomes
    except BrokenProcessPool:
        return "crash"


def _started(future: Future[Any]) -> int:
    """Process id of a worker that has its function."""
    if not future.done():
        raise RuntimeError(f"a worker process did not start within {STARTUP_SECONDS:.0f} s")
    try:
        return int(future.result())
    except Exception as error:
        raise RuntimeError(
            f"a worker process could not unpack the function ({type(error).__name__}: {error}); whatever it needs must be "
            "importable there"
        ) from error


def _executor(count: int) -> Any:
    """A process with its fair share of the processor's threads, unless the environment says otherwise."""
    from joblib.externals.loky import ProcessPoolExecutor, cpu_count

    share = str(max(1, cpu_count() // count))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    env = {name: share for name in names if name not in os.environ}
    return ProcessPoolExecutor(max_workers=1, initializer=_worker.prepare, initargs=(os.getpid(),), env=env)
