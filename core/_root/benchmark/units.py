"""One run of one method on one task with one seed: how it is run, what is written of it, and whether that is there already."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core.storage import write_json
from ..domains.files import write_text
from ..runs import read_mapping
from ..schema import Builder, ConfigError, Problem

KIND = "tiltflow benchmark record"
TOPS = (1, 10, 100)


@dataclass(frozen=True)
class Unit:
    """What is run.

    Attributes:
        settings: all that decides the record, JSON-ready: benchmark, task, method, seed, calls, the node of the method, and
            what it starts from.
        domain: node of the domain. out: folder of the benchmark. plugins: packages that the nodes may name.
    """

    settings: Mapping[str, Any]
    domain: Mapping[str, Any]
    out: str
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.settings['method']} on {self.settings['task']}, seed {self.settings['seed']}"

    @property
    def record(self) -> Path:
        """The table of calls."""
        return self._file(".csv.gz")

    @property
    def summary(self) -> Path:
        """The numbers; there once the record is whole."""
        return self._file(".json")

    def _file(self, ending: str) -> Path:
        folder = Path(self.out).expanduser() / str(self.settings["method"]) / str(self.settings["task"])
        return folder / f"{self.settings['seed']}{ending}"


def finished(unit: Unit) -> dict[str, Any] | None:
    """What is known of a unit that was run before, or None.

    Raises:
        ConfigError: a summary of other settings, or one that cannot be read.
    """
    if not unit.summary.exists():
        return None
    try:
        found = read_mapping(unit.summary)
    except ValueError as error:
        raise ConfigError([Problem("out", str(error))]) from error
    before, now = found.get("settings", {}), json.loads(json.dumps(unit.settings))
    if before != now:
        told = "; ".join(_differences(before, now))
        text = f"{unit.summary} is of other settings ({told}); choose another out=, or remove that folder"
        raise ConfigError([Problem("out", text)])
    return found


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        inner = [_differences(before.get(k), now.get(k), f"{key}.{k}".strip(".")) for k in keys]
        return [text for texts in inner for text in texts]
    return [] if before == now else [f"{key} was {before!r}, now {now!r}"]


def origin(domain: Any, uses_prior: bool) -> dict[str, str]:
    """What a method starts from, as short hashes: the natural molecules, and the weights of the prior if it uses them."""
    from ..molecules import decode

    tokens = getattr(domain.reference, "tokens", None)
    found = {} if tokens is None else {"natural": _hash("\n".join(decode(tokens)).encode())}
    if uses_prior:
        weights = domain.diffusion.denoiser.state_dict()
        found["prior"] = _hash(b"".join(weights[name].cpu().contiguous().numpy().tobytes() for name in sorted(weights)))
    return found


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def run(unit: Unit, on_round: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Run a unit with one thread, write its record and then its summary, and return that.

    `on_round` is called with the budget after every round of the optimiser.
    """
    from ..rewards.budget import Budget
    from ..rewards.molecules import pmo

    torch.set_num_threads(1)
    settings, plugins = unit.settings, unit.plugins
    domain = _domain(json.dumps(unit.domain), plugins)
    optimiser = build(settings["optimiser"], "optimiser", plugins)
    reward = pmo(settings["task"], budget=Budget(settings["calls"]))
    start = time.monotonic()
    optimiser.run(domain, reward, generator=generator(unit), on_round=on_round)
    assert reward.budget is not None
    calls = reward.budget.calls
    _write_record(unit.record, [(call.number, call.text, call.value) for call in calls])
    numbers = measures([call.value for call in calls], settings["calls"])
    facts = {"kind": KIND, "settings": dict(settings), **numbers, "best": _best(calls)}
    made = {**facts, "seconds": round(time.monotonic() - start, 1), "version": __version__}
    write_json(unit.summary, made)
    return made


def measures(values: Sequence[float], limit: int) -> dict[str, Any]:
    """Calls made and failed, and for the best 1, 10 and 100 the AUC over `limit` calls and the mean at the end.

    NaN counts as 0, as in `top_auc`; a mean of fewer values than asked for is of those there are.
    """
    from ..rewards.budget import top_auc

    best = sorted((0.0 if math.isnan(value) else value for value in values), reverse=True)
    found: dict[str, Any] = {"calls": len(values), "failed": sum(map(math.isnan, values))}
    found |= {f"auc_top{top}": top_auc(values, limit, top) if values else 0.0 for top in TOPS}
    return found | {f"top{top}": sum(best[:top]) / max(1, len(best[:top])) for top in TOPS}


def _best(calls: Sequence[Any]) -> list[dict[str, Any]]:
    """The best ten molecules, the first asked for first among equals."""
    known = [call for call in calls if not math.isnan(call.value)]
    return [{"smiles": c.text, "value": c.value} for c in sorted(known, key=lambda c: -c.value)[:10]]


def generator(unit: Unit) -> torch.Generator:
    """Randomness of its own for every method, task and seed, whatever else is run."""
    parts = [str(unit.settings[key]) for key in ("benchmark", "method", "task", "seed")]
    digest = hashlib.sha256(" ".join(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def build(node: Any, key: str, plugins: Sequence[str]) -> Any:
    """What a node of the configuration stands for. Raises: ConfigError."""
    problems: list[Problem] = []
    made = Builder(tuple(plugins), problems).build(node, key)
    if problems:
        raise ConfigError(problems)
    return made


@lru_cache(maxsize=2)
def _domain(node: str, plugins: tuple[str, ...]) -> Any:
    """Loaded once in each process."""
    return build(json.loads(node), "domain", plugins)


def _write_record(path: Path, rows: Sequence[tuple[int, str, float]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("call", "smiles", "value"), *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, buffer.getvalue(), overwrite=True)


def read_record(path: str | Path) -> list[tuple[str, float]]:
    """The calls of a unit in their order: SMILES and value. Raises: CodecError if it cannot be read."""
    from ..domains.files import read_text

    rows = csv.DictReader(io.StringIO(read_text(path)))
    return [(row["smiles"], float(row["value"])) for row in rows]
