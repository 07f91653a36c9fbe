"""The main job: sample the pretrained model, steer it, compare both with natural data, and fill a run folder."""

from __future__ import annotations

import csv
import hashlib
import io
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import __version__, runs
from .core.observers import Progress, Trace
from .core.storage import write_json, write_text
from .core.tilt import Samples
from .interrupt import Stop
from .scores import Scored, compare, natural, naturalness, score

if TYPE_CHECKING:
    from rich.console import Console

    from .domains import Domain
    from .settings import Plan

DRAWS, BACKDROP_DRAWS = 16, 8  # noise levels behind the NELBO of a sequence; natural ones are many and only a backdrop
AT_ONCE = 64  # pretrained samples drawn together
PATIENCE = 5.0  # seconds between two writings of the finished batches: each writes them all


@dataclass(frozen=True)
class Result:
    """A finished job.

    Attributes:
        samples: all that were drawn.
        sets: what was compared: "natural" (if the domain has natural data), "pretrained", and "steered", the samples that
            no hard rule excludes.
        excluded: samples left out of "steered" since they break a hard rule (reward -inf).
        metrics: of each set, and "gain".
        info: versions, seed, cost, status, seconds.
    """

    folder: Path
    plan: Plan
    samples: Samples
    sets: Mapping[str, Scored]
    excluded: int
    metrics: Mapping[str, Any]
    info: Mapping[str, Any]


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
    folder = runs.create(plan.config["out"], plan.names, plan.config["seed"])
    runs.write_config(folder, plan.config)
    console.print(f"{title(plan)}\n{folder}", highlight=False)
    with _recorded(folder, plan) as info:
        return _run(plan, folder, info, console)


def title(plan: Plan) -> str:
    """The job in a line."""
    domain, reward, method = (plan.names[key] for key in ("domain", "reward", "method"))
    config = plan.config
    return f"{plan.n} x {domain} toward {reward} by {method}, alpha {config['alpha']:g}, seed {config['seed']}"


def _run(plan: Plan, folder: Path, info: dict[str, Any], console: Console) -> Result:
    from .report import write_report

    with console.status("sampling the pretrained model"):
        pretrained = _pretrained(plan)
        _table(plan.domain, folder / "pretrained.csv", pretrained)
    samples, steered = _steer(plan, folder, console)
    with console.status("comparing with natural sequences"):
        sets = _judged(plan, pretrained, steered)
        _table(plan.domain, folder / "pretrained.csv", sets["pretrained"])
        _write_samples(plan, folder, samples, sets["steered"])
        sets["steered"] = sets["steered"].rows(_kept(steered.reward))
        metrics = compare(plan.domain, sets)
        write_json(folder / runs.METRICS, metrics)
    info |= {"status": "finished" if len(samples) == plan.n and samples.stopped is None else "stopped"}
    info |= {
        "samples": len(samples),
        "excluded": int((~steered.reward.isfinite()).sum()),
        "stopped_at_step": samples.stopped,
    }
    info |= {"cost": asdict(samples.cost), "log_z": _finite(samples.log_z), "seconds": _since(info)}
    with console.status("drawing the report"):
        result = Result(folder, plan, samples, sets, info["excluded"], metrics, dict(info))
        write_report(result)
    return result


def _pretrained(plan: Plan) -> Scored:
    """Unguided samples with their rewards; their number is a key of its own, since a median of few is far off."""
    generator, diffusion = stream(plan, "pretrained"), plan.domain.diffusion
    n = int(plan.config["pretrained"])
    sizes = [min(AT_ONCE, n - start) for start in range(0, n, AT_ONCE)]
    pieces = [diffusion.sample(size, generator=generator) for size in sizes]
    return score(plan, torch.cat(pieces))


def _steer(plan: Plan, folder: Path, console: Console) -> tuple[Samples, Scored]:
    """The designs, batch by batch; what is finished is on disk at the latest when this ends, however it ends."""
    generator, done, written = stream(plan, "steering"), list[Samples](), 0.0
    scored: list[Scored] = []
    pending = False
    try:
        with Stop(console.print) as stop:
            for size in plan.batches:
                if stop.asked:
                    break
                done.append(_batch(plan, size, len(done), generator, stop))
                scored.append(score(plan, done[-1].x, done[-1].reward))
                pending = time.monotonic() - written < PATIENCE
                if not pending:
                    _write_samples(plan, folder, *_ranked(done, scored))
                    written = time.monotonic()
    finally:
        if pending:
            _write_samples(plan, folder, *_ranked(done[: len(scored)], scored))
    return _ranked(done, scored)


def _ranked(done: list[Samples], scored: list[Scored]) -> tuple[Samples, Scored]:
    """All batches as one, the highest reward first."""
    samples, together = runs.merge(done), _merge(scored)
    order = samples.reward.argsort(descending=True, stable=True)
    return samples[order], together.rows(order)


def _batch(plan: Plan, size: int, index: int, generator: torch.Generator, stop: Stop) -> Samples:
    count = len(plan.batches)
    progress = Progress("steering" if count == 1 else f"steering {index + 1}/{count}")
    try:
        samples = plan.method.sample(plan.tilt, size, generator=generator, observe=[Trace(), progress, stop])
    finally:
        progress.close()
    moved = {name: getattr(samples, name).cpu() for name in ("x", "reward", "log_weight")}
    return replace(samples, **moved)


def _judged(plan: Plan, pretrained: Scored, steered: Scored) -> dict[str, Scored]:
    """All sets with their naturalness."""
    generator = stream(plan, "comparison")
    found = natural(plan.domain, plan.config["natural"], generator)
    sets = {} if found is None else {"natural": naturalness(plan, score(plan, found), BACKDROP_DRAWS, generator)}
    for name, each in (("pretrained", pretrained), ("steered", steered)):
        sets[name] = naturalness(plan, each, DRAWS, generator)
    return sets


def _kept(reward: torch.Tensor) -> torch.Tensor:
    """bool [n]: samples that no hard rule excludes; where each one is excluded, all, so that there is something to see."""
    finite = reward.isfinite()
    return finite if bool(finite.any()) else ~finite


def _merge(pieces: list[Scored]) -> Scored:
    def joined(name: str) -> Any:
        values = [getattr(piece, name) for piece in pieces]
        return None if values[0] is None else torch.cat(values)

    parts = [piece.parts for piece in pieces if piece.parts is not None]
    merged = {name: torch.cat([each[name] for each in parts]) for name in parts[0]} if parts else None
    return Scored(joined("x"), joined("reward"), joined("heldout"), joined("nelbo"), merged)


def stream(plan: Plan, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose, so that more draws for one change nothing for the others."""
    digest = hashlib.sha256(f"{plan.config['seed']} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


# --- files ---------------------------------------------------------------------------------------------------------


def _write_samples(plan: Plan, folder: Path, samples: Samples, scored: Scored) -> None:
    """All samples for `tiltflow.load`, and in the field's own formats those that no hard rule excludes."""
    runs.save_samples(folder, samples, scored.columns)
    kept = _kept(samples.reward)
    chosen = samples[kept]
    columns = {"reward": chosen.reward, "log_weight": chosen.log_weight, **scored.rows(kept).columns}
    plan.domain.export(folder, chosen, columns)


def _table(domain: Domain, path: Path, scored: Scored) -> None:
    """A set of sequences as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = {"reward": scored.reward, **scored.columns}
    writer.writerow(["sequence", *columns])
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
