"""Packages whose names are imported from their modules when they are first used, so that the package costs nothing to import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        homes: by module, relative to the package (".smiles" is beside it), the names that it gives.
    """
    place = {name: module for module, names in homes.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in place:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{place[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__, lambda: sorted(place)
