"""What `tiltflow benchmark=pmo` can be told: its keys, what they must fulfil, and the units of work that they stand for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import options
from ..schema import BROKEN, Builder, ConfigError, Problem, check_plugins, nearest, shown
from ..settings import writable
from .units import Unit, finished, origin

#: The keys of a benchmark that are no groups, and what each means.
KEYS = {
    "methods": "optimisers, such as [graph_ga,svdd]; each has its settings under optimiser.<name>",
    "tasks": "which tasks, such as [qed,median1], or all",
    "calls": "how many different molecules may be scored in a run; published numbers are for 10000",
    "seeds": "runs of each method on each task: how many, or which, such as [3,4]",
    "workers": "processes, each with one thread",
    "steps": "denoising steps of the domain",
    "out": "folder of the records and the report; runs that are finished there are not done again",
    "plugins": "your packages whose optimisers a configuration may name, such as [mypackage]",
}
ALL = "all"


@dataclass(frozen=True)
class Benchmark:
    """All keys of a benchmark, with their types. `domain` is a node, `optimiser` has one by the name of each method."""

    methods: list[str] | str
    tasks: list[str] | str
    calls: int
    seeds: int | list[int]
    workers: int
    steps: int
    domain: Any
    optimiser: dict[str, Any]
    out: str
    plugins: list[str]


@dataclass(frozen=True)
class Plan:
    """A checked benchmark.

    Attributes:
        name: which one. methods, tasks, seeds: in the order of the tables.
        units: all runs. done: the summaries of those that are finished, by the unit's name.
    """

    name: str
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    calls: int
    workers: int
    out: Path
    units: tuple[Unit, ...]
    done: Mapping[str, Mapping[str, Any]]
    command: str = ""


def known_tasks() -> tuple[str, ...]:
    """Tasks of the benchmark in their order."""
    from ..rewards.molecules import PMO

    return PMO


def optimisers() -> dict[str, Any]:
    """The nodes of the optimisers that come with tiltflow, by name: one for each file of `configs/optimiser`."""
    return {name: options.read(f"optimiser/{name}") for name in options.options("optimiser")}


def prepare(config: Mapping[str, Any], name: str, problems: Sequence[Problem] = (), command: str = "") -> Plan:
    """Check a configuration, and look at what is finished.

    Raises:
        ConfigError: all problems at once.
    """
    found = list(problems)
    plugins = config.get("plugins")
    trusted = tuple(p for p in plugins if isinstance(p, str)) if isinstance(plugins, list) else ()
    built = Builder(trusted, found, frozenset(problem.key for problem in found)).arguments(Benchmark, config)
    good = {key: value for key, value in built.items() if value is not BROKEN}
    found += check_plugins(trusted) + _numbers(good) + writable(good.get("out")) + _installed()
    methods = _names(good, "methods", list(config.get("optimiser") or ()), found)
    tasks = _names(good, "tasks", known_tasks(), found)
    found += _objects(good, methods) + _unused(config, methods)
    if found:
        raise ConfigError(found)
    seeds = good["seeds"] if isinstance(good["seeds"], list) else list(range(good["seeds"]))
    units = []
    for method in methods:
        node, start = config["optimiser"][method], _origin(good, method, config)
        for task in tasks:
            own = {
                "benchmark": name,
                "method": method,
                "task": task,
                "calls": good["calls"],
                "optimiser": node,
                **start,
            }
            units += [Unit({**own, "seed": seed}, config["domain"], good["out"], trusted) for seed in seeds]
    out = Path(good["out"]).expanduser()
    numbers = good["calls"], good["workers"]
    return Plan(name, methods, tasks, tuple(seeds), *numbers, out, tuple(units), _done(units), command)


def _origin(good: Mapping[str, Any], method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides about a method's record beside its own settings: its domain, or only the natural molecules of it."""
    uses_prior = bool(getattr(good["optimiser"][method], "uses_prior", True))
    hashes = origin(good["domain"], uses_prior)
    return {"domain": config["domain"], "origin": hashes} if uses_prior else {"origin": hashes}


def _done(units: Sequence[Unit]) -> dict[str, Mapping[str, Any]]:
    """The finished ones. Raises: ConfigError of the first problem, with a count of the others."""
    done, problems = dict[str, Mapping[str, Any]](), list[Problem]()
    for unit in units:
        try:
            summary = finished(unit)
        except ConfigError as error:
            problems += error.problems
        else:
            if summary is not None:
                done[unit.name] = summary
    if problems:
        more = f"; and {len(problems) - 1} more such files" if len(problems) > 1 else ""
        raise ConfigError([Problem(problems[0].key, problems[0].text + more)])
    return done


def _numbers(good: Mapping[str, Any]) -> list[Problem]:
    least = {"calls": 1, "workers": 1, "steps": 1}
    found = [
        Problem(key, f"{good[key]}; expected a whole number of at least {low}")
        for key, low in least.items()
        if key in good and good[key] < low
    ]
    seeds = good.get("seeds", 1)
    wrong = [seed for seed in seeds if seed < 0] if isinstance(seeds, list) else []
    if wrong or seeds in (0, []) or (isinstance(seeds, int) and seeds < 0):
        found.append(Problem("seeds", f"{seeds}; expected how many, at least 1, or a list of whole numbers from 0"))
    elif isinstance(seeds, list) and len(set(seeds)) < len(seeds):
        found.append(Problem("seeds", f"{seeds}; expected each seed once"))
    return found


def _names(good: Mapping[str, Any], key: str, known: Sequence[str], found: list[Problem]) -> tuple[str, ...]:
    """The names that a key lists, each once; what is not known goes to `found`."""
    if key not in good:
        return ()
    given = [good[key]] if isinstance(good[key], str) else list(good[key])
    if given == [ALL] and key == "tasks":
        return tuple(known)
    for word in given:
        if word not in known:
            there = ", ".join(known)
            found.append(Problem(key, f"no {key[:-1]} {shown(word)}{nearest(word, known)} (there are: {there})"))
    if not given:
        found.append(Problem(key, f"none; expected one or more of {', '.join(known)}"))
    return tuple(dict.fromkeys(word for word in given if word in known))


def _objects(good: Mapping[str, Any], methods: Sequence[str]) -> list[Problem]:
    """What the nodes stand for must be a domain of molecules, and optimisers."""
    from ..domains import Domain

    found = []
    domain = good.get("domain")
    if "domain" in good and not (isinstance(domain, Domain) and domain.name == "molecules"):
        found.append(Problem("domain", f"{shown(getattr(domain, 'name', domain))}; expected molecules, or one like it"))
    for name in methods:
        made = good.get("optimiser", {}).get(name)
        if made is not None and not callable(getattr(made, "run", None)):
            text = "expected an optimiser, such as tiltflow.domains.molecules.optimise.GraphGA"
            found.append(Problem(f"optimiser.{name}", f"{shown(made)}; {text}"))
    return found


def _unused(config: Mapping[str, Any], methods: Sequence[str]) -> list[Problem]:
    """Settings of methods that are not run: most likely a slip."""
    given, own = config.get("optimiser"), optimisers()
    if not isinstance(given, Mapping) or not methods:
        return []
    idle = [name for name in given if name not in methods and given[name] != own.get(name)]
    return [Problem(f"optimiser.{n}", f"is set, but methods has no {n}{nearest(n, methods)}") for n in idle]


def _installed() -> list[Problem]:
    if importlib.util.find_spec("selfies") is not None:
        return []
    return [Problem("benchmark", "molecules need selfies: pip install 'tiltflow[molecules]'")]
