"""What a black box has answered before: a bounded memory, and optionally a file that outlives the run."""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

_FORMAT = "tiltflow black-box values 1"


class Store:
    """Values by text: the `size` most recently used in memory, and all in `path`, if given.

    The file holds one JSON object per line: first a header with the name of the reward, then {"x": text, "r": value}.
    Lines are appended whole, so that several runs may share a file; a line torn by an interrupted run is skipped, and
    what it held is evaluated again.

    Raises:
        ValueError: the file is something else, or belongs to a reward of another name.
        OSError: the file cannot be read or written.
    """

    def __init__(self, size: int, path: str | os.PathLike[str] | None = None, name: str = "") -> None:
        self._size, self._path = size, None if path is None else Path(path)
        self._known: OrderedDict[str, float] = OrderedDict()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open(self._path, name)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, text: str) -> float | None:
        """The value of `text`, or None."""
        if text in self._known:
            self._known.move_to_end(text)
        return self._known.get(text)

    def add(self, values: Iterable[tuple[str, float]]) -> None:
        """Remember values; NaN is no answer and is forgotten."""
        answers = [(text, value) for text, value in values if not math.isnan(value)]
        for text, value in answers:
            self._remember(text, value)
        if self._path is not None and answers:
            _append(self._path, [{"x": text, "r": _to_json(value)} for text, value in answers])

    def _remember(self, text: str, value: float) -> None:
        self._known[text] = value
        self._known.move_to_end(text)
        if len(self._known) > self._size:
            self._known.popitem(last=False)

    def _open(self, path: Path, name: str) -> None:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        if lines == [b""]:
            return _append(path, [{"format": _FORMAT, "name": name}])
        header = _parse(lines[0])
        if header.get("format") != _FORMAT:
            raise ValueError(f"{path}:1: not a cache of black-box values; give the path of one, or of a new file")
        if header.get("name") != name:
            raise ValueError(
                f"{path}:1: holds the values of {header.get('name')!r}, not of {name!r}; give another file, or name= that"
            )
        for line in lines[1:]:
            entry = _parse(line)
            text, value = entry.get("x"), _from_json(entry.get("r"))
            if isinstance(text, str) and value is not None:
                self._remember(text, value)
        if lines[-1]:
            _append(path, [])  # ends the torn line, so that the next one starts on its own


def _append(path: Path, entries: list[dict[str, object]]) -> None:
    """Append lines in one write, which other writers cannot split."""
    text = "".join(json.dumps(entry) + "\n" for entry in entries) or "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> dict[str, object]:
    """The JSON object in `line`, empty if it holds none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no infinity


def _from_json(value: object) -> float | None:
    if value in ("inf", "-inf"):
        return float(str(value))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None
