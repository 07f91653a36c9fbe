"""Configs against signatures: keys, types and targets of every node are checked, and all problems are told at once.

A node is a dict. With `_target_` it stands for a call of that class or function, its other keys being the arguments; with
`_partial_: true` for the function itself, with these arguments filled in.
Targets are public names of tiltflow, or of packages that the user named as plugins; this is checked on the object that
the name leads to, so that no name can lead out of them.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import lru_cache, partial
from typing import Any

from .kinds import TARGET, is_node, item, mismatch, names_a_function, words

PARTIAL = "_partial_"
BROKEN: Any = type("Broken", (), {"__repr__": lambda self: "BROKEN"})()  # stands for a value that has a problem


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the key (as on the command line), and what came, what was expected and the likely fix."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, found before anything was run."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


class TargetError(ValueError):
    """A name that leads to nothing, or to something that a config may not call."""


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' for the closest of the known words, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[name] for name in close)}?" if close else ""


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- targets -------------------------------------------------------------------------------------------------------


def resolve(name: object, plugins: Sequence[str] = ()) -> Any:
    """The public class or function that a dotted name leads to.

    Raises:
        TargetError: not a name, a package that is neither tiltflow nor a plugin (in the name, or as the home of what it
            leads to), a failing import, or nothing there.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        raise TargetError(f"{shown(name)}; expected the full name of a class or function, such as mypackage.MyReward")
    if not _trusted(name, plugins):
        package = name.partition(".")[0]
        raise TargetError(
            f"{name} is not part of tiltflow; if you trust it, add plugins=[{package}]{nearest(package, plugins)}"
        )
    module, attribute = name.rsplit(".", 1)
    found = _attribute(_module(module, plugins), attribute, name)
    home = getattr(found, "__module__", None)
    if not callable(found) or inspect.ismodule(found) or not isinstance(home, str):
        raise TargetError(f"{name} is a {type(found).__name__}; expected a class or function")
    if not _trusted(home, plugins):
        raise TargetError(f"{name} leads to {home}.{attribute}, outside tiltflow and the plugins {list(plugins)}")
    return found


def _trusted(name: str, plugins: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in ("tiltflow", *plugins))


def check_plugins(plugins: Sequence[str]) -> list[Problem]:
    """One problem for each package that cannot be found (by name or in the current folder)."""
    return [Problem("plugins", text) for name in plugins if (text := _missing(name))]


def _missing(plugin: str) -> str:
    _look_here()
    try:
        found = importlib.util.find_spec(plugin)
    except (ImportError, ValueError, AttributeError) as error:
        return f"cannot import {shown(plugin)}: {error}"
    return "" if found else f"no package {shown(plugin)} is installed or lies in {os.getcwd()}"


def _look_here() -> None:
    """Let plugins lie in the current folder; what is installed comes first."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _module(name: str, plugins: Sequence[str]) -> types.ModuleType:
    """Import a module."""
    if plugins:
        _look_here()
    try:
        return importlib.import_module(name)
    except Exception as error:  # a plugin may fail in any way: its own words help most
        raise TargetError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def _attribute(module: types.ModuleType, attribute: str, name: str) -> Any:
    """What `module` calls `attribute`; of tiltflow's own modules only what they offer in public."""
    own = _trusted(module.__name__, ())
    public = list(getattr(module, "__all__", [])) if own else [key for key in vars(module) if key[0] != "_"]
    try:
        found = getattr(module, attribute, BROKEN)  # may import: packages load their parts where they are asked for
    except Exception as error:
        raise TargetError(f"cannot import {name}: {type(error).__name__}: {error}") from error
    if found is BROKEN or (own and attribute not in public):
        raise TargetError(f"there is no public {name}{nearest(attribute, public)}")
    return found


# --- building ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Builder:
    """Builds nodes; whatever is wrong goes to `problems`, and the value becomes BROKEN.

    Args:
        plugins: packages besides tiltflow whose names a config may use.
        problems: grows.
        known: keys that have a problem already; they are not looked at again.
    """

    plugins: tuple[str, ...]
    problems: list[Problem]
    known: frozenset[str] = frozenset()

    def build(self, node: Any, key: str, annotation: Any = Any) -> Any:
        """The value of a node: what its target returns, or the node itself where it is plain data."""
        if key in self.known:
            return BROKEN
        own_class = annotation if inspect.isclass(annotation) and is_dataclass(annotation) else None
        if own_class and isinstance(node, Mapping) and not is_node(node):
            return self._construct(own_class, node, key)
        wanted = mismatch(node, annotation)
        value = BROKEN if wanted else self._call(node, key) if is_node(node) else self._data(node, key, annotation)
        if own_class and value is not BROKEN and not isinstance(value, own_class):
            wanted = f"the keys of {own_class.__name__}"
        return self._refuse(key, f"{shown(node)}; expected {wanted}") if wanted else value

    def _data(self, node: Any, key: str, annotation: Any) -> Any:
        if isinstance(node, Mapping):
            return _whole({name: self.build(value, f"{key}.{name}") for name, value in node.items()})
        if isinstance(node, list):
            return _whole([self.build(value, f"{key}.{i}", item(annotation)) for i, value in enumerate(node)])
        named = isinstance(node, str) and names_a_function(annotation)
        return self._resolve(node, key) if named else node

    def arguments(self, target: Callable[..., Any], node: Mapping[str, Any], key: str = "") -> dict[str, Any]:
        """The node's keys as arguments of `target`, checked against its signature and built; some may be BROKEN."""
        parameters = inspect.signature(target).parameters
        named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        hints = _hints(target)
        given = {str(name): value for name, value in node.items() if name not in (TARGET, PARTIAL)}
        prefix = f"{key}." if key else ""
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            for name in (name for name in given if name not in named):
                keys = ", ".join(named) or "none"
                self._refuse(prefix + name, f"unknown key{nearest(name, named)} (there are: {keys})")
        for name, parameter in named.items():
            if parameter.default is parameter.empty and name not in given and not node.get(PARTIAL):
                hint = "" if inspect.isclass(target) else f" (or {prefix}{PARTIAL}=true for the function itself)"
                self._refuse(prefix + name, f"missing; expected {words(hints.get(name, Any))}{hint}")
        return {name: self.build(given[name], prefix + name, hints.get(name, Any)) for name in named if name in given}

    def _call(self, node: Mapping[str, Any], key: str) -> Any:
        target = self._resolve(node[TARGET], f"{key}.{TARGET}")
        return BROKEN if target is BROKEN else self._construct(target, node, key)

    def _construct(self, target: Callable[..., Any], node: Mapping[str, Any], key: str) -> Any:
        before = len(self.problems)
        arguments = self.arguments(target, node, key)
        if len(self.problems) > before or any(value is BROKEN for value in arguments.values()):
            return BROKEN
        try:
            if node.get(PARTIAL):
                return partial(target, **arguments) if arguments else target
            return target(**arguments)
        except Exception as error:  # constructors of plugins may fail in any way
            return self._refuse(blame(key, node, error), explain(error))

    def _resolve(self, name: object, key: str) -> Any:
        try:
            return resolve(name, self.plugins)
        except TargetError as error:
            return self._refuse(key, str(error))

    def _refuse(self, key: str, text: str) -> Any:
        self.problems.append(Problem(key, text))
        return BROKEN


def _whole(value: Any) -> Any:
    parts = value.values() if isinstance(value, dict) else value
    return BROKEN if any(part is BROKEN for part in parts) else value


def explain(error: BaseException) -> str:
    """What an exception says; its type too, unless it is one that is raised for people to read."""
    text = str(error).strip()
    plain = isinstance(error, ValueError | FileNotFoundError | LookupError) and text and not isinstance(error, KeyError)
    return text if plain else f"{type(error).__name__}: {text}"


def blame(key: str, node: Mapping[str, Any], error: BaseException) -> str:
    """The key that an error is about: the argument that its message starts with or quotes, else the node itself."""
    text = str(error)
    for name, value in node.items():
        quotes = isinstance(value, str) and len(value) > 3 and name != TARGET and value in text
        if quotes or re.match(rf"{re.escape(str(name))}\b\W{{0,2}}", text):
            return f"{key}.{name}"
    return key


@lru_cache(maxsize=256)
def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the arguments; none where they name something that is imported for type checkers only."""
    try:
        # Of a dataclass the class itself: its fields may be inherited from another module, with that module's names.
        plain_class = inspect.isclass(target) and not is_dataclass(target)
        return typing.get_type_hints(target.__init__ if plain_class else target)
    except (NameError, TypeError, AttributeError):
        return {}
