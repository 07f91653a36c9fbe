"""Ctrl-C in two steps: the first asks a running method to come to an end, the second interrupts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any


@dataclass
class Stop:
    """A context manager that catches SIGINT (in the main thread), and an observer that hands the wish to the steering.

    >>> with Stop() as stop:
    ...     stop(None)
    False
    """

    say: Callable[[str], Any] = print
    asked: bool = False
    words: str = "designs under way are finished without guidance"
    _previous: Any = field(default=None, repr=False)

    def __call__(self, state: object) -> bool:
        """Whether the steering should stop now."""
        return self.asked

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say(f"\nStopping: {self.words}. Ctrl-C again aborts.")
