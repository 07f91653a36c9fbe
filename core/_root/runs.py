"""Run folders: made so that no run overwrites another, written so that no file is ever torn, and loaded without trust."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.cost import Cost
from .core.storage import StorageError, load_tensors, save_tensors, write_text
from .core.tilt import Samples

if TYPE_CHECKING:
    from torch import Tensor

    from .core import Tilt
    from .domains import Domain
    from .settings import Plan

KIND = "samples of a run"
CONFIG, INFO, METRICS, SAMPLES = "config.yaml", "run.json", "metrics.json", "samples.safetensors"
MODEL = "tuned.safetensors"  # of a run that tuned: the domain's own kind of model
_OWN = tuple(field.name for field in fields(Samples) if field.name in ("x", "reward", "log_weight"))


def create(out: str | Path, names: Mapping[str, str], seed: int) -> Path:
    """A new folder such as runs/2026-05-01-1730-dna-expression-svdd-s0; one that is there is never taken.

    Raises:
        StorageError: the folder cannot be made.
    """
    parts = [names[key] for key in ("domain", "reward", "method")]
    stem = "-".join([datetime.now().strftime("%Y-%m-%d-%H%M"), *map(_slug, parts), f"s{seed}"])
    return claim(Path(out).expanduser() / stem)


def claim(path: Path) -> Path:
    """Make the folder `path`, or path-2, path-3, ... where it is taken; two processes never get the same one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise StorageError(f"Cannot make {path} ({error.strerror}). Choose another folder with out=.") from error
    raise AssertionError("unreachable")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_")[:40] or "unnamed"


def save_samples(folder: Path, samples: Samples, columns: Mapping[str, Tensor]) -> None:
    """Write all there is about the samples, for `load`: also those that a hard rule excludes.

    Args:
        columns: further numbers `[n]` by name.
    """
    tensors = {name: getattr(samples, name) for name in _OWN}
    tensors |= {f"column.{name}": values for name, values in columns.items()}
    tensors |= {f"trace.{name}": values for name, values in (samples.trace or {}).items()}
    save_tensors(folder / SAMPLES, tensors, {"kind": KIND, "cost": asdict(samples.cost), "stopped": samples.stopped})


def load_samples(folder: Path) -> tuple[Samples, dict[str, Tensor]]:
    """The samples of a run and their further columns.

    Raises:
        FileNotFoundError, StorageError: none there, or not a whole file of ours.
    """
    path = folder / SAMPLES
    tensors, metadata = load_tensors(path, KIND)
    try:
        own = {name: tensors[name] for name in _OWN}
        cost = Cost(**metadata["cost"])
        stopped = metadata["stopped"]
    except (KeyError, TypeError) as error:
        raise StorageError(f"{path} is incomplete ({error}). Run the job again.") from error
    columns, trace = (_under(tensors, prefix) for prefix in ("column.", "trace."))
    numbers = [*columns.values(), own["reward"], own["log_weight"]]
    if any(values.shape != own["x"].shape[:1] for values in numbers):
        raise StorageError(f"{path} holds columns of different lengths. Run the job again.")
    return Samples(**own, cost=cost, trace=trace or None, stopped=stopped), columns


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """The resolved configuration as YAML."""
    import yaml

    write_text(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: where it lies.
        config: the resolved configuration, as it was checked.
        samples: the designs: x `[n, ...]`, reward and log-weight `[n]`, cost, and the trace along the steps.
        columns: further numbers of each design `[n]`: "heldout", "nelbo" (nats per site), "part_..." of a composed reward.
        metrics: figures of the natural, pretrained and steered sets; empty where the run did not get so far.
        info: versions, seed, command, status ("finished", "stopped", "running", ...), seconds.
    """

    folder: Path
    config: dict[str, Any]
    samples: Samples
    columns: dict[str, Tensor]
    metrics: dict[str, Any]
    info: dict[str, Any]

    def plan(self, plugins: Sequence[str] = ()) -> Plan:
        """The checked job again, built from tiltflow and from those packages that you name here.

        A folder may come from anybody, so the plugins that its configuration names count for nothing.

        Raises:
            ConfigError: something that the configuration names is not there, or not to be trusted.
        """
        from .settings import prepare

        # Where the run wrote and on what it ran is of no concern for what it holds.
        here = {"plugins": list(plugins), "out": ".", "compute": {"threads": None, "device": "auto"}, "resume": None}
        return prepare({**self.config, **here})

    def domain(self, plugins: Sequence[str] = ()) -> Domain:
        """The domain of the run: pretrained model, codec, metrics. Raises: ConfigError, as `plan`."""
        return self.plan(plugins).domain

    def tuned(self, plugins: Sequence[str] = ()) -> Domain:
        """The same domain around the model that the run tuned: `run.tuned().diffusion` samples it.

        Raises:
            FileNotFoundError: the run tuned nothing, or did not get so far.
            ConfigError: as `plan`.
        """
        path = self.folder / MODEL
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} holds no {MODEL}: its method steers, or its tuning did not end.")
        return replace(self, config={**self.config, "domain": {**self.config["domain"], "prior": str(path)}}).domain(
            plugins
        )

    def tilt(self, plugins: Sequence[str] = ()) -> Tilt:
        """The problem that the run solved: model, reward, alpha. Raises: ConfigError, as `plan`."""
        return self.plan(plugins).tilt


def load(folder: str | Path) -> Run:
    """What a run folder holds, also one of a run that was stopped or killed. Executes nothing from it.

    Args:
        folder: a run folder such as runs/2026-...; or one that holds run folders, such as runs: then the latest that has
            samples is taken, and a line says which.

    Raises:
        FileNotFoundError: no such folder, or one without samples.
        StorageError: a file that is corrupt or was not written by a run.
    """
    folder = Path(folder).expanduser()
    if not (folder / CONFIG).exists():
        folder = _latest(folder)
    if not (folder / CONFIG).is_file():
        what = "is not a run folder: it has no" if folder.is_dir() else "is no folder; expected one with a"
        raise FileNotFoundError(f"{folder} {what} {CONFIG}. Give one that `tiltflow` printed, such as runs/2026-...")
    config, info = read_mapping(folder / CONFIG), read_mapping(folder / INFO)
    metrics = read_mapping(folder / METRICS) if (folder / METRICS).exists() else {}
    if not (folder / SAMPLES).exists():
        raise FileNotFoundError(f"{folder} holds no samples: its run ended before the first were finished.")
    return Run(folder, config, *load_samples(folder), metrics, info)


def _latest(folder: Path) -> Path:
    """The run in `folder` that started last and has samples; `folder` itself where there is none."""
    found = [path.parent for path in folder.glob(f"*/{SAMPLES}") if (path.parent / CONFIG).is_file()]
    if not found:
        return folder
    newest = max(found, key=_started)
    print(f"tiltflow.load: {newest.name}, the latest of {len(found)} run{'s' * (len(found) > 1)} in {folder}")
    return newest


def _started(folder: Path) -> float:
    """When a run began, in seconds; by the age of its configuration where the run does not say."""
    try:
        return datetime.fromisoformat(read_mapping(folder / INFO)["started"]).timestamp()
    except (StorageError, KeyError, TypeError, ValueError):
        return (folder / CONFIG).stat().st_mtime


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file that holds keys and values."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except FileNotFoundError:
        raise StorageError(f"{path} is missing: not a whole run folder. Copy it again.") from None
    except (OSError, UnicodeDecodeError, RecursionError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise StorageError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Copy the folder again."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise StorageError(f"{path} holds no keys and values: it was not written by tiltflow.")
    return content


def write_comparison(out: Path, header: Sequence[str], body: Sequence[Sequence[str]], names: Sequence[str]) -> Path:
    """The table that compares runs, as CSV in the folder that holds theirs; returns its path, which is new."""
    import csv
    import io

    buffer = io.StringIO()
    rows = ([name, *row] for name, row in zip(names, body, strict=True))
    csv.writer(buffer, lineterminator="\n").writerows([["folder", *header], *rows])
    path = claim(out / f"{datetime.now().strftime('%Y-%m-%d-%H%M')}-comparison") / "comparison.csv"
    write_text(path, buffer.getvalue())
    return path


def merge(parts: Sequence[Samples]) -> Samples:
    """The samples of several batches as one; traces get a column `batch`, and a stop of any counts."""
    import torch

    traces = [{**part.trace, "batch": part.trace["t"] * 0 + i} for i, part in enumerate(parts) if part.trace]
    return replace(
        parts[0],
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in _OWN},
        cost=sum((part.cost for part in parts), Cost()),
        trace={name: torch.cat([trace[name] for trace in traces]) for name in traces[0]} if traces else None,
        stopped=next((part.stopped for part in reversed(parts) if part.stopped is not None), None),
    )
