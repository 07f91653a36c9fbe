"""The main job: sample the pretrained model, steer it, compare both with natural data, and fill a run folder."""

from __future__ import annotations

import csv
import io
import platform
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import __version__, runs
from .batches import pretrained, steer, stream
from .core.storage import write_json, write_text
from .core.tilt import Samples
from .scores import Made, Scored, compare, natural, naturalness, score

if TYPE_CHECKING:
    from rich.console import Console

    from .domains import Domain
    from .settings import Plan

DRAWS, BACKDROP_DRAWS = 16, 8  # noise levels behind the NELBO of a sequence; natural ones are many and only a backdrop


@dataclass(frozen=True)
class Result:
    """A finished job.

    Attributes:
        samples: all designs that were drawn.
        sets: what was compared: "natural" (if the domain has natural data), "pretrained", and the designs that no hard
            rule excludes: "steered", or of a tuned model "tuned", beside "steered" and "tuned_without_kl" to compare with.
        excluded: samples left out of the designs since they break a hard rule (reward -inf).
        metrics: of each set, and "gain".
        info: versions, seed, cost, status, seconds.
        curves: of each training, by the name of its set, the looks at the model on the way; see `tune.Curve`.
    """

    folder: Path
    plan: Plan
    samples: Samples
    sets: Mapping[str, Scored]
    excluded: int
    metrics: Mapping[str, Any]
    info: Mapping[str, Any]
    curves: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


def run(plan: Plan, console: Console | None = None) -> Result:
    """Do a job from the first sample to the report, in a new run folder.

    Whatever ends it early, every file there is whole and finished batches are kept.

    Raises:
        KeyboardInterrupt: Ctrl-C twice while steering, or once at another time.
        RewardError: the reward broke its contract.
        StorageError: a file could not be written.
    """
    console = console or _console()
    if plan.compute.threads is not None:
        torch.set_num_threads(plan.compute.threads)
    folder = _folder(plan)
    runs.write_config(folder, plan.config)
    console.print(f"{title(plan)}\n{folder}", highlight=False)
    with _recorded(folder, plan) as info:
        return _run(plan, folder, info, console)


def title(plan: Plan) -> str:
    """The job in a line."""
    domain, reward, method = (plan.names[key] for key in ("domain", "reward", "method"))
    config = plan.config
    return f"{plan.n} x {domain} toward {reward} by {method}, alpha {config['alpha']:g}, seed {config['seed']}"


def _folder(plan: Plan) -> Path:
    """A new run folder, or the one to go on in."""
    resumed = plan.config.get("resume")
    if resumed is not None:
        return Path(resumed).expanduser()
    return runs.create(plan.config["out"], plan.names, plan.config["seed"])


def _run(plan: Plan, folder: Path, info: dict[str, Any], console: Console) -> Result:
    from .report import write_report

    with console.status("sampling the pretrained model"):
        before = pretrained(plan)
        _table(plan.domain, folder / "pretrained.csv", before)
    made = _made(plan, folder, console)
    samples, training = made.samples, dict(made.training)
    with console.status("comparing with natural sequences"):
        sets = _judged(plan, {"pretrained": before, **made.sets})
        _write_samples(plan, folder, samples, sets[plan.designs])
        for name in sets.keys() - {"natural", plan.designs}:
            _table(plan.domain, folder / f"{name}.csv", sets[name])
        excluded = int((~samples.reward.isfinite()).sum())
        sets |= {name: sets[name].rows(_kept(sets[name].reward)) for name in made.sets}
        metrics = compare(plan.domain, sets, plan.designs)
        write_json(folder / runs.METRICS, metrics)
    whole = len(samples) == plan.n and samples.stopped is None and training.get("stopped") is None
    info |= {"status": "finished" if whole else "stopped", "samples": len(samples), "excluded": excluded}
    info |= {"stopped_at_step": samples.stopped, "cost": asdict(samples.cost), "log_z": _finite(samples.log_z)}
    info |= ({"training": training} if training else {}) | {"seconds": _since(info)}
    with console.status("drawing the report"):
        result = Result(folder, plan, samples, sets, excluded, metrics, dict(info), made.curves)
        write_report(result)
    return result


def _made(plan: Plan, folder: Path, console: Console) -> Made:
    """The designs, and whatever else is to be compared."""

    def keep(samples: Samples, scored: Scored) -> None:
        _write_samples(plan, folder, samples, scored)

    if plan.tunes:
        from .tune import make

        return make(plan, folder, console, keep)
    samples, steered = steer(plan, console, keep)
    return Made(samples, {"steered": steered})


def _judged(plan: Plan, given: Mapping[str, Scored]) -> dict[str, Scored]:
    """All sets with their naturalness, natural ones first."""
    generator = stream(plan, "comparison")
    found = natural(plan.domain, plan.config["natural"], generator)
    sets = {} if found is None else {"natural": naturalness(plan, score(plan, found), BACKDROP_DRAWS, generator)}
    return sets | {name: naturalness(plan, each, DRAWS, generator) for name, each in given.items()}


def _kept(reward: torch.Tensor) -> torch.Tensor:
    """bool [n]: samples that no hard rule excludes; where each one is excluded, all, so that there is something to see."""
    finite = reward.isfinite()
    return finite if bool(finite.any()) else ~finite


# --- files ---------------------------------------------------------------------------------------------------------


def _write_samples(plan: Plan, folder: Path, samples: Samples, scored: Scored) -> None:
    """All samples for `tiltflow.load`, and in the field's own formats those that no hard rule excludes."""
    runs.save_samples(folder, samples, scored.columns)
    kept = _kept(samples.reward)
    chosen = samples[kept]
    columns = {"reward": chosen.reward, "log_weight": chosen.log_weight, **scored.rows(kept).columns}
    plan.domain.export(folder, chosen, {**columns, **plan.domain.describe(chosen.x)})


def _table(domain: Domain, path: Path, scored: Scored) -> None:
    """A set of sequences as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = {"reward": scored.reward, **scored.columns}
    writer.writerow([domain.unit, *columns])
    values = (column.tolist() for column in columns.values())
    writer.writerows(zip(domain.codec.decode(scored.x), *values, strict=True))
    write_text(path, buffer.getvalue())


@contextmanager
def _recorded(folder: Path, plan: Plan) -> Iterator[dict[str, Any]]:
    """run.json: what is run, and in the end how it went."""
    info = _facts(plan)
    write_json(folder / runs.INFO, info)
    try:
        yield info
    except KeyboardInterrupt:
        info["status"] = "interrupted"
        raise
    except Exception as error:
        info |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        write_text(folder / "error.txt", traceback.format_exc())
        raise
    finally:
        write_json(folder / runs.INFO, info | {"seconds": _since(info)})


def _facts(plan: Plan) -> dict[str, Any]:
    import numpy

    versions = {"tiltflow": __version__, "torch": torch.__version__, "numpy": numpy.__version__}
    return {
        "kind": "tiltflow run",
        "status": "running",
        "command": plan.command,
        "names": dict(plan.names),
        "seed": plan.config["seed"],
        "model": plan.domain.source,
        "constraints": plan.domain.constraints,
        "forbidden": [list(pair) for pair in plan.forbidden],
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "versions": {**versions, "python": platform.python_version()},
        "device": str(plan.domain.diffusion.device),
        "threads": torch.get_num_threads(),
    }


def _since(info: Mapping[str, Any]) -> float:
    return round((datetime.now().astimezone() - datetime.fromisoformat(info["started"])).total_seconds(), 1)


def _finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout)
