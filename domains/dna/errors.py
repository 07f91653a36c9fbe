"""The errors of reading and writing sequences are errors of DNA too, so that one `except DnaError` catches both."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ... import dna
from .. import files

P = ParamSpec("P")
R = TypeVar("R")


class CodecError(files.CodecError, dna.DnaError):
    """Sequences or a file that cannot be read or written; the message names the place and the fix."""


def as_dna(method: Callable[P, R]) -> Callable[P, R]:
    """The method, raising this module's `CodecError` where what all domains share raises theirs."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except files.CodecError as error:
            if isinstance(error, CodecError):
                raise
            raise CodecError(str(error)) from error

    return wrapped
