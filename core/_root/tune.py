"""The job of a method that tunes: train, save and sample the model, and make the sets it is to be compared with."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .batches import Keep, steer, stream
from .core.cost import Cost
from .core.steering import SVDD, BestOfN
from .core.storage import load_tensors, save_tensors, write_json
from .core.tuning import merged
from .core.tuning.roles import frozen
from .core.tuning.rollouts import scored
from .interrupt import Stop
from .scores import Made, score
from .tuned import median_error

if TYPE_CHECKING:
    from rich.console import Console

    from .core.diffusion import Diffusion
    from .core.tilt import Tilt
    from .core.tuning import Progress, Tuning
    from .settings import Plan

TUNED, WITHOUT_KL = "tuned", "tuned_without_kl"
#: What a look at the model records of the domain's metrics.
LOOKS = ("reward_median", "heldout_median", "kmer3_correlation", "diversity")
LOOK_STEPS = (
    16  # denoising steps of a look, or those of the training if more: on very few, samples are worse than the job's
)


def make(plan: Plan, folder: Path, console: Console, keep: Keep) -> Made:
    """Tune, save, sample; then steer the pretrained model and tune without the divergence, to compare with.

    A wish to stop (Ctrl-C) ends the training where it is: the model is sampled as it is, and the comparisons are left out.

    Args:
        folder: gets the models, their checkpoints and their curves. keep: as for `batches.steer`.
    """
    method: Any = plan.method
    training = _train(plan, method, TUNED, folder, console)
    samples, own = steer(_unsteered(plan, training.model), console, keep, "sampling the tuned model")
    sets, curves, stopped = {TUNED: own}, {TUNED: training.rows}, training.stopped is not None
    if plan.tune.candidates and not stopped:
        sets = {"steered": steer(replace(plan, method=SVDD(plan.tune.candidates)), console)[1]} | sets
    if plan.tune.without_kl and getattr(method, "kl", False) and not stopped:
        other = _train(plan, replace(method, kl=False), WITHOUT_KL, folder, console)
        curves[WITHOUT_KL] = other.rows
        if other.stopped is None:
            model = _unsteered(plan, other.model)
            sets[WITHOUT_KL] = steer(model, console, words="sampling the model tuned without KL")[1]
    return Made(samples, sets, training.facts, curves)


def _unsteered(plan: Plan, model: Diffusion) -> Plan:
    """The same job that samples a model as it is: the one of one is the best."""
    return replace(plan, tilt=replace(plan.tilt, diffusion=model), method=BestOfN(1))


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A training that came to an end.

    Attributes:
        model: on the job's own grid.
        rows: the looks at the model on the way.
        stopped: the step after which it was stopped by hand, or None.
        facts: steps, cost, where it was stopped, why it ended early and of which step the weights are; JSON-ready.
    """

    model: Diffusion
    rows: list[dict[str, Any]]
    stopped: int | None
    facts: Mapping[str, Any]


def coarse(plan: Plan) -> Tilt:
    """The tilt on the grid that is trained on."""
    diffusion = plan.tilt.diffusion
    steps = min(plan.tune.train_steps, diffusion.steps)
    return replace(plan.tilt, diffusion=replace(diffusion, steps=steps, grid=None))


def look_steps(plan: Plan) -> int:
    """Denoising steps of a look at the model."""
    return min(max(plan.tune.train_steps, LOOK_STEPS), plan.tilt.diffusion.steps)


def _train(plan: Plan, method: Tuning, name: str, folder: Path, console: Console) -> Training:
    tilt, check = coarse(plan), folder / f"{name}.checkpoint.safetensors"
    curve = Curve(plan, folder / f"{name}.curve.json")
    curve.begin()
    model, stopped = _run_through(plan, method, tilt, name, check, curve, console)
    last = curve.last
    done = int(curve.rows[-1]["step"]) if last is None else last.step
    facts: dict[str, Any] = {"steps": done, "stopped": stopped, "ended": curve.ended, "kept": done}
    facts["cost"] = asdict(Cost() if last is None else last.cost)
    if plan.tune.keep == "best" and curve.best_path.exists():
        model, facts["kept"] = curve.recall(model)
    own = plan.tilt.diffusion
    model = merged(replace(model, steps=own.steps, grid=own.grid))  # its file is one like any other
    assert plan.domain.save is not None
    plan.domain.save(folder / f"{name}.safetensors", model, _card(plan, method, facts))
    return Training(model, curve.rows, stopped, facts)


def _run_through(
    plan: Plan, method: Tuning, tilt: Tilt, name: str, check: Path, curve: Curve, console: Console
) -> tuple[Diffusion, int | None]:
    """Train from the last checkpoint to the end, or to a wish to stop: the model, and the step it was stopped after."""
    with Stop(console.print, words="the model is kept as it is") as stop, _bar(console, name, method) as show:

        def watch(progress: Progress) -> bool:
            curve(progress)
            show(progress)
            if stop.asked and progress.step < progress.total:
                raise _Left  # not an end for good: the run can be gone on with
            return curve.ended is not None

        try:
            generator = stream(plan, "tuning")
            return method.fit(tilt, generator=generator, observe=[watch], checkpoint=check, save_every=1), None
        except _Left:
            assert curve.last is not None
            return frozen(curve.last.model), curve.last.step


class _Left(Exception):
    """The wish to stop, on its way out of the training."""


def _card(plan: Plan, method: Tuning, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of a tuned model says about itself."""
    alpha = plan.config["alpha"]
    words = f"tuned toward {plan.label}, alpha {alpha:g}, in {facts['steps']} steps; before: {plan.domain.source}"
    asked = {"reward": plan.config["reward"], "alpha": alpha, "seed": plan.config["seed"], "method": repr(method)}
    return {"data": words, "tuning": asked | dict(facts), "template": plan.domain.constraints}


@contextlib.contextmanager
def _bar(console: Console, name: str, method: Tuning) -> Any:
    """A progress bar as an observer of a training."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, TextColumn("reward {task.fields[reward]:.2f}"), console=console)
    words = "tuning" if name == TUNED else "tuning without KL"
    task = bar.add_task(words, total=method.steps * method.updates, reward=float("nan"))

    def show(progress: Any) -> None:
        bar.update(task, completed=progress.step, reward=progress.facts.get("reward", float("nan")))

    with bar:
        yield show


# --- looks at the model on the way ---------------------------------------------------------------------------------


@dataclass
class Curve:
    """Looks at the model every few steps, with the same random numbers each time, at samples that the training does not see.

    A row: "step", "kl" (nats, of the path from the pretrained one's), those of `LOOKS` that the domain has, "objective", mean
    reward - alpha kl, and "heldout_sem", the standard error of the held-out median; all on a grid of `look_steps`. The
    weights of the best look are kept in a file of their own.
    """

    plan: Plan
    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    last: Progress | None = None

    def begin(self) -> None:
        """What an earlier part of the run saw, or the pretrained model."""
        if self.path.exists():
            self.rows = json.loads(self.path.read_text(encoding="utf-8"))
        else:
            self._look(0, self.plan.tilt.diffusion)

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        if progress.step % self.plan.tune.judge_every == 0 or progress.step == progress.total:
            self._look(progress.step, progress.model)

    @property
    def ended(self) -> str | None:
        """Why the training should end here, by the looks so far; None while it should go on."""
        tune, seen = self.plan.tune, self.rows[1:]  # the first is of the pretrained model
        if not seen:
            return None
        if tune.kl_budget is not None and seen[-1]["kl"] > tune.kl_budget:
            return f"the divergence, {seen[-1]['kl']:.2f} nats, is above the budget of {tune.kl_budget:g}"
        scores = [_goodness(row) for row in seen]
        if tune.patience is not None and len(seen) - 1 - scores.index(max(scores)) >= tune.patience:
            return (
                f"{tune.patience} looks were no better than that after step {seen[scores.index(max(scores))]['step']}"
            )
        return None

    @property
    def best_path(self) -> Path:
        return self.path.with_name(self.path.name.removesuffix(".curve.json") + ".best.safetensors")

    def recall(self, like: Diffusion) -> tuple[Diffusion, int]:
        """The model of the best look, and its step; `like` has the same architecture."""
        tensors, facts = load_tensors(self.best_path, "best look")
        model = frozen(like)
        model.denoiser.load_state_dict(tensors)
        return model, int(facts["step"])

    def _look(self, step: int, model: Diffusion) -> None:
        plan = self.plan
        with torch.no_grad():
            generator = stream(plan, "looking")
            model, ref = (replace(each, steps=look_steps(plan), grid=None) for each in (model, plan.tilt.diffusion))
            path = scored(model, ref, plan.tune.judged, generator=generator, cond=plan.tilt.cond)
        seen, kl = score(plan, path.x0), float(path.kl.mean())
        figures = plan.domain.metrics(seen.x, reward=seen.reward, heldout=seen.heldout)
        row = {"step": step, "kl": kl, **{key: figures[key] for key in LOOKS if key in figures}}
        kept = seen.reward[seen.reward.isfinite()]
        row["objective"] = float(kept.mean()) - plan.tilt.alpha * kl if len(kept) else None
        row["heldout_sem"] = median_error(seen.heldout)
        self.rows = [*(earlier for earlier in self.rows if earlier["step"] < step), row]
        if step and _goodness(row) >= max(_goodness(each) for each in self.rows[1:]):
            weights = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
            save_tensors(self.best_path, weights, {"kind": "best look", "step": step})
        write_json(self.path, self.rows)


def _goodness(row: Mapping[str, Any]) -> float:
    """The held-out median of a look, or where there is none its objective."""
    found = [row[key] for key in ("heldout_median", "objective") if row.get(key) is not None]
    return float(found[0]) if found else -math.inf
