"""Files that are whole or absent: written under a temporary name and renamed. Tensors as safetensors with JSON metadata."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


class StorageError(ValueError):
    """A file that is corrupt, foreign or cannot be written; the message names it and the fix."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed onto it on success, removed on failure.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    path = Path(path)
    if path.is_dir():
        raise StorageError(f"Cannot write {path}: it is a folder. Choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}. Choose another folder.") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused, since other readers cannot read them."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors by name, and metadata as JSON in the file's header, atomically."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(whole, temporary, metadata={"tiltflow": json.dumps(dict(metadata), allow_nan=False)})


def load_tensors(path: str | Path, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by `save_tensors`.

    Args:
        kind: refuse a file whose metadata say another `kind`.

    Raises:
        FileNotFoundError: no such file.
        StorageError: not a safetensors file, cut short, without our metadata, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path} is not a whole safetensors file ({error}). Make or download it again.") from error
    try:
        metadata = json.loads(header["tiltflow"])
    except (KeyError, json.JSONDecodeError):
        metadata = None
    if not isinstance(metadata, dict):
        raise StorageError(f"{path} was not written by tiltflow: its metadata are missing.")
    if kind is not None and metadata.get("kind") != kind:
        raise StorageError(f"{path} holds {metadata.get('kind')!r}; expected {kind!r}.")
    return tensors, metadata
