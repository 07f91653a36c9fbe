"""The reward choices of the command line for molecules: each is built as the job builds it, and scores real tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiltflow import molecules, options
from tiltflow.cli import compose
from tiltflow.kinds import TARGET
from tiltflow.rewards.molecules import DESCRIPTORS, PMO
from tiltflow.schema import Builder, Problem

CHOICES = [
    option
    for option in options.options("reward")
    if str(options.read(f"reward/{option}")["reward"][TARGET]).startswith("tiltflow.rewards.molecules")
]
CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"
TOKENS = molecules.encode([CELECOXIB, "CC(=O)Oc1ccccc1C(=O)O", "CCCCCCCCCCCC"])


@dataclass(frozen=True)
class Chosen:
    reward: Any
    heldout: Any


def build(*words: str) -> Chosen:
    composed = compose(["domain=molecules", *words])
    found: list[Problem] = list(composed.problems)
    config = {name: composed.config[name] for name in ("reward", "heldout")}
    built = Builder((), found, frozenset()).arguments(Chosen, config)
    assert found == []
    return Chosen(**built)


@pytest.mark.parametrize("option", [option for option in CHOICES if option != "docking"])
def test_choices_score_molecules(option: str) -> None:
    chosen = build(f"reward={option}")
    for reward in (chosen.reward, chosen.heldout):
        if reward is not None:
            values = reward(TOKENS)
            assert values.shape == (3,)
            assert bool((values <= 1).all())
            assert tuple(reward.alphabet) == molecules.ALPHABET
    assert float(chosen.reward(TOKENS).max()) > 0


def test_keys_of_a_choice_can_be_changed() -> None:
    assert build("reward=similarity").reward(TOKENS)[0] == 1
    assert build("reward=pmo", "reward.task=celecoxib_rediscovery").reward(TOKENS)[0] == 1
    window = build("reward=logp", "reward.aim.low=3", "reward.aim.high=4", "reward.scorer.name=rings").reward(TOKENS)
    assert window.tolist() == [1, 0, 0]
    chosen = build("reward=logd", "reward.aim.low=-9", "reward.aim.high=9")
    assert chosen.reward(TOKENS).tolist() == chosen.heldout(TOKENS).tolist() == [1, 1, 1]


def test_the_composite_is_the_geometric_mean_of_its_parts() -> None:
    reward = build("reward=multi").reward
    parts = reward.parts(TOKENS)
    product = torch.stack(list(parts.values())).prod(0) ** (1 / 4)
    assert torch.allclose(reward(TOKENS), product)
    assert len(parts) == 4


def test_docking_asks_for_its_receptor(tmp_path: Path) -> None:
    composed = compose(["domain=molecules", "reward=docking"])
    found: list[Problem] = []
    Builder((), found, frozenset()).arguments(Chosen, {"reward": composed.config["reward"], "heldout": None})
    assert {problem.key for problem in found} >= {
        "reward.scorer.receptor",
        "reward.scorer.center",
        "reward.scorer.size",
    }


def test_lists_of_names_are_complete() -> None:
    assert {"qed", "sa", "logp", "similarity", "pmo", "multi", "logd", "logs", "docking"} == set(CHOICES)
    assert len(set(PMO)) == 20
    assert all(math.isfinite(len(text)) and text for text in DESCRIPTORS.values())
