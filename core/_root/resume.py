"""What tuning asks for before it starts, and whether a stopped tuning can be gone on with."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .schema import Problem, shown

#: Keys that may differ when a run is resumed: they change where and on what it runs, or nothing that was done.
FREE = ("resume", "out", "compute", "plugins")


def tuning_problems(parts: Mapping[str, Any], config: Mapping[str, Any], ban: object) -> list[Problem]:
    """What is wrong with a job that tunes; with one that steers, only that it cannot be resumed.

    Args:
        parts: what was built. ban: the rule of forbidden sites, if any.
    """
    from .core.tuning import Tuning

    folder = parts.get("resume")
    if not isinstance(parts.get("method"), Tuning):
        steers = "only tuning can be resumed, and this method steers: leave it out and run again"
        return [Problem("resume", steers)] if folder is not None and "method" in parts else []
    problems = []
    if importlib.util.find_spec("lightning_fabric") is None:
        problems.append(Problem("method", "tuning needs lightning-fabric: pip install 'tiltflow[tune]'"))
    problems += _adapter_problems(parts)
    if ban is not None:
        text = (
            "a rule that excludes has no gradient: tune without it, then steer the tuned model under it "
            "(domain.prior=runs/.../tuned.safetensors)"
        )
        problems.append(Problem("domain.forbidden", text))
    if "domain" in parts and parts["domain"].save is None:
        problems.append(
            Problem("domain", "this domain cannot write a model to a file, so that a tuned one would be lost")
        )
    return problems + ([] if folder is None else _unlike(Path(folder).expanduser(), config))


def _adapter_problems(parts: Mapping[str, Any]) -> list[Problem]:
    """Whether the adapter fits the domain's network."""
    from .core.denoiser import innermost

    adapter = parts["method"].adapter
    if adapter is None or "domain" not in parts:
        return []
    try:
        adapter.check(innermost(parts["domain"].diffusion.denoiser).network)
    except (ValueError, ModuleNotFoundError) as error:
        return [Problem("method.adapter", str(error))]
    return []


def _unlike(folder: Path, config: Mapping[str, Any]) -> list[Problem]:
    """Whether the run in `folder` was told anything else than this one."""
    from .runs import CONFIG, read_mapping

    if not (folder / CONFIG).is_file():
        return [Problem("resume", f"{folder} is not a run folder: it has no {CONFIG}")]
    try:
        before = read_mapping(folder / CONFIG)
    except ValueError as error:
        return [Problem("resume", str(error))]
    keys = [key for key in {**before, **config} if key not in FREE and before.get(key) != config.get(key)]
    told = "; ".join(f"{key} was {shown(before.get(key))}, now {shown(config.get(key))}" for key in keys)
    return [Problem("resume", f"{folder} was run with other keys: {told}")] if keys else []
