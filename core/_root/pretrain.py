"""`tiltflow pretrain`: train a prior, oracles or reference statistics on public data or on a user's own sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dna import ALPHABET
from .domains.dna.data import SOURCE
from .domains.molecules.data import SOURCE as MOLECULES
from .molecule_parts import MoleculePrior, MoleculeProperties
from .oracles import Oracles
from .parts import SHIPPED, Part, Prior, Statistics
from .schema import BROKEN, Builder, ConfigError, Problem, explain, shown
from .settings import writable

if TYPE_CHECKING:
    from rich.console import Console

#: Keys for `sequences=` alone, and their defaults.
OWN_ONLY: dict[str, Any] = {
    "labels": [],
    "motifs": SHIPPED,
    "relatives": True,
    "prefix": "",
    "suffix": "",
    "ambiguous": "error",
    "wrong_length": "error",
    "flanks": "error",
}
AnyPart = Part | MoleculePrior | MoleculeProperties
PARTS: dict[str, type[AnyPart]] = {
    "prior": Prior,
    "oracles": Oracles,
    "reference": Statistics,
    "molecules": MoleculePrior,
    "properties": MoleculeProperties,
}


def prepare(config: Mapping[str, Any], part: str, problems: Sequence[Problem] = ()) -> AnyPart:
    """Check and build what a configuration asks for.

    Raises:
        ConfigError: all problems at once.
    """
    found = list(problems)
    known = frozenset(problem.key for problem in found)
    built = Builder((), found, known).arguments(PARTS[part], config)
    good = {name: value for name, value in built.items() if value is not BROKEN}
    check = {"molecules": _molecules_together, "properties": _properties_together}.get(part, _together)
    found += [problem for problem in check(good, PARTS[part].targets) if problem.key not in known]
    if found:
        raise ConfigError(found)
    return PARTS[part](**good)


def _together(good: Mapping[str, Any], targets: Sequence[str]) -> list[Problem]:
    """What the keys must fulfil among each other."""
    found = _common(good, targets)
    if {"data_dir", "sequences"} <= good.keys():
        found += _data(good["data_dir"], good["sequences"])
        found += _own_only(good)
    return found


def _molecules_together(good: Mapping[str, Any], targets: Sequence[str]) -> list[Problem]:
    """The same for molecules, which need no file: those in the rdkit wheel are always there."""
    found = _common(good, targets)
    data_dir, sequences = good.get("data_dir"), good.get("sequences")
    if data_dir is not None and sequences is not None:
        found.append(
            Problem("data_dir", "sequences is given too; expected one of them, or neither for rdkit's molecules")
        )
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        found.append(Problem("data_dir", f"{shown(data_dir)} is not a folder. {MOLECULES}"))
    if sequences is not None and not Path(sequences).expanduser().is_file():
        found.append(Problem("sequences", f"{shown(sequences)} is not a file; expected SMILES, CSV or SDF"))
    return found


def _properties_together(good: Mapping[str, Any], targets: Sequence[str]) -> list[Problem]:
    """The same for measured properties, which need the public tables."""
    from .rewards.molecules.property_training import SOURCES

    found, folder = _common(good, targets), good.get("data_dir")
    if "data_dir" in good and (folder is None or not Path(folder).expanduser().is_dir()):
        came = "nothing given" if folder is None else f"{shown(folder)} is not a folder"
        tables = " ".join(f"{each.file}: {each.text}." for each in SOURCES.values())
        found.append(Problem("data_dir", f"{came}; expected the folder of the public tables. {tables}"))
    return found


def _common(good: Mapping[str, Any], targets: Sequence[str]) -> list[Problem]:
    """What holds for the keys that every part has."""
    found = writable(good.get("out"))
    if not 0 < good.get("held_out", 0.1) < 1:
        found.append(Problem("held_out", f"{good['held_out']}; expected a fraction between 0 and 1"))
    if good.get("threads") is not None and good["threads"] < 1:
        found.append(Problem("threads", f"{good['threads']}; expected at least 1, or null for torch's default"))
    there = [name for name in targets if "out" in good and (Path(good["out"]).expanduser() / name).exists()]
    if there:
        found.append(
            Problem("out", f"{good['out']} holds {' and '.join(there)} already; remove it or choose another folder")
        )
    return found


def _own_only(good: Mapping[str, Any]) -> list[Problem]:
    """Keys that say more about the user's own sequences, and have no meaning beside the public data."""
    if good["sequences"] is None:
        given = [key for key, default in OWN_ONLY.items() if good.get(key, default) != default]
        return [Problem(key, "the public data bring their own; only for sequences=") for key in given]
    missing = "labels" in good and not good["labels"]
    text = "none given; expected the columns of numbers to learn, such as [activity]"
    return [Problem("labels", text)] * missing + _flanks(good) + _motifs(good.get("motifs"))


def _flanks(good: Mapping[str, Any]) -> list[Problem]:
    given = [key for key in ("prefix", "suffix") if set(good.get(key, "").upper()) - set(ALPHABET)]
    return [Problem(key, f"{shown(good[key])}; expected letters {ALPHABET}") for key in given]


def _motifs(name: str | None) -> list[Problem]:
    if name in (None, SHIPPED) or Path(str(name)).expanduser().is_file():
        return []
    text = (
        f"{shown(name)} is not a file; expected position frequency matrices, {SHIPPED} for those of tiltflow, or null"
    )
    return [Problem("motifs", text)]


def _data(data_dir: str | None, sequences: str | None) -> list[Problem]:
    if (data_dir is None) == (sequences is None):
        came = "nothing" if data_dir is None else "both"
        text = f"{came} given; expected the folder of the public data, or sequences=<a file of your own>. {SOURCE}"
        return [Problem("data_dir", text)]
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        return [Problem("data_dir", f"{shown(data_dir)} is not a folder. {SOURCE}")]
    if sequences is not None and not Path(sequences).expanduser().is_file():
        return [Problem("sequences", f"{shown(sequences)} is not a file; expected FASTA or CSV")]
    return []


def run(part: AnyPart, console: Console) -> int:
    """Make it; the exit code is 0. What is wrong with the data is told like what is wrong with the configuration.

    Raises:
        ConfigError: data that are missing or cannot be read.
        KeyboardInterrupt: Ctrl-C; the same command goes on from the last validation.
    """
    import torch

    if part.threads is not None:
        torch.set_num_threads(part.threads)
    try:
        part.make(console)
    except (ValueError, OSError) as error:
        key = "sequences" if part.sequences else "data_dir"
        raise ConfigError([Problem(key, explain(error))]) from error
    return 0
