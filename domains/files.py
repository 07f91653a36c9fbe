"""Text files read whole, plain or gzip, and written under a temporary name and renamed; the wording of problems."""

from __future__ import annotations

import contextlib
import difflib
import gzip
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

SHOWN = 10  # problems listed in one message; the others are counted


class CodecError(ValueError):
    """Sequences or a file that cannot be read or written; the message names the place and the fix."""


def listing(source: str, problems: Sequence[str]) -> str:
    """One message for all problems of a source: the first ten, then a count."""
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    lines = [f"{source}: {len(problems)} problems", *problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more")
    return "\n  ".join(lines)


def quoted(text: str) -> str:
    """`text` for a message: escaped, and cut where it is long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for the closest of the known words, case aside, or nothing."""
    by_lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(quoted(by_lower[word]) for word in close)}?" if close else ""


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, plain or gzip (told by its first bytes); line ends are left as they are.

    Raises:
        CodecError: missing, a folder, unreadable, empty, binary, not UTF-8, or a damaged gzip file.
    """
    raw = _read_bytes(path)
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise CodecError(f"{path}: damaged gzip file ({error}); copy or download it again") from error
    text = _decode(path, raw)
    if not text.strip():
        raise CodecError(f"{path}: empty file, line 1 is missing; expected text, one record after another")
    return text


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise CodecError(f"{path}: no such file{_neighbours(Path(path))}") from error
    except IsADirectoryError as error:
        raise CodecError(f"{str(path)!r}: this is a folder; give one file in it") from error
    except OSError as error:
        raise CodecError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except (TypeError, ValueError) as error:
        raise CodecError(f"{path!r}: not a path ({error}); give the name of a file") from error


def _neighbours(path: Path) -> str:
    try:
        return suggestion(path.name, os.listdir(path.parent)) or "; check the path"
    except OSError:
        return f", and no readable folder {str(path.parent)!r} either; check the path"


def _decode(path: str | os.PathLike[str], raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CodecError(f"{path}: line 1: UTF-16 text; save it as UTF-8")
    nul = raw.find(b"\0")
    if nul >= 0:
        line = raw.count(b"\n", 0, nul) + 1
        raise CodecError(f"{path}: line {line}: binary data (a NUL byte at offset {nul}); expected a text file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CodecError(
            f"{path}: line {line}: byte {raw[error.start]:#04x} is not UTF-8; save the file as UTF-8 text"
        ) from error


def write_text(path: str | os.PathLike[str], text: str, overwrite: bool = False) -> None:
    """Write UTF-8 text (gzip where the name ends in .gz) under a temporary name in the same folder, then rename.

    Raises:
        CodecError: the file exists and `overwrite` is False, or it cannot be written. What was there stays.
    """
    try:
        target = Path(path)
        exists = target.exists()
        data = text.encode()
        if overwrite or not exists:
            _replace(target, gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)
    except OSError as error:
        raise CodecError(
            f"{path}: cannot be written ({error.strerror}); check that its folder exists and is writable"
        ) from error
    except UnicodeEncodeError as error:
        raise CodecError(f"{path}: text with a lone surrogate cannot be written; check the names") from error
    except (TypeError, ValueError) as error:
        raise CodecError(f"{path!r}: not a path ({error}); give the name of a file") from error
    if exists and not overwrite:
        raise CodecError(f"{path}: the file exists; choose another name or pass overwrite=True")


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
