"""The job of a method that tunes: from the command line to a model file, four rows and warnings, with a small model."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiltflow
import torch
from rich.console import Console
from tiltflow import job, report, summary, tune, tuned
from tiltflow.batches import stream
from tiltflow.cli import compose
from tiltflow.core.tuning import DRAKES, LoRA, merged, train
from tiltflow.domains import dna
from tiltflow.schema import ConfigError
from tiltflow.settings import Plan, prepare

pytest.importorskip("lightning_fabric")
REPEATS = "reward={_target_: tiltflow.rewards.Repeats, length: 4}"
HELDOUT = "heldout={_target_: tiltflow.rewards.Homopolymer, max_run: 2}"


@pytest.fixture(scope="module")
def planned(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plan]:
    """`planned(*arguments)` -> a small tuning job in a folder of its own, checked and built."""

    def plan(*arguments: str) -> Plan:
        small = "reward=gc method=drakes n=4 steps=6 natural=8 pretrained=4 alpha=0.02"
        small += " method.steps=4 method.batch=4 method.learning_rate=0.01 method.warmup=0"
        small += " tune.train_steps=3 tune.judge_every=2 tune.judged=4"
        small += "" if "tune=alone" in arguments else " tune.candidates=2"
        out = tmp_path_factory.mktemp("runs")
        composed = compose([*small.split(), HELDOUT, f"domain.prior={tiny_prior}", f"out={out}", *arguments])
        return prepare(composed.config, names=composed.choices, command="tiltflow", problems=composed.problems)

    return plan


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Console:
    """No report: figures take seconds."""
    monkeypatch.setattr("tiltflow.report.write_report", lambda result: result.folder)
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def result(planned: Callable[..., Plan]) -> job.Result:
    """A whole run, with its report."""
    return job.run(planned(), Console(file=io.StringIO()))


def weights(domain: Any) -> list[torch.Tensor]:
    return list(domain.diffusion.denoiser.state_dict().values())


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_whole_run_has_the_four_rows_and_what_they_were_made_with(result: job.Result) -> None:
    assert list(result.sets) == ["natural", "pretrained", "steered", "tuned", "tuned_without_kl"]
    header, body = tuned.four_rows(result)
    names = ["natural", "pretrained", "SVDD, M = 2", "DRAKES", "DRAKES without KL"]
    assert [row[0] for row in body] == names
    assert header[1:] == ["reward", "best tenth", "held-out", "3-mers", "reachable", "NELBO", "diversity", "n"]
    for key, row in zip(result.sets, body, strict=True):
        assert row[1] == f"{result.metrics[key]['reward_median']:.2f}"
        assert row[-1] == str(len(result.sets[key]))
    made = {path.name for path in result.folder.iterdir()}
    for name in ("tuned", "tuned_without_kl"):
        assert {f"{name}.safetensors", f"{name}.checkpoint.safetensors", f"{name}.curve.json"} <= made
    assert {"pretrained.csv", "steered.csv", "tuned_without_kl.csv", "samples.csv", "samples.fasta"} <= made
    assert {path.stem for path in (result.folder / "figures").iterdir()} >= {"training", "reward_against_kl", "reward"}
    assert result.info["status"] == "finished"
    assert result.info["training"]["steps"] == 4
    assert result.info["training"]["cost"]["reward_calls"] == 16
    for name in names:
        assert name in (result.folder / "report.html").read_text(encoding="utf-8")


def test_the_designs_are_samples_of_the_model_in_the_file(result: job.Result, tiny_prior: Path) -> None:
    """It loads as any other prior, differs from the pretrained one, and its draws are those of the run."""
    plan, file = result.plan, result.folder / "tuned.safetensors"
    loaded = dna.load(file, steps=6)
    assert "tuned toward" in loaded.source
    assert not same(weights(loaded), weights(dna.load(tiny_prior)))
    assert not same(weights(loaded), weights(dna.load(result.folder / "tuned_without_kl.safetensors")))
    drawn = loaded.diffusion.sample(4, generator=stream(plan, "sampling the tuned model"))
    run = tiltflow.load(result.folder)
    assert sorted(run.samples.x.tolist()) == sorted(drawn.tolist())
    assert torch.equal(run.samples.reward, plan.tilt.reward(run.samples.x))
    assert same(weights(run.tuned()), weights(loaded))
    assert same(weights(run.domain()), weights(dna.load(tiny_prior)))


def test_the_model_is_what_the_library_gives_for_the_same_seed(result: job.Result) -> None:
    """Looking at it on the way changes nothing."""
    plan = result.plan
    model = plan.method.fit(tune.coarse(plan), generator=stream(plan, "tuning"))  # type: ignore[union-attr]
    assert same(list(model.denoiser.state_dict().values()), weights(dna.load(result.folder / "tuned.safetensors")))


def test_curves_begin_at_the_pretrained_model(result: job.Result) -> None:
    for name in ("tuned", "tuned_without_kl"):
        rows = result.curves[name]
        assert [row["step"] for row in rows] == [0, 2, 4]
        assert rows == json.loads((result.folder / f"{name}.curve.json").read_text())
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert rows[-1]["kl"] > 0.01
        assert {"reward_median", "heldout_median", "kmer3_correlation", "objective"} <= set(rows[0])
    alike = ("reward_median", "heldout_median", "diversity")
    assert [result.curves["tuned"][0][k] for k in alike] == [result.curves["tuned_without_kl"][0][k] for k in alike]


def test_the_tuned_model_alone(planned: Callable[..., Plan], quiet: Console) -> None:
    made = job.run(planned("tune=alone", "tune.judge_every=4"), quiet)
    assert list(made.sets) == ["natural", "pretrained", "tuned"]
    assert list(made.curves) == ["tuned"]


def test_templates_hold_in_training_and_in_the_designs(planned: Callable[..., Plan], quiet: Console) -> None:
    made = job.run(planned("tune=alone", "domain.template=N20 TATAWAW N*"), quiet)
    assert all(text[20:24] == "TATA" for text in made.plan.domain.codec.decode(made.samples.x))
    assert dna.load(made.folder / "tuned.safetensors").constraints == ""


def test_reinforce_learns_from_a_reward_without_gradient(planned: Callable[..., Plan], quiet: Console) -> None:
    given = (REPEATS, "heldout=null")
    estimator = "method.estimator={_target_: tiltflow.core.tuning.Reinforce}"
    made = job.run(planned("tune=alone", *given, estimator), quiet)
    assert made.info["status"] == "finished"
    with pytest.raises(ConfigError, match="differentiable"):
        planned(*given)


ADAPTER = "method.adapter={_target_: tiltflow.core.tuning.LoRA, rank: 2}"


def test_adapters_from_the_command_line_are_in_the_weights_of_the_file(
    planned: Callable[..., Plan], quiet: Console, tiny_prior: Path
) -> None:
    """The file is one like any other; what the library gives for the same seed, merged, is in it."""
    pytest.importorskip("peft")
    plan = planned("tune=alone", ADAPTER)
    assert plan.method.adapter == LoRA(rank=2)  # type: ignore[union-attr]
    made = job.run(plan, quiet)
    loaded, prior = tiltflow.load(made.folder).tuned(), dna.load(tiny_prior)
    assert same(weights(loaded), weights(dna.load(made.folder / "tuned.safetensors")))
    model = plan.method.fit(tune.coarse(plan), generator=stream(plan, "tuning"))  # type: ignore[union-attr]
    assert same(list(merged(model).denoiser.state_dict().values()), weights(loaded))
    changed = [not torch.equal(a, b) for a, b in zip(weights(loaded), weights(prior), strict=True)]
    names = [name for name, moved in zip(prior.diffusion.denoiser.state_dict(), changed, strict=True) if moved]
    adapted = [f"network.{name}.weight" for name in LoRA().choose(prior.diffusion.denoiser.network)]
    assert sorted(names) == sorted(adapted)
    drawn = loaded.diffusion.sample(4, generator=stream(plan, "sampling the tuned model"))
    assert sorted(made.samples.x.tolist()) == sorted(drawn.tolist())


# --- stopping and going on ----------------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, losses: int) -> None:
    """SIGINT while a loss is computed, after so many of them."""
    taken: list[None] = []
    original = DRAKES.loss

    def loss(self: DRAKES, *arguments: Any) -> Any:
        taken.append(None)
        if len(taken) == losses:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(DRAKES, "loss", loss)


def test_a_stopped_training_is_reported_and_gone_on_with(
    result: job.Result, planned: Callable[..., Plan], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model after two steps is sampled; the same command with resume gives the bits of a run in one go."""
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        made = job.run(planned(), quiet)
    assert list(made.sets) == ["natural", "pretrained", "tuned"]
    assert (made.info["status"], made.info["training"]["stopped"], len(made.samples)) == ("stopped", 2, 4)
    assert f"stopped after step 2: {'the model'}" in summary.warnings(made)[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    file = made.folder / "tuned.safetensors"
    assert not same(weights(dna.load(file)), weights(dna.load(result.folder / "tuned.safetensors")))

    again = job.run(planned(f"resume={made.folder}"), quiet)
    assert again.folder == made.folder
    assert again.curves == result.curves
    assert torch.equal(again.samples.x, result.samples.x)
    assert same(weights(dna.load(file)), weights(dna.load(result.folder / "tuned.safetensors")))
    third = job.run(planned(f"resume={made.folder}"), quiet)  # everything is trained already
    assert torch.equal(third.samples.x, result.samples.x)


def test_an_aborted_training_is_gone_on_with(
    result: job.Result, planned: Callable[..., Plan], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it, the checkpoint of the step before is whole; nothing of it has been seen by the steps after."""
    plan, original = planned(), DRAKES.loss

    def loss(self: DRAKES, tilt: Any, roles: Any, batch: Any, generator: Any, progress: float) -> Any:
        if progress > 0.5:
            raise KeyboardInterrupt
        return original(self, tilt, roles, batch, generator, progress)

    with monkeypatch.context() as patch:
        patch.setattr(DRAKES, "loss", loss)
        with pytest.raises(KeyboardInterrupt):
            job.run(plan, quiet)
    (folder,) = Path(plan.config["out"]).iterdir()
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    again = job.run(planned(f"resume={folder}"), quiet)
    assert again.curves == result.curves
    assert torch.equal(again.samples.x, result.samples.x)


def test_stopping_the_second_training_keeps_the_rest(
    planned: Callable[..., Plan], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 4 + 2)
    made = job.run(planned(), quiet)
    assert list(made.sets) == ["natural", "pretrained", "steered", "tuned"]
    assert made.info["training"]["stopped"] is None


def test_a_budget_of_divergence_ends_the_training_for_good(planned: Callable[..., Plan], quiet: Console) -> None:
    """At the first look above it; the run is finished, and going on with it changes nothing."""
    keys = ("tune=alone", "tune.kl_budget=1e-3", "tune.judge_every=1")
    made = job.run(planned(*keys), quiet)
    assert [row["step"] for row in made.curves["tuned"]] == [0, 1]
    training = made.info["training"]
    assert (made.info["status"], training["stopped"], training["steps"]) == ("finished", None, 1)
    assert "above the budget of 0.001" in training["ended"]
    assert "It ended early: the divergence" in tuned.spent(made)
    again = job.run(planned(*keys, f"resume={made.folder}"), quiet)
    assert again.curves == made.curves
    assert again.info["training"]["steps"] == 1
    assert torch.equal(again.samples.x, made.samples.x)


def test_patience_ends_the_training_and_the_best_weights_are_kept(planned: Callable[..., Plan], quiet: Console) -> None:
    """The held-out reward rises once and then falls: the training ends a look later, with the weights of the top."""
    scores = iter([0.0, 1.0, 3.0, 2.0, 1.0, 9.0])
    plan = planned("tune=alone", "tune.patience=2", "tune.keep=best", "tune.judge_every=1", "method.steps=6")
    domain = plan.domain

    def metrics(x: torch.Tensor, **scored: Any) -> dict[str, Any]:
        found = dict(domain.metrics(x, **scored))
        return found | ({} if "nelbo" in scored else {"heldout_median": next(scores)})

    made = job.run(replace(plan, domain=replace(domain, metrics=metrics)), quiet)
    training = made.info["training"]
    assert (training["steps"], training["kept"], training["stopped"]) == (4, 2, None)
    assert training["ended"] == "2 looks were no better than that after step 2"
    assert "The weights are those after step 2." in tuned.spent(made)
    short = planned("tune=alone", "method.steps=6")
    seen: list[Any] = []
    for progress in train(short.method, tune.coarse(short), seed=first_number(short)):  # type: ignore[arg-type]
        seen.append([tensor.clone() for tensor in progress.model.denoiser.state_dict().values()])
    assert same(seen[1], weights(dna.load(made.folder / "tuned.safetensors")))


def first_number(plan: Plan) -> int:
    """The seed that `fit` takes from the job's stream."""
    return int(torch.randint(2**62, (), generator=stream(plan, "tuning")))


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "key", "words"),
    [
        ("domain.forbidden=[BsaI]", "domain.forbidden", "steer the tuned model"),
        (REPEATS, "method", "relaxed|differentiable"),
        ("tune.train_steps=0", "tune", "at least 1"),
        ("tune.patience=0", "tune", "at least 1"),
        ("tune.kl_budget=-1", "tune", "positive number of nats"),
        ("tune.keep=first", "tune", "expected last or best"),
        ("tune.candidate=3", "tune.candidate", "did you mean candidates"),
        ("method.stepz=3", "method.stepz", "did you mean steps"),
        ("method.batch=0", "method", "at least 1"),
        ("method._target_=tiltflow.core.tuning.AlignProp", "method", "for tokens use DRAKES"),
        ("resume=/nowhere", "resume", "not a run folder"),
        ("method.adapter={_target_: tiltflow.core.tuning.LoRA, rank: 0}", "method.adapter.rank", "at least 1"),
        ("method.adapter={_target_: tiltflow.core.tuning.LoRA, targets: [mixx]}", "method.adapter", "Layers that can"),
        ("method.adapter=8", "method", "expected None, or an adapter"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_runs(
    argument: str, key: str, words: str, planned: Callable[..., Plan]
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        planned(argument)
    assert any(problem.key.startswith(key) for problem in caught.value.problems)


def test_a_run_is_gone_on_with_by_the_same_keys_only(result: job.Result, planned: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError, match=r"alpha was 0\.02, now 0\.5"):
        planned(f"resume={result.folder}", "alpha=0.5")
    with pytest.raises(ConfigError, match="this method steers"):
        prepare(compose([f"resume={result.folder}"]).config)


def test_alpha_of_tuning_expression_is_its_own_and_yields_to_yours() -> None:
    assert compose(["method=drakes"]).config["alpha"] > compose([]).config["alpha"]
    assert compose(["method=drakes", "reward=gc"]).config["alpha"] == compose(["reward=gc"]).config["alpha"]
    assert compose(["method=drakes", "alpha=0.7"]).config["alpha"] == 0.7


# --- over-optimisation --------------------------------------------------------------------------------------------


def with_figures(result: job.Result, key: str, **figures: float) -> job.Result:
    return replace(result, metrics={**result.metrics, key: {**result.metrics[key], **figures}})


def with_curve(result: job.Result, *points: tuple[float, float]) -> job.Result:
    """A tuned model's curve of (reward, held-out) with an error of 0.1 each."""
    row = {"kl": 1.0, "heldout_sem": 0.1}
    rows = [{**row, "step": i, "reward_median": r, "heldout_median": h} for i, (r, h) in enumerate(points)]
    return replace(result, curves={"tuned": rows})


@pytest.fixture
def calm(result: job.Result) -> job.Result:
    """The same run with figures that raise no concern."""
    for key in ("pretrained", "tuned", "tuned_without_kl"):
        result = with_figures(
            result, key, kmer3_correlation=0.9, kmer3_ceiling=1, reward_median=float(key != "pretrained")
        )
    return with_curve(result, (0.0, 0.0), (1.0, 1.0))


def test_words_lost_while_the_reward_rose_are_named(calm: job.Result) -> None:
    assert tuned.warnings(calm) == []
    made = replace(with_figures(calm, "tuned_without_kl", kmer3_correlation=0.6), curves={"tuned_without_kl": []})
    (text,) = tuned.warnings(made)
    assert "DRAKES without KL raised the reward from 0.00 to 1.00" in text
    assert "fell from 0.900 to 0.600" in text
    alike = replace(with_figures(calm, "tuned_without_kl", diversity=0.3), curves={"tuned_without_kl": []})
    assert "samples of DRAKES without KL resemble each other" in tuned.warnings(alike)[0]
    (text,) = tuned.warnings(with_figures(calm, "tuned", kmer3_correlation=0.8))
    assert "A larger alpha" in text
    assert tuned.warnings(with_figures(calm, "tuned", kmer3_correlation=0.8, reward_median=-1.0)) == []
    fewer = with_figures(calm, "tuned", kmer3_correlation=0.8, kmer3_ceiling=0.9)  # so few cannot reach more
    assert tuned.warnings(fewer) == []


def test_a_falling_held_out_reward_is_named_with_the_step(calm: job.Result) -> None:
    (text,) = tuned.warnings(with_curve(calm, (0.0, 0.0), (1.0, 2.0), (3.0, 1.0)))
    assert "from step 1 on DRAKES raised the reward from 1.00 to 3.00" in text
    assert "fell from 2.00 to 1.00" in text
    assert tuned.warnings(with_curve(calm, (0.0, 0.0), (1.0, 2.0), (3.0, 1.8))) == []  # within two standard errors
    assert tuned.warnings(with_curve(calm, (0.0, 0.0), (1.0, 2.0), (0.5, 1.0))) == []  # the reward fell as well


def test_the_report_says_what_tuning_is(result: job.Result) -> None:
    html = (result.folder / "report.html").read_text(encoding="utf-8")
    assert tuned.CAVEAT.split(";")[0] in html
    error = 1.2533 * result.sets["tuned"].reward.double().std() / 2  # of four
    assert f"DRAKES {error:.2f}, " in tuned.errors(result)
    assert "Standard errors of the medians (reward and held-out reward)" in html
    assert "drawn in 6 steps (those of the table: 6)" in html  # more than the 3 that are trained on
    assert "4 training steps took" in html
    assert f"domain.prior={result.folder / 'tuned.safetensors'}" in html
    assert "unfinished sequences judged by" not in html
    assert report.REPORT in {path.name for path in result.folder.iterdir()}
