"""`tiltflow benchmark=pmo`: what it refuses, that it resumes to the same report, and that its numbers are right by hand."""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tiltflow import options
from tiltflow.benchmark import PUBLISHED, measures, prepare, read_record
from tiltflow.benchmark import run as running
from tiltflow.benchmark.plan import KEYS, Benchmark, optimisers
from tiltflow.benchmark.published import CALLS
from tiltflow.benchmark.table import Cell, Column, duel
from tiltflow.cli import combinations, compose, main
from tiltflow.kinds import TARGET
from tiltflow.rewards import top_auc
from tiltflow.rewards.molecules import PMO
from tiltflow.schema import ConfigError, resolve

BROKEN = """
class Broken:
    def run(self, domain, reward, *, generator, on_round=None):
        reward.score(["CCO"])
        raise RuntimeError("no idea")


class Unlike:
    pass
"""


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of an untrained model of molecules: as the shipped one, but small."""
    import torch
    from tiltflow.domains.molecules.prior import build, save_prior

    path = tmp_path_factory.mktemp("molecules") / "tiny.safetensors"
    torch.manual_seed(0)  # a module's fixture may be made before the first test's own seed
    save_prior(path, build(24, width=16, layers=1, heads=2), {"data": "none, untrained"})
    return path


@pytest.fixture
def small(prior: Path) -> Callable[..., list[str]]:
    """`small(out, *further)`: the arguments of a benchmark of eight runs that takes a second or two."""

    def arguments(out: Path, *further: str) -> list[str]:
        fine = ["methods=[graph_ga,prior]", "tasks=[qed,median1]", "calls=30", "seeds=[0,5]", "steps=4"]
        own = ["optimiser.graph_ga.population=10", "optimiser.graph_ga.offspring=8", "optimiser.prior.batch=8"]
        return ["benchmark=pmo", f"domain.prior={prior}", *fine, *own, f"out={out}", *further]

    return arguments


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = "optimisers_" + tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(BROKEN)
    return name


def problems(arguments: list[str]) -> dict[str, str]:
    """What is wrong, by key."""
    (only,), wrong = combinations(arguments, False)
    composed = compose(only, "benchmark", {"optimiser": optimisers()})
    try:
        prepare(composed.config, "pmo", [*wrong, *composed.problems])
    except ConfigError as error:
        return {problem.key: problem.text for problem in error.problems}
    return {}


def report(out: Path) -> tuple[str, dict[str, Any]]:
    content = json.loads((out / "report.json").read_text())
    content.pop("seconds")
    return (out / "report.md").read_text(), content


# --- what can be told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "key", "words"),
    [
        ("tasks=[qd,median1]", "tasks", "no task 'qd'; did you mean qed? (there are: albuterol_similarity"),
        ("tasks=[]", "tasks", "none; expected one or more of"),
        ("tasks=3", "tasks", "3; expected a list such as [one, two] or a text"),
        ("methods=[graphga]", "methods", "no method 'graphga'; did you mean graph_ga?"),
        ("methods=[graph_ga]", "optimiser.prior", "is set, but methods has no prior"),
        ("calls=0", "calls", "0; expected a whole number of at least 1"),
        ("calls=many", "calls", "'many'; expected a whole number"),
        ("seeds=0", "seeds", "expected how many, at least 1"),
        ("seeds=[1,-1]", "seeds", "a list of whole numbers from 0"),
        ("seeds=[1,1]", "seeds", "expected each seed once"),
        ("workers=0", "workers", "0; expected a whole number of at least 1"),
        ("budget=5", "budget", "unknown key"),
        ("optimiser.graph_ga.populaton=5", "optimiser.graph_ga.populaton", "did you mean population?"),
        (
            "optimiser.graph_ga.population=1",
            "optimiser.graph_ga",
            "population is 1; expected a whole number of at least 2",
        ),
        ("optimiser.smcc.batch=3", "optimiser.smcc", "is set, but methods has no smcc"),
        ("plugins=[nowhere]", "plugins", "no package 'nowhere'"),
        ("domain=moleculs", "domain", "did you mean molecules?"),
    ],
)
def test_what_is_wrong_is_said(small, tmp_path: Path, argument: str, key: str, words: str) -> None:
    found = problems(small(tmp_path, argument))
    assert words in next(text for name, text in found.items() if name.startswith(key))


def test_all_problems_are_told_at_once(small, tmp_path: Path) -> None:
    assert {"calls", "tasks", "workers"} <= problems(small(tmp_path, "calls=0", "tasks=[x]", "workers=a")).keys()
    assert not any(tmp_path.iterdir())


def test_a_domain_of_other_things_is_refused(tmp_path: Path, tiny_prior: Path) -> None:
    found = problems(["domain=dna", f"domain.prior={tiny_prior}", "tasks=qed", "methods=graph_ga", f"out={tmp_path}"])
    assert found == {"domain": "'dna'; expected molecules, or one like it"}


def test_an_optimiser_must_be_one(small, tmp_path: Path, plugin: str) -> None:
    own = [f"optimiser.mine={{_target_: {plugin}.Unlike}}", f"plugins=[{plugin}]", "methods=[graph_ga,prior,mine]"]
    assert "expected an optimiser, such as" in problems(small(tmp_path, *own))["optimiser.mine"]
    assert "not part of tiltflow" in problems(small(tmp_path, own[0], own[2]))["optimiser.mine._target_"]


def test_unknown_benchmarks_and_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark=pmm"]) == 2
    error = capsys.readouterr().err
    assert "no choice 'pmm'; did you mean pmo? (there are: pmo)" in error
    assert "See tiltflow benchmark=pmo --help." in error
    assert main(["benchmark"]) == 2
    assert "did you mean benchmark=pmo?" in capsys.readouterr().err
    assert main(["benchmark=pmo", "tasks=[x]", "-m"]) == 2
    assert "-m: a benchmark runs all its methods" in capsys.readouterr().err


def test_the_help_names_every_key_and_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark=pmo", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {key}=" in text for key in KEYS)
    assert all(f"  {name} " in text for name in options.options("optimiser"))
    assert "optimiser.svdd.method.candidates=" in text
    assert "tiltflow benchmark=pmo" in options.design_help()


def test_the_composed_benchmark_has_its_keys() -> None:
    composed = compose(["benchmark=pmo"], "benchmark", {"optimiser": optimisers()})
    assert composed.problems == []
    assert composed.choices == {"benchmark": "pmo", "domain": "molecules"}
    assert set(composed.config) == {field.name for field in fields(Benchmark)} == {*KEYS, "domain", "optimiser"}
    assert set(composed.config["methods"]) <= set(options.options("optimiser"))


@pytest.mark.parametrize("name", options.options("optimiser"))
def test_optimiser_files_have_the_keys_of_the_signature(name: str) -> None:
    assert len(options.options("optimiser")[name]) > 10
    content = options.read(f"optimiser/{name}")
    target = resolve(content.pop(TARGET))
    assert set(content) == set(inspect.signature(target).parameters)
    assert list(inspect.signature(target.run).parameters) == ["self", "domain", "reward", "generator", "on_round"]


# --- running -------------------------------------------------------------------------------------------------------


def test_it_runs_and_writes_records_and_a_report(small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "8 of 8  prior on median1, seed 5: top-10 AUC" in out
    assert "Published numbers are for 10000 calls" in out
    assert "graph_ga against prior: won" in out
    for method in ("graph_ga", "prior"):
        for task in ("qed", "median1"):
            for seed in (0, 5):
                calls = read_record(tmp_path / method / task / f"{seed}.csv.gz")
                summary = json.loads((tmp_path / method / task / f"{seed}.json").read_text())
                assert len(calls) == len({smiles for smiles, _ in calls}) == summary["calls"] == 30
                assert summary["auc_top10"] == top_auc([value for _, value in calls], 30)
                assert summary["best"][0]["value"] == max(value for _, value in calls) == summary["top1"]
    text, content = report(tmp_path)
    cell = content["methods"]["graph_ga"]["auc_top10"]["qed"]
    pair = [json.loads((tmp_path / "graph_ga/qed" / f"{seed}.json").read_text())["auc_top10"] for seed in (0, 5)]
    assert cell["mean"] == pytest.approx(sum(pair) / 2)
    assert cell["std"] == pytest.approx(abs(pair[0] - pair[1]) / math.sqrt(2))
    assert f"| qed | {cell['mean']:.3f} ±{cell['std']:.3f} |" in text
    assert content["missing"] == []
    assert not content["comparable"]
    assert [each["other"] for each in content["duels"]] == ["prior"]
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_it_resumes_to_the_same_report(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(small(whole)) == 0
    honest, ran = running.run, []

    def interrupted(unit, on_round):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(unit.name)
        return honest(unit, on_round)

    monkeypatch.setattr(running, "run", interrupted)
    assert main(small(parts)) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(list(parts.rglob("*.json"))) == 3
    kept = {path: path.stat().st_mtime_ns for path in parts.rglob("*.json")}
    monkeypatch.setattr(running, "run", honest)
    assert main(small(parts)) == 0
    assert "8 runs, 3 of them finished" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert report(parts) == report(whole)
    assert main(small(parts)) == 0  # nothing is left: the report again
    assert report(parts) == report(whole)


def test_workers_give_the_same_records(small, tmp_path: Path) -> None:
    few = ["tasks=[qed]", "seeds=1"]
    assert main(small(tmp_path / "one", *few)) == 0
    assert main(small(tmp_path / "two", *few, "workers=2")) == 0
    for method in ("graph_ga", "prior"):
        one, two = (read_record(tmp_path / n / method / "qed" / "0.csv.gz") for n in ("one", "two"))
        assert one == two


def test_records_of_other_settings_are_refused(small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small(tmp_path, "tasks=[qed]", "seeds=1")) == 0
    capsys.readouterr()
    assert main(small(tmp_path, "tasks=[qed]", "seeds=1", "calls=31")) == 2
    error = capsys.readouterr().err
    assert "0.json is of other settings (calls was 30, now 31); choose another out=" in error
    assert "and 1 more such files" in error
    text = problems(small(tmp_path, "tasks=[qed]", "seeds=1", "steps=5"))["out"]
    assert "prior/qed/0.json is of other settings (domain.steps was 4, now 5)" in text  # the GA does not use the prior
    (tmp_path / "graph_ga/qed/0.json").write_text("{")
    assert "cannot be read" in problems(small(tmp_path, "tasks=[qed]", "seeds=1"))["out"]


def test_one_that_fails_does_not_stop_the_others(
    small, tmp_path: Path, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [f"optimiser.mine={{_target_: {plugin}.Broken}}", f"plugins=[{plugin}]", "methods=[mine,graph_ga,prior]"]
    assert main(small(tmp_path / "out", *own, "tasks=qed", "seeds=1")) == 1
    assert "mine on qed, seed 0: failed: RuntimeError: no idea" in capsys.readouterr().out
    text, content = report(tmp_path / "out")
    assert content["missing"] == ["mine on qed, seed 0"]
    assert "## Missing\n\n* mine on qed, seed 0" in text
    assert content["methods"]["mine"]["sum"] is None


# --- the numbers ---------------------------------------------------------------------------------------------------


def test_measures_by_hand() -> None:
    found = measures([0.2, math.nan, 0.8, 0.5], 10)
    assert found["calls"] == 4
    assert found["failed"] == 1
    assert found["top1"] == 0.8
    assert found["top10"] == found["top100"] == pytest.approx(1.5 / 4)
    assert found["auc_top10"] == pytest.approx((4 * 0.375 / 2 + 6 * 0.375) / 10)
    assert measures([], 10) == {
        "calls": 0,
        "failed": 0,
        **{f"{kind}{top}": 0.0 for kind in ("auc_top", "top") for top in (1, 10, 100)},
    }


def test_more_molecules_in_the_mean_never_raise_it() -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(500)]
    found = measures(values, 600)
    assert found["auc_top1"] > found["auc_top10"] > found["auc_top100"]
    assert found["top1"] > found["top10"] > found["top100"]
    assert all(found[f"auc_top{top}"] == top_auc(values, 600, top) for top in (1, 10, 100))
    better = measures([min(1.0, value + 0.1) for value in values], 600)
    assert better["auc_top10"] > found["auc_top10"]


def test_duels_by_hand() -> None:
    def column(name: str, *cells: tuple[float, float | None]) -> Column:
        return Column(name, {task: Cell(*cell, 3) for task, cell in zip("abcd", cells, strict=False)})

    one = column("one", (0.5, 0.1), (0.4, 0.01), (0.30004, 0.2), (0.9, 0.0))
    other = column("other", (0.45, 0.02), (0.5, None), (0.3, 0.0))
    found = duel(one, other, ("a", "b", "c", "d"))
    assert (found.won, found.lost, found.even, found.close) == (1, 1, 1, 1)
    back = duel(other, one, ("a", "b", "c", "d"))
    assert (back.won, back.lost, back.even, back.close) == (1, 1, 1, 1)
    assert one.total("abc") == pytest.approx(1.20004)
    assert other.total("abcd") is None


def test_published_numbers_are_of_all_tasks() -> None:
    for each in PUBLISHED:
        assert tuple(each.auc) == PMO
        assert all(0 <= mean <= 1 and 0 <= std < 0.4 for mean, std in each.auc.values())
    assert {each.name for each in PUBLISHED if each.screened} == {"f-RAG", "GenMol", "InVirtuoGen screened"}
    # The stated sums over 23 tasks less the three that are not here.
    sums = {each.name: sum(mean for mean, _ in each.auc.values()) for each in PUBLISHED}
    assert sums["GenMol"] == pytest.approx(18.362 - 0.995 - 0.986 - 0.906, abs=0.0115)
    assert sums["f-RAG"] == pytest.approx(16.928 - 0.992 - 0.969 - 0.904, abs=0.0115)
    assert sums["Genetic GFN"] == pytest.approx(16.213 - 0.974 - 0.881 - 0.764, abs=0.0115)
    assert sums["Graph GA"] == pytest.approx(13.751 - 0.964 - 0.788 - 0.553, abs=0.0115)
    assert sums["Mol GA again"] == pytest.approx(15.686 - 0.950 - 0.894 - 0.835, abs=0.0115)


def test_published_numbers_are_compared_at_their_number_of_calls(small, tmp_path: Path) -> None:
    from tiltflow.benchmark.table import columns, duels, published

    (only,), _ = combinations(small(tmp_path, f"calls={CALLS}"), False)
    plan = prepare(compose(only, "benchmark", {"optimiser": optimisers()}).config, "pmo")
    done = {unit.name: {"auc_top10": 0.94 if unit.settings["task"] == "qed" else 0.31} for unit in plan.units}
    found = {(each.one, each.other): each for each in duels(plan, columns(plan, done), published(plan.tasks))}
    assert len(found) == 1 + 2 * len(PUBLISHED)
    against = found["graph_ga", "Graph GA"]
    assert (against.won, against.lost, against.even, against.close) == (1, 0, 1, 1)
    assert (found["prior", "GenMol"].won, found["prior", "GenMol"].lost) == (0, 2)
