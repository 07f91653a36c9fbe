"""The files of `tiltflow.configs`: their keys are those of the signatures, and each option can be taken as it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from tiltflow import options
from tiltflow.cli import compose
from tiltflow.kinds import TARGET
from tiltflow.schema import resolve
from tiltflow.settings import KEYS, Compute, Design

CHOICES = [(group, option) for group in options.GROUPS for option in options.options(group)]


def nodes(content: Any) -> Iterator[dict[str, Any]]:
    """Every node with a target, at any depth."""
    if isinstance(content, dict):
        if content.get(TARGET):
            yield content
        for value in content.values():
            yield from nodes(value)
    elif isinstance(content, list):
        for value in content:
            yield from nodes(value)


def defaults(target: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(target).parameters.items()}


def test_the_groups_are_the_folders_that_the_jobs_name() -> None:
    assert set(options.defaults("design")) == set(options.GROUPS)
    assert all(option in options.options(group) for group, option in options.defaults("design").items())
    assert all(option in options.options(group) for group, option in options.defaults("pretrain").items())


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_keys_are_those_of_the_signature(group: str, option: str) -> None:
    content = options.read(f"{group}/{option}")
    for node in nodes(content):
        assert set(node) - {TARGET} <= set(defaults(resolve(node[TARGET])))
    if group in ("domain", "method", "value"):  # every argument is there, so that help and messages name them all
        assert set(content) - {TARGET} == set(defaults(resolve(content[TARGET])))


@pytest.mark.parametrize("option", options.options("value"))
def test_values_are_the_defaults_of_the_signature(option: str) -> None:
    content = options.read(f"value/{option}")
    assert defaults(resolve(content.pop(TARGET))) == content


def test_the_black_box_offers_every_argument() -> None:
    node = options.read("reward/blackbox")["reward"]
    given = {name: value for name, value in node.items() if name not in (TARGET, "function", "decode", "alphabet")}
    wanted = defaults(resolve(node[TARGET]))
    assert set(node) - {TARGET} == {name for name in wanted if name not in ("counts", "_store", "_processes")}
    assert {name: wanted[name] for name in given} == given


@pytest.mark.parametrize("option", options.options("compute"))
def test_compute_files_have_the_keys_of_compute(option: str) -> None:
    assert set(options.read(f"compute/{option}")) == {field.name for field in fields(Compute)}


@pytest.mark.parametrize("option", options.options("reward"))
def test_reward_files_set_alpha_reward_and_heldout(option: str) -> None:
    assert set(options.read(f"reward/{option}")) == {"alpha", "reward", "heldout"}


def test_the_composed_job_has_the_keys_of_design() -> None:
    composed = compose([])
    assert composed.problems == []
    assert set(composed.config) == {field.name for field in fields(Design)}
    assert set(KEYS) == set(composed.config) - {*options.GROUPS, "heldout"}


@pytest.mark.parametrize("part", options.options("part"))
def test_a_composed_pretraining_has_the_keys_of_its_part(part: str) -> None:
    from tiltflow.pretrain import PARTS

    composed = compose([f"part={part}"], "pretrain")
    assert composed.problems == []
    assert set(composed.config) == {field.name for field in fields(PARTS[part])}


@pytest.mark.parametrize("part", ["molecules", "properties"])
def test_a_composed_pretraining_of_molecules_has_the_keys_of_its_part(part: str) -> None:
    from tiltflow.pretrain import PARTS

    composed = compose(["domain=molecules"], f"pretrain_{part}")
    assert composed.problems == []
    assert set(composed.config) == {field.name for field in fields(PARTS[part])}


def test_pretraining_makes_the_shipped_prior_of_molecules() -> None:
    from tiltflow.domains.molecules.prior import read_prior
    from tiltflow.molecules import ALPHABET

    content = options.read("pretrain_molecules")
    shipped, _ = read_prior("zinc")
    assert {
        **content["network"],
        "vocab": len(ALPHABET),
        "length": content["length"],
    } == shipped.denoiser.network.settings


def test_pretraining_makes_the_shipped_prior() -> None:
    from tiltflow.core.networks import ConvDenoiser
    from tiltflow.core.pretraining import Pretraining
    from tiltflow.domains.dna.prior import read_prior

    content = options.read("part/prior")
    assert content["training"] == defaults(Pretraining)
    assert set(content["network"]) == set(defaults(ConvDenoiser)) - {"vocab", "length"}
    shipped, _ = read_prior("yeast")
    assert {**content["network"], "vocab": 4, "length": 80} == shipped.denoiser.network.settings


@pytest.mark.parametrize(("group", "option"), [*CHOICES, *(("part", option) for option in options.options("part"))])
def test_every_option_says_what_it_is(group: str, option: str) -> None:
    assert len(options.options(group)[option]) > 10


def test_the_help_names_every_choice_and_key() -> None:
    text = options.design_help()
    assert all(f" {option} " in text for _, option in CHOICES)
    assert all(f"  {key}=" in text for key in KEYS)
    assert "method.candidates=" in text
    assert "training.steps=" in options.pretrain_help()
