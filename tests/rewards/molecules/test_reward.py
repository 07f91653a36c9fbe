"""A scorer as a reward of tokens: what is scored once, what is no molecule, and what a worker may not do."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiltflow.rewards import BlackBoxError, Budget, BudgetSpentError, Require, Sum, Term
from tiltflow.rewards.molecules import Descriptor, Molecular, Part, Profile, Ramp, Smarts, Window, canonical
from tiltflow.rewards.molecules import reward as module
from torch import Tensor

LETTERS = ("", "C", "O", "N", "(", "B")
ETHANOL, DIMETHYLAMINE, METHANE, BROKEN = [1, 1, 2], [1, 3, 1], [1, 0, 0], [4, 0, 0]
TOKENS = torch.tensor([ETHANOL, METHANE, [2, 1, 1], BROKEN, DIMETHYLAMINE, ETHANOL])  # OCC is ethanol too
ATOMS = [3.0, 1.0, 3.0, -math.inf, 3.0, 3.0]


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A domain whose tokens are letters of SMILES."""

    def decode(tokens: Tensor) -> list[str]:
        return [canonical("".join(LETTERS[token] for token in row)) for row in tokens.tolist()]

    monkeypatch.setattr(module, "_domain", lambda: SimpleNamespace(ALPHABET=LETTERS, decode=decode))
    module._decoded.cache_clear()
    yield
    module._decoded.cache_clear()


def logging(path: Path) -> Callable[[Any], float]:
    """A scorer that writes each molecule it sees to a file, from whatever process."""

    def score(mol: Any) -> float:
        from rdkit import Chem

        with path.open("a") as file:
            file.write(f"{Chem.MolToSmiles(mol)}\n")
        return float(mol.GetNumHeavyAtoms())

    return score


def local(function: Callable[[Any], float]) -> Callable[[Any], float]:
    """The same function as if made inside another: it is then sent to workers whole, which cannot import this file."""
    function.__qualname__ = f"<locals>.{function.__name__}"
    return function


@local
def naughty(mol: Any) -> float:
    """Ethanol is well; methane raises; dimethylamine does what its process does not survive, or survives too long."""
    from rdkit import Chem

    smiles = Chem.MolToSmiles(mol)
    if smiles == "C":
        raise RuntimeError("no methane")
    if smiles == "CNC":
        os._exit(3)
    return 1.0


@local
def sleepy(mol: Any) -> float:
    if mol.GetNumHeavyAtoms() == 1:
        time.sleep(60)
    return 1.0


@local
def greedy(mol: Any) -> float:
    if mol.GetNumHeavyAtoms() == 1:
        return float(len(bytearray(2 * 2**30)))
    return float(len(bytearray(2**20)))


@pytest.mark.parametrize("options", [{}, {"workers": 2, "batch_size": 1}])
def test_each_molecule_is_scored_once(options: dict[str, Any], tmp_path: Path) -> None:
    with Molecular(logging(tmp_path / "seen"), "maximize", name="atoms", **options) as reward:
        assert reward(TOKENS).tolist() == ATOMS
        assert reward(TOKENS[:2]).tolist() == ATOMS[:2]
        assert reward.score(["C(O)C", "NOT"]).tolist() == [3, -math.inf]
    assert sorted((tmp_path / "seen").read_text().split()) == ["C", "CCO", "CNC"]
    assert (reward.counts.evaluated, reward.tally.invalid) == (3, 2)


def test_what_a_reward_says_of_itself() -> None:
    reward = Molecular(Descriptor("qed"), "maximize")
    assert (reward.takes, reward.differentiable, reward.alphabet, reward.name) == ("tokens", False, LETTERS, "qed")


@pytest.mark.parametrize(
    ("aim", "expected"),
    [("maximize", [3, 1]), ("minimize", [-3, -1]), (Ramp(0, 4), [0.75, 0.25]), (Window(1, 2, slack=2), [0.5, 1])],
)
def test_the_aim_says_what_is_good(aim: Any, expected: list[float]) -> None:
    assert Molecular(Descriptor("heavy_atoms"), aim)(TOKENS[:2]).tolist() == expected


@pytest.mark.parametrize("aim", ["maximize", "minimize", Ramp(0, 1)])
def test_never_is_never_whatever_the_aim(aim: Any) -> None:
    assert Molecular(Smarts(must="[#8]"), aim)(TOKENS[1:2]).tolist() == [-math.inf]


def test_what_is_no_molecule_gets_the_stated_floor() -> None:
    reward = Molecular(Descriptor("heavy_atoms"), "minimize", invalid=-7.0, max_atoms=2)
    assert reward(TOKENS[1:4]).tolist() == [-1, -7, -7]
    assert reward.score(["CCC", "C", ""]).tolist() == [-7, -1, -7]
    assert reward.tally.invalid == 4


def test_failures_are_not_a_number_and_are_counted() -> None:
    reward = Molecular(naughty, "maximize")
    values = reward(TOKENS[:2]).tolist()
    assert values[0] == 1
    assert math.isnan(values[1])
    assert reward.counts.failed == 1
    with pytest.raises(BlackBoxError, match="failed for 'C': RuntimeError: no methane"):
        Molecular(naughty, "maximize", on_error="raise")(TOKENS[1:2])


def test_a_molecule_that_ends_its_process_alone_is_lost() -> None:
    with Molecular(naughty, "maximize", workers=2, batch_size=1) as reward:
        values = reward(TOKENS[[0, 4]]).tolist()
    assert values[0] == 1
    assert math.isnan(values[1])
    assert reward.counts.failed == 1


def test_a_late_molecule_alone_is_lost() -> None:
    with Molecular(sleepy, "maximize", timeout=1.0) as reward:
        values = reward(TOKENS[:2]).tolist()
    assert values[0] == 1
    assert math.isnan(values[1])
    assert reward.counts.timed_out == 1


def test_a_greedy_molecule_alone_is_lost() -> None:
    with Molecular(greedy, "maximize", memory=1.0) as reward:
        values = reward(TOKENS[:2]).tolist()
    assert values[0] == 2**20
    assert math.isnan(values[1])
    assert reward.counts.failed == 1


def test_values_outlive_the_run_for_the_same_scorer_alone(tmp_path: Path) -> None:
    file = tmp_path / "values.jsonl"
    first = Molecular(Descriptor("heavy_atoms"), "maximize", cache_file=file)
    first(TOKENS)
    again = Molecular(Descriptor("heavy_atoms"), Ramp(0, 4), cache_file=file)
    assert again(TOKENS[:1]).tolist() == [0.75]
    assert (again.counts.evaluated, again.counts.cached) == (0, 1)
    with pytest.raises(ValueError, match=r"holds the values of .*heavy_atoms.*, not of .*qed"):
        Molecular(Descriptor("qed"), "maximize", cache_file=file)


def test_a_budget_counts_different_molecules_and_refuses_more() -> None:
    reward = Molecular(Descriptor("heavy_atoms"), "maximize", budget=Budget(2))
    assert reward(TOKENS[:4]).tolist() == ATOMS[:4]
    with pytest.raises(BudgetSpentError, match="heavy_atoms: all 2 calls are used up"):
        reward(TOKENS)
    assert reward.budget is not None
    assert [(call.number, call.text, call.value) for call in reward.budget.calls] == [(1, "CCO", 3), (2, "C", 1)]


def test_a_budget_may_give_nan_beyond_it() -> None:
    reward = Molecular(Descriptor("heavy_atoms"), "maximize", budget=Budget(2), beyond="nan")
    values = reward(TOKENS).tolist()
    assert values[:4] == ATOMS[:4]
    assert math.isnan(values[4])
    assert values[5] == 3


def test_parts_are_reported_without_being_scored_again() -> None:
    profile = Profile([Part(Descriptor("heavy_atoms"), Ramp(0, 4)), Part(Descriptor("rings"))], "mean")
    parts = Molecular(profile, "maximize").parts(TOKENS[[0, 3]])
    assert list(parts) == ["heavy_atoms", "rings"]
    assert parts["heavy_atoms"].tolist()[0] == 0.75
    assert bool(parts["rings"][1].isnan())


def test_the_parts_of_a_profile_go_the_way_of_the_whole() -> None:
    profile = Profile([Part(Descriptor("heavy_atoms"), Ramp(0, 4)), Part(Descriptor("rings"))], "mean")
    assert Molecular(profile, "minimize").directions == {"heavy_atoms": "minimize", "rings": "minimize"}
    assert Molecular(profile, Ramp(0, 1)).directions == Molecular(Descriptor("qed"), "maximize").directions == {}


def test_it_stands_in_sums_with_other_rewards_of_molecules() -> None:
    atoms = Molecular(Descriptor("heavy_atoms"), "maximize")
    rule = Molecular(Smarts(forbid="[#7]"), "maximize")
    total = Sum([Term(atoms, 2.0, "minimize"), Require(rule, at_least=0)])
    assert total.alphabet == LETTERS
    assert total(TOKENS[[0, 1, 4]]).tolist() == [-6, -2, -math.inf]


def test_empty_batches() -> None:
    assert Molecular(Descriptor("qed"), "maximize")(torch.zeros(0, 3, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scorer": "qed"}, TypeError, r"scorer 'qed': expected a function of a molecule"),
        ({"scorer": Descriptor}, TypeError, "expected a function of a molecule"),
        ({"aim": "max"}, ValueError, "aim 'max': expected 'maximize', 'minimize' or a curve"),
        ({"aim": None}, TypeError, "aim None"),
        ({"aim": Ramp}, TypeError, "expected 'maximize'"),
        ({"invalid": math.inf}, ValueError, "invalid inf"),
        ({"invalid": math.nan}, ValueError, "invalid nan"),
        ({"max_atoms": 0}, ValueError, "max_atoms 0"),
        ({"beyond": "stop"}, ValueError, "beyond 'stop'"),
        ({"workers": 0}, ValueError, "workers 0"),
        ({"memory": -1.0}, ValueError, "memory -1.0: expected GiB > 0"),
    ],
)
def test_impossible_rewards_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Molecular(**{"scorer": Descriptor("qed"), "aim": "maximize", **arguments})


def test_random_text_neither_crashes_nor_scores() -> None:
    import random

    draw = random.Random(3)
    texts = ["".join(draw.choices("CNOSFcn()[]=#1234%@/\\+-.", k=draw.randint(0, 40))) for _ in range(2_000)]
    texts += ["C" * 14_000, "C1" + "C" * 1_500 + "1", "[" * 3_000]
    reward = Molecular(Descriptor("qed"), "maximize")
    values = reward.score(texts)
    good = values.isfinite()
    assert 5 < int(good.sum()) < 500
    assert bool(((values[good] > 0) & (values[good] < 1)).all())
    assert bool((values[~good] == -math.inf).all())
    assert reward.tally.invalid == int((~good).sum())
    assert reward.counts.failed == 0
