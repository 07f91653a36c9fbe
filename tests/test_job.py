"""The main job from a configuration to a run folder, with a small untrained model and rewards that need no file."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiltflow
import torch
from rich.console import Console
from tiltflow import job, summary
from tiltflow.cli import compose
from tiltflow.core.steering import SVDD
from tiltflow.core.tilt import RewardError
from tiltflow.settings import Plan, prepare

FILES = {
    "config.yaml",
    "run.json",
    "metrics.json",
    "pretrained.csv",
    "samples.csv",
    "samples.fasta",
    "samples.safetensors",
}
FILES |= {"report.html", "figures"}


@pytest.fixture
def planned(tiny_prior: Path, tmp_path: Path) -> Callable[..., Plan]:
    """`planned(*arguments)` -> a small job, checked and built."""

    def plan(*arguments: str) -> Plan:
        small = [
            "reward=gc",
            "n=4",
            "steps=6",
            "natural=16",
            "pretrained=4",
            f"domain.prior={tiny_prior}",
            f"out={tmp_path / 'runs'}",
        ]
        composed = compose([*small, *arguments])
        return prepare(composed.config, names=composed.choices, command="tiltflow", problems=composed.problems)

    return plan


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Console:
    """No report: figures take seconds and are looked at elsewhere."""
    monkeypatch.setattr("tiltflow.report.write_report", lambda result: result.folder)
    return Console(file=io.StringIO())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_whole_run(planned: Callable[..., Plan]) -> None:
    """Everything is there, agrees with itself, and is what the library gives for the same seed."""
    plan, printed = planned("domain.forbidden=[BsaI]"), io.StringIO()
    result = job.run(plan, Console(file=printed, width=200))
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert {path.name for path in (result.folder / "figures").iterdir()} == {
        "reward.png", "naturalness.png", "trace.png", "logo.png",
    }  # fmt: skip
    assert str(result.folder) in printed.getvalue()

    run = tiltflow.load(result.folder)
    again = plan.method.sample(plan.tilt, 4, generator=job.stream(plan, "steering"))
    order = again.reward.argsort(descending=True, stable=True)
    assert torch.equal(run.samples.x, again.x[order])
    assert torch.equal(run.samples.reward, again.reward[order])
    assert torch.equal(run.samples.log_weight, again.log_weight[order])
    assert run.samples.cost.forward_rows == again.cost.forward_rows
    assert run.info["status"] == "finished"

    table = rows(result.folder / "samples.csv")
    codec = plan.domain.codec
    assert [row["sequence"] for row in table] == codec.decode(run.samples.x)
    assert [float(row["reward"]) for row in table] == run.samples.reward.tolist()
    assert [float(row["nelbo"]) for row in table] == run.columns["nelbo"].tolist()
    assert [float(row["part_GcWindow"]) for row in table] == run.samples.reward.tolist()
    fasta = codec.read_fasta(result.folder / "samples.fasta")
    assert torch.equal(fasta.tokens, run.samples.x)
    assert json.loads((result.folder / "metrics.json").read_text()) == run.metrics == result.metrics
    assert run.metrics["steered"]["reward_median"] == pytest.approx(float(run.samples.reward.quantile(0.5)))


def test_the_same_seed_gives_the_same_designs(planned: Callable[..., Plan], quiet: Console) -> None:
    first, second, other = (job.run(planned(f"seed={seed}"), quiet) for seed in (3, 3, 4))
    assert first.folder != second.folder
    assert torch.equal(first.samples.x, second.samples.x)
    assert (first.folder / "samples.csv").read_bytes() == (second.folder / "samples.csv").read_bytes()
    assert not torch.equal(first.samples.x, other.samples.x)


def test_the_baseline_does_not_depend_on_the_method(planned: Callable[..., Plan], quiet: Console) -> None:
    svdd, smc = (job.run(planned(f"method={name}"), quiet).sets["pretrained"] for name in ("svdd", "smc"))
    assert torch.equal(svdd.x, smc.x)
    assert torch.equal(svdd.reward, smc.reward)


@pytest.mark.parametrize("method", ["svdd", "smc", "best_of_n", "importance"])
@pytest.mark.parametrize("value", ["completions", "posterior_mean"])
def test_every_method_and_value_runs(method: str, value: str, planned: Callable[..., Plan], quiet: Console) -> None:
    result = job.run(planned(f"method={method}", f"value={value}", "natural=0"), quiet)
    assert set(result.metrics) == {"pretrained", "steered", "gain"}
    assert torch.equal(result.samples.reward, result.plan.tilt.reward(result.samples.x))


def test_batches_are_steered_one_after_the_other(planned: Callable[..., Plan], quiet: Console) -> None:
    plan = planned("n=5", "batch=2", "natural=0")
    assert plan.batches == [2, 2, 1]
    samples = job.run(plan, quiet).samples
    assert len(samples) == 5
    assert samples.trace is not None
    assert samples.trace["batch"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    generator = job.stream(plan, "steering")
    apart = torch.cat([plan.method.sample(plan.tilt, size, generator=generator).x for size in (2, 2, 1)])
    assert sorted(samples.x.tolist()) == sorted(apart.tolist())


def test_templates_hold_in_every_design(planned: Callable[..., Plan], quiet: Console) -> None:
    result = job.run(planned("domain.template=N20 TATAWAW N*", "natural=0"), quiet)
    for text in result.plan.domain.codec.decode(result.samples.x):
        assert text[20:24] == "TATA"
        assert text[25] == "A"
        assert {text[24], text[26]} <= {"A", "T"}


def test_naturalness_is_judged_without_the_template(planned: Callable[..., Plan]) -> None:
    """A fixed site costs what the free model thinks of it: the NELBO is that of the prior, not of the restricted law."""
    from tiltflow.scores import naturalness, score

    free, fixed = planned(), planned("domain.template=N40 GGGGGGGGGG N*")
    x = torch.randint(4, (3, 80), generator=torch.Generator().manual_seed(0))
    bounds = [naturalness(plan, score(plan, x), 4, torch.Generator().manual_seed(1)).nelbo for plan in (free, fixed)]
    assert bounds[0] is not None
    assert bounds[1] is not None
    assert torch.equal(*bounds)
    expected = -free.domain.diffusion.elbo(x, draws=4, generator=torch.Generator().manual_seed(1)) / 80
    assert torch.allclose(bounds[0], expected.double(), rtol=1e-6)


def test_forbidden_sites_are_left_out_and_counted(planned: Callable[..., Plan], quiet: Console) -> None:
    """'A' is in every sequence: nothing is allowed, and that is said. 'GCGC' is in some: the others are kept."""
    none = job.run(planned("domain.forbidden=[A]", "n=2"), quiet)
    assert none.excluded == 2
    assert "use none of them" in summary.warnings(none)[0]
    some = job.run(planned("domain.forbidden=[GCGC]", "n=48", "method.candidates=1"), quiet)
    texts = [row["sequence"] for row in rows(some.folder / "samples.csv")]
    assert 0 < some.excluded < 48
    assert len(texts) == 48 - some.excluded
    assert not any("GCGC" in text for text in texts)
    assert some.metrics["steered"]["n"] == len(texts)
    assert len(tiltflow.load(some.folder).samples) == 48
    assert f"{some.excluded} of 48" in summary.warnings(some)[0]


def test_a_held_out_reward_stands_in_every_table(planned: Callable[..., Plan], quiet: Console) -> None:
    result = job.run(planned("heldout={_target_: tiltflow.rewards.Homopolymer, max_run: 2}"), quiet)
    held_out = [float(row["heldout"]) for row in rows(result.folder / "samples.csv")]
    assert held_out == result.plan.heldout(result.samples.x).tolist()  # type: ignore[misc]
    assert result.metrics["steered"]["heldout_median"] == pytest.approx(float(torch.tensor(held_out).quantile(0.5)))
    assert result.metrics["gain"]["heldout_median_gain"] == pytest.approx(
        result.metrics["steered"]["heldout_median"] - result.metrics["pretrained"]["heldout_median"]
    )


# --- runs that end early ------------------------------------------------------------------------------------------


class Fails:
    """A reward that breaks after some calls."""

    alphabet = "ACGT"

    def __init__(self, calls: int, error: BaseException):
        self.left, self.error = calls, error

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return (x == 1).double().mean(-1)


def breaking(plan: Plan, calls: int, error: BaseException) -> Plan:
    return replace(plan, tilt=replace(plan.tilt, reward_function=Fails(calls, error)))


@pytest.mark.parametrize("error", [RewardError("the assay is closed"), KeyboardInterrupt(), RuntimeError("no memory")])
def test_finished_batches_survive_whatever_comes(
    error: BaseException, planned: Callable[..., Plan], quiet: Console
) -> None:
    plan = breaking(planned("n=6", "batch=2", "steps=4", "natural=0"), 10, error)
    with pytest.raises(type(error)):
        job.run(plan, quiet)
    (folder,) = Path(plan.config["out"]).iterdir()
    run = tiltflow.load(folder)
    assert len(run.samples) == 4  # the first two batches took four calls each, after one for the pretrained samples
    assert run.info["status"] == ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
    assert (folder / "error.txt").exists() != isinstance(error, KeyboardInterrupt)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_wish_to_stop_finishes_the_batch_and_skips_the_rest(
    planned: Callable[..., Plan], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT in the second batch: it is finished unguided, weighted as the library weighs it, and reported."""
    plan = planned("n=6", "batch=2", "natural=0")
    taken: list[Any] = []

    def step(self: SVDD, tilt: Any, state: Any, t: float, s: float, *, generator: Any = None) -> Any:
        taken.append(None)
        if len(taken) == 6 + 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, tilt, state, t, s, generator=generator)

    original = SVDD.step
    monkeypatch.setattr(SVDD, "step", step)
    result = job.run(plan, quiet)
    assert len(taken) == 9
    assert (len(result.samples), result.samples.stopped, result.info["status"]) == (4, 3, "stopped")
    assert "4 of 6 designs" in summary.warnings(result)[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_wish_interrupts(
    planned: Callable[..., Plan], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(SVDD, "step", step)
    with pytest.raises(KeyboardInterrupt):
        job.run(planned("natural=0"), quiet)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_and_kill_from_outside(tiny_prior: Path, tmp_path: Path) -> None:
    """The real command: SIGINT ends in a report and code 0; SIGKILL leaves whole files or none."""
    common = [
        sys.executable,
        "-m",
        "tiltflow",
        "reward=gc",
        f"domain.prior={tiny_prior}",
        "natural=0",
        "n=9999",
        "batch=2",
    ]
    started = [
        subprocess.Popen([*common, "steps=40", f"out={tmp_path / name}"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        for name in ("asked", "killed")
    ]
    try:
        for process, name, number in zip(started, ("asked", "killed"), (signal.SIGINT, signal.SIGKILL), strict=True):
            deadline = time.monotonic() + 120
            while not list((tmp_path / name).glob("*/samples.csv")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
        assert [process.wait(120) for process in started] == [0, -signal.SIGKILL]
    finally:
        for process in started:
            process.kill()
    (asked,), (killed,) = ((tmp_path / name).iterdir() for name in ("asked", "killed"))
    assert {path.name for path in asked.iterdir()} == FILES
    assert tiltflow.load(asked).info["status"] == "stopped"
    assert "The run was stopped" in (asked / "report.html").read_text()
    left = tiltflow.load(killed)
    assert left.info["status"] == "running"
    assert len(left.samples) % 2 == 0
    made = left.domain().codec.decode(left.samples.x)
    written = [row["sequence"] for row in rows(killed / "samples.csv")]
    assert len(written) % 2 == 0
    assert set(written) <= set(made)  # the table may be one writing behind, but both are whole
