"""Whether a value from a config fits the annotation of an argument, and the annotation in words for those who wrote it."""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

TARGET = "_target_"
_PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


class Kind(NamedTuple):
    """One kind of annotation: which it is, which values fit it, and how to say it. The first kind that matches counts."""

    matches: Callable[[Any], bool]
    fits: Callable[[Any, Any], bool]
    words: Callable[[Any], str]


def mismatch(value: Any, annotation: Any) -> str:
    """What was expected where `value` does not fit `annotation`; empty where it does, or the annotation says nothing."""
    return "" if fits(value, annotation) else words(annotation)


def fits(value: Any, annotation: Any) -> bool:
    """A node with a target fits wherever more than plain data may stand: what it returns is judged by the one who takes it."""
    choices = alternatives(annotation)
    if is_node(value):
        return not all(choice in _PLAIN or typing.get_origin(choice) is typing.Literal for choice in choices)
    return any(_kind(choice).fits(value, choice) for choice in choices)


def words(annotation: Any) -> str:
    """An annotation in words, its alternatives in their order."""
    return " or ".join(dict.fromkeys(_kind(choice).words(choice) for choice in alternatives(annotation)))


def item(annotation: Any) -> Any:
    """What the items of a list annotation are; Any where it does not say."""
    lists = [choice for choice in alternatives(annotation) if _is_list(choice)]
    inner = [arg for choice in lists for arg in typing.get_args(choice) if arg is not Ellipsis]
    return inner[0] if inner else Any


def names_a_function(annotation: Any) -> bool:
    """Whether a text stands for a function: a callable is asked for, and a text by itself would not do."""
    kinds = [_base(choice) for choice in alternatives(annotation)]
    return Callable in kinds and str not in kinds


def is_node(value: Any) -> bool:
    """Whether a value stands for a call."""
    return isinstance(value, Mapping) and TARGET in value


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The parts of a union; anything else is its only part."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _base(annotation: Any) -> Any:
    return typing.get_origin(annotation) or annotation


def _subclass(annotation: Any, *parents: type) -> bool:
    return inspect.isclass(_base(annotation)) and issubclass(_base(annotation), parents)


def _is_list(annotation: Any) -> bool:
    return _base(annotation) in (Sequence, Iterable) or _subclass(annotation, list, tuple, set)


def _fits_plain(value: Any, annotation: Any) -> bool:
    return type(value) is annotation or (annotation is float and type(value) is int)


def _fits_literal(value: Any, annotation: Any) -> bool:
    return any(value == choice and type(value) is type(choice) for choice in typing.get_args(annotation))


def _fits_list(value: Any, annotation: Any) -> bool:
    return isinstance(value, list) and all(fits(entry, item(annotation)) for entry in value)


def _list_words(annotation: Any) -> str:
    example = {str: "one, two", int: "1, 2", float: "0.5, 1"}.get(item(annotation))
    return f"a list such as [{example}]" if example else "a list"


def _kind(annotation: Any) -> Kind:
    return next(kind for kind in _KINDS if kind.matches(annotation))


_KINDS = (
    Kind(lambda a: a is Any or isinstance(a, typing.TypeVar), lambda v, a: True, lambda a: "any value"),
    Kind(
        lambda a: typing.get_origin(a) is typing.Literal,
        _fits_literal,
        lambda a: " or ".join(map(str, typing.get_args(a))),
    ),
    Kind(lambda a: a in _PLAIN, _fits_plain, lambda a: _PLAIN[a]),
    Kind(
        lambda a: _subclass(a, PurePath) or _base(a) is os.PathLike,
        lambda v, a: isinstance(v, str),
        lambda a: "a path",
    ),
    Kind(_is_list, _fits_list, _list_words),
    Kind(
        lambda a: _base(a) is Mapping or _subclass(a, dict),
        lambda v, a: isinstance(v, Mapping),
        lambda a: "keys and values such as {a: b}",
    ),
    Kind(
        lambda a: _base(a) is Callable,
        lambda v, a: isinstance(v, str),
        lambda a: "the full name of a function, or a node with _target_",
    ),
    Kind(
        lambda a: True,
        lambda v, a: False,
        lambda a: f"a {getattr(a, '__name__', a)} (a node with _target_)",
    ),
)
