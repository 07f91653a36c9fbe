"""Values against annotations, names against trust, and what is built from nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
from tiltflow.kinds import mismatch
from tiltflow.schema import BROKEN, Builder, Problem, blame, nearest, resolve

NODE = {"_target_": "tiltflow.core.SVDD"}


NUMBER = "expected a number"


class Thing:
    pass


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "words"),
    [
        (int, [0, -3], [1.0, True, "1", None, [], NODE], "a whole number"),
        (float, [1, 0.5, float("inf")], [True, "1", None], "a number"),
        (str, ["", "a"], [1, None, ["a"]], "a text"),
        (bool, [True, False], [0, 1, "true"], "true or false"),
        (int | None, [1, None], ["1", 0.5], "a whole number or null"),
        (Optional[str], ["a", None], [1], "a text or null"),  # noqa: UP045
        (Union[int, str], [1, "a"], [1.5, None], "a whole number or a text"),  # noqa: UP007
        (Literal["a", "b"], ["a"], ["c", 1, None], "a or b"),
        (Literal[1, -1], [1, -1], [True, "1", 2], "1 or -1"),
        (list[int], [[], [1, 2]], [[1, "a"], 1, "12", {}], "a list such as [1, 2]"),
        (Sequence[str], [["a"]], ["abc", [1], None], "a list such as [one, two]"),
        (Iterable[str], [[]], ["abc"], "a list such as [one, two]"),
        (tuple[float, ...], [[1, 0.5]], [["a"], 1.0], "a list such as [0.5, 1]"),
        (Mapping[str, int], [{}, {"a": 1}], [[], "a"], "keys and values such as {a: b}"),
        (str | Path, ["a"], [1], "a text or a path"),
        (Path, ["a/b"], [1, None], "a path"),
        (Callable[[int], int], ["a.b", NODE], [1, None], "the full name of a function, or a node with _target_"),
        (Thing, [NODE], ["a", 1, {}], "a Thing (a node with _target_)"),
        (Any, [None, 1, "a", [], {}, NODE], [], ""),
    ],
)
def test_values_fit_their_annotation(annotation: Any, good: list[Any], bad: list[Any], words: str) -> None:
    assert [value for value in good if mismatch(value, annotation)] == []
    assert {mismatch(value, annotation) for value in bad} <= {words}
    assert all(mismatch(value, annotation) for value in bad)


@dataclass(frozen=True)
class Inner:
    width: int = 1


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rate: float
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate is {self.rate}; expected at least 0")


def build(node: Any, *plugins: str) -> tuple[Any, list[str]]:
    problems: list[Problem] = []
    value = Builder(plugins, problems).build(node, "outer", Outer)
    return value, [str(problem) for problem in problems]


def test_a_node_becomes_what_its_signature_makes_of_it() -> None:
    assert build({"inner": {"width": 3}, "rate": 1, "names": ["a"]}) == (Outer(Inner(3), 1, ["a"]), [])


@pytest.mark.parametrize(
    ("node", "problems"),
    [
        ({"inner": {}, "rate": -1}, ["outer.rate: rate is -1; expected at least 0"]),
        ({"inner": {"widht": 1}, "rate": 1}, ["outer.inner.widht: unknown key; did you mean width? (there are: width)"]),
        ({"inner": {}}, ["outer.rate: missing; expected a number"]),
        ({"inner": 3, "rate": "x"}, ["outer.inner: 3; expected a Inner (a node with _target_)", "outer.rate: 'x'; " + NUMBER]),
        ({"inner": NODE, "rate": 1}, [f"outer.inner: {NODE}; expected the keys of Inner"]),
        ({"inner": {}, "rate": NODE}, [f"outer.rate: {NODE}; expected a number"]),
        ({"inner": {}, "rate": 1, "names": "abc"}, ["outer.names: 'abc'; expected a list such as [one, two]"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(node: dict[str, Any], problems: list[str]) -> None:
    assert build(node) == (BROKEN, problems)


def test_public_names_are_resolved_and_nothing_else() -> None:
    from tiltflow.core import SVDD

    assert resolve("tiltflow.core.SVDD") is SVDD
    for name in ("tiltflow.core.steering.svdd.SVDD", "tiltflow.core.networks", "tiltflow.cli.main", "builtins.eval"):
        with pytest.raises(ValueError, match=name):
            resolve(name)


def test_a_plugin_may_be_a_part_of_a_package() -> None:
    assert resolve("email.message.Message", ["email"]).__name__ == "Message"
    assert resolve("email.message.Message", ["email.message"]).__name__ == "Message"
    with pytest.raises(ValueError, match="add plugins"):
        resolve("emails.message.Message", ["email"])


def test_an_error_is_blamed_on_the_argument_it_speaks_of() -> None:
    node = {"_target_": "x.y", "candidates": 0, "file": "/tmp/nothing"}
    assert blame("method", node, ValueError("candidates is 0; expected 1")) == "method.candidates"
    assert blame("method", node, FileNotFoundError("No file /tmp/nothing.")) == "method.file"
    assert blame("method", node, ValueError("x.y is broken")) == "method"


def test_suggestions_need_some_likeness() -> None:
    assert nearest("candidate", ["candidates", "selection"]) == "; did you mean candidates?"
    assert nearest("SVDD", ["svdd", "smc"]) == "; did you mean svdd?"
    assert nearest("qqq", ["svdd", "smc"]) == ""
