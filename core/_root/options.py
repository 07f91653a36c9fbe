"""The choices that come with tiltflow, read from `tiltflow.configs` without hydra, and the help text made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from textwrap import wrap
from typing import Any

from . import __version__, settings
from .kinds import TARGET

GROUPS = ("domain", "reward", "method", "value", "compute", "tune")
_USAGE = """\
tiltflow {version}: steer a diffusion model toward a reward, p*(x) ~ p(x) exp(reward(x) / alpha)

usage
  tiltflow [key=value ...]           the main job; with no key: 64 yeast promoters of high expression by SVDD
  tiltflow -m key=a,b ... [...]      a run for each combination, and a table that compares them
  tiltflow --config [key=value ...]  print the whole configuration, check it, and stop
  tiltflow pretrain key=value ...    train a model, oracles or reference statistics (tiltflow pretrain --help)
  tiltflow verify [--fast ...]       how exact is each method? (tiltflow verify --help)
  tiltflow benchmark=pmo [...]       how far does each optimiser of molecules get? (tiltflow benchmark=pmo --help)
  tiltflow --version

examples
  tiltflow reward=expression method=svdd method.candidates=8 n=64 seed=1
  tiltflow reward=target reward.level=12 domain.template="N20 TATAWAW N*" domain.forbidden=[BsaI]
  tiltflow -m method=best_of_n,svdd,smc
  tiltflow method=drakes             tune the model instead; its file is runs/.../tuned.safetensors
  tiltflow domain.prior=runs/.../tuned.safetensors    use the tuned model as any other
  tiltflow domain=molecules domain.scaffold="*c1ccccc1" reward=blackbox reward.function=mypackage.score plugins=[mypackage] \
    reward.decode=tiltflow.molecules.decode reward.alphabet=null   drug-like molecules, by your own score of their SMILES
"""
_NOTES = """\
Each run makes a folder in `out` with the designs (FASTA or SDF, CSV), figures and report.html; none is ever overwritten.
Ctrl-C finishes what is under way and reports it; a second one aborts and keeps the finished batches.
Where other programs use the same cores, OMP_NUM_THREADS=1 or OMP_WAIT_POLICY=PASSIVE (set by default) keeps torch quick.
"""

_PRETRAIN_USAGE = """\
tiltflow pretrain key=value ...: train what designs are made with

examples
  tiltflow pretrain part=prior data_dir=data                                 the shipped model
  tiltflow pretrain part=prior sequences=mine.fasta out=models training.steps=2000   your own
  tiltflow domain.prior=models/prior.safetensors                             then design with it
  tiltflow pretrain part=oracles sequences=measured.csv labels=[activity] prefix=ACTG suffix=CGGA wrong_length=skip
  tiltflow pretrain domain=molecules                                         of molecules that come with rdkit
  tiltflow pretrain domain=molecules data_dir=data source=zinc               the shipped model of molecules
  tiltflow pretrain domain=molecules sequences=mine.smi unreadable=skip      your own: SMILES, CSV (column=smiles) or SDF
  tiltflow pretrain domain=molecules part=properties data_dir=data           the shipped oracles of logD and logS
"""
_PRETRAIN_NOTES = """\
Own sequences: relatives (a common 20-mer, or most positions equal) stay on one side of a split unless relatives=false.
motifs=shipped are the fungal motifs of JASPAR 2022; motifs=my.pfm are others, motifs=null none.
Beside the result lie its card (.md) and the validation curve (.curve.json, .curve.png). An interrupted training goes on
from the last validation when the same command is given again.
"""
_BENCHMARK_USAGE = """\
tiltflow benchmark=pmo [key=value ...]: methods against each other and against published numbers

examples
  tiltflow benchmark=pmo tasks=[qed,median1] methods=[graph_ga,prior] calls=500 seeds=1    a first look, a minute
  tiltflow benchmark=pmo workers=8                                                         all of it
  tiltflow benchmark=pmo methods=[graph_ga] optimiser.graph_ga.population=200 out=runs/larger
  tiltflow benchmark=pmo methods=[mine] optimiser.mine={_target_:mypackage.Mine} plugins=[mypackage]
"""
_BENCHMARK_NOTES = """\
Each method, task and seed is a run whose calls are kept in out/<method>/<task>/<seed>.csv.gz, with a summary in JSON beside
it. The same command goes on with the runs that are not finished; records of other settings are refused. In the end there are
report.md, report.json and report.png in `out`, and a table on the terminal.
"""
_MOLECULE_KEYS = {
    "data_dir": "folder of the public data; not needed for source=rdkit",
    "source": "zinc, qm9 or rdkit; null takes zinc where there is a data_dir, and rdkit otherwise",
    "sequences": "instead, a file of your own molecules: SMILES, CSV or SDF",
    "column": "the column of a CSV file that holds the SMILES",
    "unreadable": "what to do with molecules that cannot be written as tokens: error or skip",
    "length": "tokens of a molecule, which is what the longest may have",
    "held_out": "fraction of the scaffolds to validate on, and to compare designs with",
    "start": "go on from this prior, zinc or a file, instead of an untrained network",
}
_PRETRAIN_KEYS = {
    "domain": "what for",
    "data_dir": "folder of the public data; without it you are told where they are published",
    "sequences": "instead of data_dir, a FASTA or CSV file of your own sequences, all of one length",
    "column": "the column of a CSV file that holds the sequences; an empty label is a missing one",
    "prefix": "constant start of every sequence of your file, required and cut off",
    "suffix": "constant end, the same",
    "ambiguous": "what to do with a sequence that holds N or another ambiguous letter: error or skip",
    "wrong_length": "the same for another length than the most common one",
    "flanks": "the same for one without prefix and suffix",
    "out": "folder for the result",
    "seed": "same seed, same result",
    "held_out": "fraction of the data to validate on, families of relatives together",
    "threads": "for torch; null for its default, one for each core",
}


@cache
def options(group: str) -> dict[str, str]:
    """The options of a group and what their files say they are: the first comment line that is no instruction."""
    folder = files("tiltflow.configs") / group
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".yaml")) if folder.is_dir() else ()
    return {entry.name.removesuffix(".yaml"): _first_words(entry.read_text("utf-8")) for entry in _by_name(found)}


def _by_name(entries: Any) -> list[Any]:
    return sorted(entries, key=lambda entry: entry.name)


def _first_words(text: str) -> str:
    lines = (line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("@")), "")


def read(name: str) -> dict[str, Any]:
    """A file of `tiltflow.configs` as plain data, nothing resolved."""
    import yaml

    content = yaml.safe_load((files("tiltflow.configs") / f"{name}.yaml").read_text("utf-8"))
    return dict(content)


@cache
def defaults(name: str) -> dict[str, str]:
    """Which option of each group the file `name` takes; what hydra adds by itself (optional ...) is no choice."""
    entries = (entry for entry in read(name)["defaults"] if isinstance(entry, dict))
    pairs = (pair for entry in entries for pair in entry.items())
    return {group: option for group, option in pairs if not group.startswith("optional ")}


def usual(domain: str) -> dict[str, str]:
    """Which options fit a domain better than those of design.yaml, by group."""
    return dict(read("usual").get(domain, {}))


def design_help() -> str:
    """What `tiltflow --help` prints."""
    return "\n".join([_USAGE.format(version=__version__), *_choices("design"), *_keys("design", settings.KEYS), _NOTES])


def pretrain_help() -> str:
    """What `tiltflow pretrain --help` prints."""
    dna = [*_choices("pretrain"), *_keys("pretrain", _PRETRAIN_KEYS)]
    return "\n".join([_PRETRAIN_USAGE, *dna, *_molecule_keys(), _PRETRAIN_NOTES])


def benchmark_help() -> str:
    """What `tiltflow benchmark=pmo --help` prints."""
    from .benchmark.plan import KEYS

    name = next(iter(options("benchmark")))
    given = {**read("benchmark"), **read(f"benchmark/{name}")}
    keys = [f"  {f'{key}={_short(given[key])}':18}  {meaning}" for key, meaning in KEYS.items()]
    return "\n".join([_BENCHMARK_USAGE, *_benchmark_choices(), "keys", *keys, "", _BENCHMARK_NOTES])


def _benchmark_choices() -> Iterator[str]:
    yield "benchmarks"
    yield from (f"  {name:17} {meaning}" for name, meaning in options("benchmark").items())
    yield "\nmethods, and below each its own keys"
    for name, meaning in options("optimiser").items():
        yield f"  {name:17} {meaning}"
        flat = _flat(read(f"optimiser/{name}"), f"optimiser.{name}.", inside=True)
        yield from (f"{'':20}{line}" for line in wrap(" ".join(flat), 97))
    yield "\ndomain=molecules (domain.prior=..., see tiltflow --help)\n"


def _molecule_keys() -> Iterator[str]:
    name = "pretrain_molecules"
    yield "with domain=molecules part=properties makes the oracles of logD and logS out of data_dir; keys: out, seed, threads"
    yield "with domain=molecules part=prior, the default, the model with statistics to compare with; keys beside these"
    yield from list(_keys(name, _MOLECULE_KEYS))[1:-1]
    given = read(name)
    own = _flat({group: given[group] for group in ("training", "network")})
    yield from (f"{'':22}{line}" for line in wrap(" ".join(own), 95))
    yield ""


def _choices(name: str) -> Iterator[str]:
    yield "choices: <group>=<choice>, * is the default; below each stand its own keys"
    for group, chosen in defaults(name).items():
        yield f"  {group}"
        for option, meaning in options(group).items():
            yield f"  {'*' if option == chosen else ' '} {option:15} {meaning}"
            yield from (f"{'':22}{line}" for line in wrap(_own_keys(group, option), 95))
    yield ""


def _own_keys(group: str, option: str) -> str:
    """The plain keys of an option with their values; a file that sets top-level keys says so in its first line."""
    content = read(f"{group}/{option}")
    if group in content:
        return " ".join([*_flat(content[group], f"{group}."), *_flat({"alpha": content["alpha"]})])
    return " ".join(_flat(content, "" if group == "part" else f"{group}."))


def _flat(node: Mapping[str, Any], prefix: str = "", inside: bool = False) -> Iterator[str]:
    """The plain keys of a node; `inside`: those of the nodes in it that have a target too."""
    for key, value in node.items():
        if isinstance(value, dict) and (inside or TARGET not in value):
            yield from _flat(value, f"{prefix}{key}.", inside)
        elif key != TARGET and not _nested(value):
            yield f"{prefix}{key}={_short(value)}"


def _nested(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(entry, dict) for entry in value))


def _short(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _keys(name: str, meanings: Mapping[str, str]) -> Iterator[str]:
    given = read(name)
    yield "keys"
    for key, meaning in meanings.items():
        default = f"={_short(given[key])}" if key in given else "=<number>"
        yield f"  {key + default:18}  {meaning}"
    yield ""
