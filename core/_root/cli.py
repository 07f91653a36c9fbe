"""The command line: arguments to a checked configuration to a job. The only file that imports hydra.

hydra's grammar reads the arguments and its composition puts the chosen files together; what is put into them, and every
complaint, is ours: all problems at once, with suggestions, before anything is run.
"""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import options
from .kinds import TARGET
from .memory import keep_memory
from .schema import ConfigError, Problem, nearest, shown

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from .job import Result
    from .settings import Plan

COMMANDS = ("pretrain", "verify")
BENCHMARK = "benchmark="  # an argument that starts so asks for a benchmark
FLAGS = {"-h": "help", "--help": "help", "help": "help", "-m": "many", "--multirun": "many", "--config": "config"}
FAILED, BAD_CONFIG, INTERRUPTED = 1, 2, 130


@dataclass(frozen=True)
class Composed:
    """A configuration, resolved to plain data, with what the user chose and what is already known to be wrong."""

    config: dict[str, Any]
    choices: dict[str, str]
    arguments: list[str]
    problems: list[Problem] = field(default_factory=list)


def main(argv: Sequence[str]) -> int:
    """Run the command line (without the program's name) and return its exit code.

    0: done; 1: the run failed; 2: the configuration is wrong, nothing was run; 130: interrupted.
    """
    # Threads that wait by spinning slow small networks down many times as soon as a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_memory()
    if argv[:1] == ["verify"]:
        from .verify.command import main as verify

        return verify(argv[1:])
    command = argv[0] if argv and argv[0] in COMMANDS else "design"
    flags, arguments, problems = _sort(argv[command != "design" :])
    if command == "design" and any(argument.startswith(BENCHMARK) for argument in arguments):
        command = "benchmark"
    if "help" in flags:
        print(_HELP[command]())
        return 0
    try:
        if problems:
            raise ConfigError(problems)
        return _RUN[command](arguments, flags)
    except ConfigError as error:
        return _complain(error, command)


def _sort(argv: Sequence[str]) -> tuple[set[str], list[str], list[Problem]]:
    """Flags, arguments key=value, and what is neither."""
    flags = {FLAGS[word] for word in argv if word in FLAGS}
    rest = [word for word in argv if word not in FLAGS]
    strange = [word for word in rest if "=" not in word and not word.startswith("~")]
    known = [*COMMANDS, *FLAGS, *(BENCHMARK + name for name in options.options("benchmark"))]
    problems = [Problem(word or "''", f"expected key=value or a command{nearest(word, known)}") for word in strange]
    return flags, [word for word in rest if word not in strange], problems


def _complain(error: ConfigError, command: str) -> int:
    many = len(error.problems)
    print(f"tiltflow: {many} problem{'s' * (many > 1)} in the configuration, nothing was run", file=sys.stderr)
    for problem in error.problems:
        print("  " + str(problem).replace("\n", "\n    "), file=sys.stderr)
    words = {"pretrain": "pretrain ", "benchmark": "benchmark=pmo "}.get(command, "")
    print(f"See tiltflow {words}--help.", file=sys.stderr)
    return BAD_CONFIG


# --- the main job --------------------------------------------------------------------------------------------------


def _design(arguments: Sequence[str], flags: set[str]) -> int:
    jobs, problems = combinations(arguments, "many" in flags)
    composed = [compose(job) for job in jobs]
    composed[0].problems.extend(problems)
    if "config" in flags:
        _show(composed)
    plans = _plans(composed)
    return 0 if "config" in flags else _run_all(plans)


def _plans(composed: Sequence[Composed]) -> list[Plan]:
    """Every configuration checked before the first is run."""
    from .settings import prepare

    plans, problems = [], list[Problem]()
    shared = set(composed[0].arguments).intersection(*(job.arguments for job in composed))
    for job in composed:
        command = shlex.join(["tiltflow", *job.arguments])
        try:
            plans.append(prepare(job.config, names=job.choices, command=command, problems=job.problems))
        except ConfigError as error:
            where = " ".join(argument for argument in job.arguments if argument not in shared)
            problems += [replace(p, text=f"{p.text} [{where}]") if where else p for p in error.problems]
    if problems:
        raise ConfigError(problems)
    return plans


def _show(composed: Sequence[Composed]) -> None:
    import yaml

    for job in composed:
        print(yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True))


def _run_all(plans: Sequence[Plan]) -> int:
    from rich.console import Console

    from . import job, summary

    console, results = Console(), list[Any]()
    for number, plan in enumerate(plans, 1):
        if len(plans) > 1:
            console.print(f"\n{number} of {len(plans)}", highlight=False)
        result = _guarded(job, plan, console)
        if isinstance(result, int):
            return result
        console.print(summary.table(result))
        for warning in summary.warnings(result):
            console.print(f"note: {warning}", style="yellow", highlight=False)
        console.print(f"report: {result.folder / 'report.html'}", highlight=False, soft_wrap=True)
        results.append(result)
        if result.info["status"] == "stopped":
            break
    if len(plans) > 1:
        _compare(results, console)
    return 0


def _guarded(job: Any, plan: Plan, console: Any) -> Result | int:
    """The result of a run, or the exit code of one that failed, after a word on what is left."""
    try:
        return job.run(plan, console)
    except KeyboardInterrupt:
        print("tiltflow: interrupted; what was finished is in the run folder", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # a user's reward may fail in any way; the traceback lies in the run folder
        text = f"{type(error).__name__}: {error}"
        print(
            f"tiltflow: the run failed: {text}\nThe run folder holds error.txt and what was finished.", file=sys.stderr
        )
        return FAILED


def _compare(results: Sequence[Result], console: Any) -> None:
    """The table at the end of several runs, also as a file beside their folders."""
    from rich.table import Table

    from . import runs, summary

    header, body = summary.comparison(results)
    table = Table(box=None, pad_edge=False, title="designs of each run", title_justify="left")
    for index, word in enumerate(header):
        table.add_column(word, justify="right" if index else "left", no_wrap=not index)
    for row in body:
        table.add_row(*row)
    console.print("", table)
    path = runs.write_comparison(results[0].folder.parent, header, body, [result.folder.name for result in results])
    console.print(f"table: {path}", highlight=False, soft_wrap=True)


def _pretrain(arguments: Sequence[str], flags: set[str]) -> int:
    from rich.console import Console

    from .pretrain import prepare, run

    (only,), problems = combinations(arguments, False)
    file, part = "pretrain", ""
    if "domain=molecules" in only:
        part = "properties" if "part=properties" in only else "molecules"
        file = f"pretrain_{part}"
    composed = compose(only, file)
    part = composed.choices.get("part", part)
    try:
        return run(prepare(composed.config, part, [*problems, *composed.problems]), Console())
    except KeyboardInterrupt:
        left = "the same command goes on from its last checkpoint, or begins again where there is none"
        print(f"tiltflow: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED


def _benchmark(arguments: Sequence[str], flags: set[str]) -> int:
    from rich.console import Console

    from .benchmark.command import run
    from .benchmark.plan import optimisers, prepare

    (only,), problems = combinations(arguments, False)
    if "many" in flags:
        problems.append(
            Problem("-m", "a benchmark runs all its methods, tasks and seeds: list them, as in tasks=[a,b]")
        )
    composed = compose(only, "benchmark", {"optimiser": optimisers()})
    if "config" in flags:
        _show([composed])
    command = shlex.join(["tiltflow", *arguments])
    plan = prepare(composed.config, composed.choices["benchmark"], [*problems, *composed.problems], command)
    try:
        return 0 if "config" in flags else run(plan, Console())
    except KeyboardInterrupt:
        print("tiltflow: interrupted; the same command goes on with the runs that are not finished", file=sys.stderr)
        return INTERRUPTED


_RUN: dict[str, Callable[[Sequence[str], set[str]], int]] = {
    "design": _design,
    "pretrain": _pretrain,
    "benchmark": _benchmark,
}
_HELP = {"design": options.design_help, "pretrain": options.pretrain_help, "benchmark": options.benchmark_help}


# --- composing -----------------------------------------------------------------------------------------------------


def compose(arguments: Sequence[str], name: str = "design", further: Mapping[str, Any] | None = None) -> Composed:
    """Put the chosen files of `tiltflow.configs` together and apply the values that were given.

    Args:
        arguments: key=value each, without sweeps.
        name: the file that holds the defaults.
        further: keys that come from no choice, before any value is applied.
    """
    from omegaconf import OmegaConf

    parsed, problems = _parse(arguments)
    chosen = options.defaults(name)
    known = {group: options.options(group) for group in chosen}
    picks = [override for override in parsed if override.key_or_group in known and _is_pick(override)]
    wrong = {pick.key_or_group for pick in picks if pick.value() not in known[pick.key_or_group]}
    problems += [_unknown_option(pick, known[pick.key_or_group]) for pick in picks if pick.key_or_group in wrong]
    right = {pick.key_or_group: str(pick.value()) for pick in picks if pick.key_or_group not in wrong}
    fitting = options.usual(right.get("domain", "")) if name == "design" else {}
    choices = {**chosen, **fitting, **right}
    config = OmegaConf.create(_files(name, tuple(choices.items())))
    config.update(further or {})
    # What belongs to a choice that does not exist cannot be judged.
    values = [override for override in parsed if override not in picks and _root(override) not in wrong]
    for override in sorted(values, key=lambda override: not override.key_or_group.endswith(TARGET)):
        problems += _apply(config, override)
    return Composed(_plain(config, problems), choices, list(arguments), problems)


def _is_pick(override: Override) -> bool:
    """Whether a key that is a group is given the name of an option, and not a value."""
    return isinstance(override.value(), str) and override.package is None


def _root(override: Override) -> str:
    return override.key_or_group.split(".")[0]


@lru_cache(maxsize=64)
def _files(name: str, choices: tuple[tuple[str, str], ...]) -> DictConfig:
    """hydra's composition of a file and the chosen options. Do not change it: it is remembered."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("tiltflow.configs", version_base="1.3"):
        config = hydra_compose(name, [f"{group}={option}" for group, option in choices])
    OmegaConf.set_struct(config, False)
    return config


def _parse(arguments: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed, problems = OverridesParser.create(), [], []
    for argument in arguments:
        try:
            parsed.append(parser.parse_override(argument))
        except HydraException as error:
            problems.append(Problem(shown(argument), f"cannot be read ({_line(error)}). {_QUOTES}"))
    return parsed, problems


_QUOTES = "Quote texts with special characters twice: 'key=\"text\"'."


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unknown_option(override: Override, known: Mapping[str, str]) -> Problem:
    option = str(override.value())
    return Problem(
        override.key_or_group, f"no choice {shown(option)}{nearest(option, known)} (there are: {', '.join(known)})"
    )


def _apply(config: DictConfig, override: Override) -> list[Problem]:
    """Put one value where it belongs. Whether the key exists is judged later, against the signature it goes to."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    key = override.key_or_group
    if override.package is not None or not key.strip(".") or "/" in key:
        return [Problem(shown(override.input_line), "expected key=value, such as method.candidates=8")]
    try:
        if override.is_delete():
            return _delete(config, key)
        if key.endswith(f".{TARGET}") and OmegaConf.select(config, key) != override.value():
            OmegaConf.update(config, key.removesuffix(f".{TARGET}"), {}, merge=False)  # another class, other keys
        OmegaConf.update(config, key, override.value(), merge=False, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        return [Problem(key, f"cannot be set to {shown(override.value())} ({_line(error)})")]
    return []


def _delete(config: DictConfig, key: str) -> list[Problem]:
    from omegaconf import OmegaConf

    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not OmegaConf.is_dict(node) or name not in node:
        return [Problem(f"~{key}", "there is no such key to remove")]
    del node[name]
    return []


def _plain(config: DictConfig, problems: list[Problem]) -> dict[str, Any]:
    """The resolved configuration; references that lead nowhere become problems, and null."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    while True:
        try:
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
            assert isinstance(plain, dict)
            return {str(key): value for key, value in plain.items()}
        except OmegaConfBaseException as error:
            key = str(error.full_key or "")
            problems.append(Problem(key or "configuration", _line(error)))
            if not key:
                return {}
            OmegaConf.update(config, key, None, merge=False)


def combinations(arguments: Sequence[str], many: bool) -> tuple[list[list[str]], list[Problem]]:
    """The arguments of each run: with `many` one for each combination of the values that were listed, else a single one.

    Arguments that cannot be read are kept for `compose` to complain about; lists that cannot be run through are left out.
    """
    parsed, _ = _parse(arguments)
    sweeps = {str(override.input_line): override for override in parsed if override.is_sweep_override()}
    problems: list[Problem] = []
    choices = [_alternatives(sweeps[a], many, problems) if a in sweeps else [a] for a in arguments]
    return [list(each) for each in itertools.product(*filter(None, choices))], problems


def _alternatives(override: Override, many: bool, problems: list[Problem]) -> list[str]:
    """The single values of a list of values; none, and a problem, where it cannot be run through."""
    from hydra.errors import HydraException

    if not many:
        quoted = f"'{override.key_or_group}=\"a,b\"'"
        text = (
            f"several values in {shown(override.input_line)}; -m makes a run for each (a text with a comma: {quoted})"
        )
        problems.append(Problem(override.key_or_group, text))
        return []
    try:
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except HydraException as error:
        problems.append(Problem(override.key_or_group, _line(error)))
        return []
