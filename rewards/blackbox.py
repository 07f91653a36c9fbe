"""Any Python function on texts as a reward: batches, cache, worker processes, timeout and a policy for failures."""

from __future__ import annotations

import math
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ._processes import Processes, Result, Take
from ._store import Store
from ._worker import BadReturn, evaluate

_BATCH = 64
_SLOW = "raise timeout=, lower batch_size=, or mend the function"
_LOST = {"timeout": f"its batch took too long; {_SLOW}", "crash": "its process ended"}


class BlackBoxError(ValueError):
    """A black-box function broke its contract, or failed where failures are not tolerated."""


@dataclass
class Counts:
    """What became of the texts, each counted once per call however often it stands in the batch.

    Attributes:
        evaluated: given to the function.
        cached: answered from the cache instead.
        failed: of those evaluated, how many raised, returned NaN or ended their process.
        timed_out: of those evaluated, how many were in a batch that took too long.
    """

    evaluated: int = 0
    cached: int = 0
    failed: int = 0
    timed_out: int = 0


@dataclass(frozen=True, eq=False)
class BlackBox:
    """A reward from `function`, which sees text and may be slow, crash or hang.

    Each distinct text is evaluated once. With a timeout, a memory limit or several workers the function runs in worker
    processes, which are kept between calls and end with the program (or `close`, or a `with` block); lambdas and local
    functions work.
    A batch that raises is tried again text by text, so that only the texts at fault fail. A failed or late text gives
    NaN and is not cached; what NaN means is decided by the method that asked (`Tilt.failures`).

    Args:
        function: texts -> one real number for each, as a list, tuple, array or tensor; if not `vectorised`, text -> number.
        decode: tokens `[B, L]` -> B texts, such as `tiltflow.dna.decode`.
        batch_size: texts per call (default: 64; if not `vectorised`, 1, so that a timeout is one for each text, or without
            a timeout as many, up to 64, as give each worker four batches to take).
        vectorised: whether the function takes a list of texts.
        cache: whether to remember values. It is for functions that give the same text the same value.
        cache_size: how many values to keep in memory.
        cache_file: JSON lines that outlive the run, made if missing; tied to `name`.
        workers: number of processes.
        timeout: seconds that a batch may take, or None. After 8 late batches in a row the call gives up with an error.
        memory: GiB that a worker may take on top of what it holds at its start, or None (Linux only). Beyond, the function
            gets a MemoryError or its process ends.
        on_error: "nan", or "raise" to stop at the first failure or timeout.
        name: in reports and in the cache file (default: the function's name).
        alphabet: tokens that `decode` reads, such as "ACGT"; None fits any model.

    Raises:
        TypeError: function or decode is not callable, or the function cannot be sent to a worker process.
        ValueError: an impossible number or policy, or a cache file of something else.
        OSError: the cache file cannot be read or written.
    """

    function: Callable[..., Any]
    decode: Callable[[Tensor], Sequence[str]]
    batch_size: int | None = None
    vectorised: bool = True
    cache: bool = True
    cache_size: int = 1_000_000
    cache_file: str | os.PathLike[str] | None = None
    workers: int = 1
    timeout: float | None = None
    memory: float | None = None
    on_error: Literal["nan", "raise"] = "nan"
    name: str = ""
    alphabet: str | None = None
    counts: Counts = field(init=False, default_factory=Counts)
    _store: Store | None = field(init=False, repr=False, default=None)
    _processes: Processes | None = field(init=False, repr=False, default=None)

    takes: ClassVar[str] = "tokens"
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self)
        name = self.name or getattr(self.function, "__qualname__", type(self.function).__name__)
        if self.cache_file is not None and "<" in name:
            raise ValueError(f"cache_file needs a name=: {name!r} does not tell this function from others")
        object.__setattr__(self, "name", name)
        if self.workers > 1 or self.timeout is not None or self.memory is not None:
            processes = Processes(self.function, self.workers, self.memory)
            weakref.finalize(self, processes.close).atexit = False  # loky ends idle workers at exit
            object.__setattr__(self, "_processes", processes)
        if self.cache:
            object.__setattr__(self, "_store", Store(self.cache_size, self.cache_file, name))

    def __call__(self, x: Tensor) -> Tensor:
        """Values float64 `[B]`, NaN where the function failed, on the device of `x` (tokens `[B, L]`).

        Raises:
            BlackBoxError: the function returned something other than one real number per text, every batch times out,
                or `on_error="raise"` and a text failed.
        """
        return torch.tensor(self.score(self._texts(x)), dtype=torch.float64, device=x.device)

    def score(self, texts: Sequence[str]) -> list[float]:
        """The value of each text, as `__call__` gives it for what its tokens decode to."""
        values = {text: None if self._store is None else self._store.get(text) for text in texts}
        missing = [text for text, value in values.items() if value is None]
        self.counts.cached += len(values) - len(missing)

        def take(batch: list[str], result: Result) -> None:
            values.update(self._record(batch, result))

        self._evaluate(missing, take)
        return [math.nan if (value := values[text]) is None else value for text in texts]

    def close(self) -> None:
        """End the worker processes; the next call starts new ones."""
        if self._processes is not None:
            self._processes.close()

    def __enter__(self) -> BlackBox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _texts(self, x: Tensor) -> list[str]:
        texts = list(self.decode(x))
        if len(texts) != len(x) or not all(isinstance(text, str) for text in texts):
            raise BlackBoxError(f"decode gave {len(texts)} items for {len(x)} samples: expected one text for each")
        return texts

    def _evaluate(self, texts: list[str], take: Take) -> None:
        """Call take(batch, result) for all of `texts`, wherever the function runs."""
        size = self._size(len(texts))
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        try:
            if self._processes is None:
                for batch in batches:
                    take(batch, evaluate(self.function, batch, self.vectorised))
            else:
                self._delegate(self._processes, batches, take)
        except BadReturn as error:
            raise BlackBoxError(f"{self.name} {error}") from None
        except TimeoutError as error:
            raise BlackBoxError(f"{self.name} took longer than {self.timeout} s for {error}; {_SLOW}") from None

    def _delegate(self, processes: Processes, batches: list[list[str]], take: Take) -> None:
        suspects: list[str] = []  # texts of batches that ended their process: one of each did it

        def sift(batch: list[str], result: Result) -> None:
            if result == "crash" and len(batch) > 1:
                suspects.extend(batch)
            else:
                take(batch, result)

        processes.run(batches, self.vectorised, self.timeout, sift)
        processes.run([[text] for text in suspects], self.vectorised, self.timeout, take)

    def _record(self, batch: list[str], result: Result) -> dict[str, float]:
        """Count, cache and judge what came for `batch`; its values."""
        outcomes = result if isinstance(result, list) else [(math.nan, _LOST[result])] * len(batch)
        values = {text: value for text, (value, _) in zip(batch, outcomes, strict=True)}
        if self._store is not None:
            self._store.add(values.items())
        failures = [(text, why) for text, (value, why) in zip(batch, outcomes, strict=True) if math.isnan(value)]
        self.counts.evaluated += len(batch)
        if result == "timeout":
            self.counts.timed_out += len(batch)
        else:
            self.counts.failed += len(failures)
        if failures and self.on_error == "raise":
            text, why = failures[0]
            raise BlackBoxError(f"{self.name} failed for {text!r}: {why or 'it returned NaN'}")
        return values

    def _size(self, count: int) -> int:
        """Texts in each batch of `count`: a worker waits a few milliseconds between two batches, and at the end for others."""
        if self.batch_size is not None:
            return self.batch_size
        if self.vectorised or self._processes is None or self.timeout is not None:
            return _BATCH if self.vectorised else 1
        return max(1, min(_BATCH, math.ceil(count / (4 * self.workers))))


def _check(box: BlackBox) -> None:
    for what, value in (("function", box.function), ("decode", box.decode)):
        if not callable(value):
            raise TypeError(f"{what} {value!r}: expected a callable")
    for what, number in (("batch_size", box.batch_size), ("cache_size", box.cache_size), ("workers", box.workers)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ValueError(f"{what} {number!r}: expected a whole number, at least 1")
    if box.timeout is not None and not 0 < box.timeout < math.inf:
        raise ValueError(f"timeout {box.timeout!r}: expected seconds > 0, or None")
    if box.memory is not None and not 0 < box.memory < math.inf:
        raise ValueError(f"memory {box.memory!r}: expected GiB > 0, or None")
    if box.memory is not None and not sys.platform.startswith("linux"):
        raise ValueError(f"memory {box.memory!r}: limits are kept on Linux only; leave it out here")
    if box.on_error not in ("nan", "raise"):
        raise ValueError(f"on_error {box.on_error!r}: expected 'nan' or 'raise'")
    if box.cache_file is not None and not box.cache:
        raise ValueError("cache_file needs cache=True")
