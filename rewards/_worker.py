"""Call a black-box function on texts and check what comes back: the part of `BlackBox` that runs in worker processes.

Imports nothing heavy, so that a worker starts quickly.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

Outcome = tuple[float, str | None]  # the value, NaN where the function failed, and then how it failed

_function: Callable[..., Any] | None = None


class BadReturn(ValueError):
    """The function broke its contract: not one real number for each text."""


def evaluate(function: Callable[..., Any], texts: list[str], vectorised: bool) -> list[Outcome]:
    """Outcome for each text; when a whole batch raises, its texts are tried one by one.

    Raises:
        BadReturn: wrong length, shape or type.
    """
    if vectorised and len(texts) > 1:
        try:
            return [(value, None) for value in _numbers(function(list(texts)), len(texts))]
        except BadReturn:
            raise
        except (Exception, SystemExit):
            pass  # the text that causes it raises it again below, where the others are safe from it
    return [_attempt(function, text, vectorised) for text in texts]


def _attempt(function: Callable[..., Any], text: str, vectorised: bool) -> Outcome:
    try:
        return (_numbers(function([text]), 1)[0] if vectorised else _number(function(text))), None
    except BadReturn:
        raise
    except (Exception, SystemExit) as error:  # a wrapped command may call sys.exit; Ctrl-C still gets through
        return math.nan, _describe(error)


def _describe(error: BaseException) -> str:
    """Type, message and the line that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return "".join(traceback.format_exception_only(error)).strip() + where


def _numbers(returned: Any, count: int) -> list[float]:
    shape = getattr(returned, "shape", None)
    if shape is not None and tuple(shape) != (count,):
        raise BadReturn(f"returned an array of shape {tuple(shape)} for {count} texts; expected ({count},)")
    values = returned.tolist() if shape is not None else returned
    if not isinstance(values, list | tuple):
        raise BadReturn(f"returned {_what(values)} for {count} texts; expected a sequence of {count} numbers")
    if len(values) != count:
        raise BadReturn(f"returned {len(values)} values for {count} texts; expected one number per text, in order")
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    """`value` as a float; numpy and torch scalars count as numbers, text and None do not."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, int | float):
        raise BadReturn(f"returned {_what(value)} for a text; expected a real number, and NaN for 'no value'")
    try:
        return float(value)
    except OverflowError:
        raise BadReturn("returned an integer larger than any float; expected a real number") from None


def _what(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def prepare(parent: int) -> None:
    """Set up this process as a worker: its own process group, so that Ctrl-C reaches the parent alone and the parent can
    end the worker with all that it started; and gone when the parent is."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _may_grow()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _may_grow() -> None:
    """Keep loky from ending this process once it has grown by 300 MB since its first task: it takes for a leak what a
    function loads when it is first called, and the process that comes instead would have no function."""
    from joblib.externals.loky import process_executor

    if hasattr(process_executor, "_MEMORY_LEAK_CHECK_DELAY"):
        process_executor._MEMORY_LEAK_CHECK_DELAY = math.inf


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    kill_group(os.getpid())


def kill_group(pid: int) -> None:
    """End worker `pid` and what it started, at once."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        pass  # it has gone by itself


def load(payload: bytes, memory: float | None = None) -> int:
    """Unpack the function once, and limit what it may take beyond that to `memory` GiB; returns the process id."""
    global _function  # noqa: PLW0603  one function per worker process, for its whole life
    _function = pickle.loads(payload)  # written by the parent for this process, never read from a file
    if memory is not None:
        _limit(int(memory * 2**30))
    return os.getpid()


def _limit(extra: int) -> None:
    """Let this process map at most `extra` more bytes of memory than it does now.

    It is address space that is limited, since the kernel enforces no limit on resident memory. What a process maps at its
    start, mostly libraries, can be many times what it uses; therefore the limit counts from there.
    """
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + extra
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def call(texts: list[str], vectorised: bool) -> list[Outcome]:
    """`evaluate` with the function that `load` unpacked."""
    if _function is None:
        raise RuntimeError("the worker has no function; load() comes first")
    return evaluate(_function, texts, vectorised)
