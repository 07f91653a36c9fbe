"""`tiltflow pretrain`: train a prior, oracles or reference statistics on public data or on a user's own sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .core.pretraining import Pretraining
from .core.storage import write_json, write_text
from .dna import read_pfms
from .domains.dna import DnaCodec, Reference
from .domains.dna.data import SOURCE
from .domains.dna.pretrain import promoter_corpus, sequence_corpus, train_prior
from .domains.dna.prior import load_prior
from .domains.dna.reference import build_reference
from .schema import BROKEN, Builder, ConfigError, Problem, explain, shown
from .settings import writable

if TYPE_CHECKING:
    from rich.console import Console

    from .domains.dna.codec import Sequences
    from .domains.dna.pretrain import Corpus


@dataclass(frozen=True)
class Network:
    """Size of the convolutional denoiser; see `tiltflow.core.networks.ConvDenoiser`."""

    channels: int
    kernel: int
    dilations: list[int]
    dropout: float


@dataclass(frozen=True)
class Part:
    """What can be made, and from what: the keys that all parts share. `target` names the file that is made."""

    domain: Literal["dna"]
    data_dir: str | None
    sequences: str | None
    column: str
    out: str
    seed: int
    held_out: float
    threads: int | None

    target = ""

    @property
    def path(self) -> Path:
        """The file that is made."""
        return Path(self.out).expanduser() / self.target

    def own(self, labels: Sequence[str] = ()) -> Sequences:
        """The user's sequences, all of the most common length. Raises: CodecError, for anything that cannot be read."""
        path, codec = Path(str(self.sequences)).expanduser(), DnaCodec(None)
        if {".csv", ".tsv", ".txt"} & set(path.suffixes):
            return codec.read_csv(path, self.column, labels)
        return codec.read_fasta(path)

    def make(self, console: Console) -> None:
        """Read the data, make the file and say what is in it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Prior(Part):
    """The diffusion model."""

    both_strands: bool
    start: str | None
    training: Pretraining
    network: Network

    target = "prior.safetensors"

    def make(self, console: Console) -> None:
        corpus = self._corpus(console)
        console.print(
            f"{len(corpus.tokens)} sequences to learn from, {len(corpus.validation)} held out", highlight=False
        )
        size = {**asdict(self.network), "dilations": tuple(self.network.dilations)}
        with _bar("training", self.training.steps, console) as on_step:
            curve: list[dict[str, float]] = []
            for progress in train_prior(
                corpus, self.path, self.training, seed=self.seed, network=size, start=self.start, on_step=on_step
            ):
                curve = progress.curve
                write_curve(self.path, curve)
        facts = load_prior(self.path)[1]
        write_curve(self.path, curve, {name: facts[name] for name in facts if name.startswith("markov")})
        write_card(self.path, facts)
        console.print(f"{self.path}\nUse it: tiltflow domain.prior={self.path}", highlight=False, soft_wrap=True)

    def _corpus(self, console: Console) -> Corpus:
        if self.sequences is None:
            return promoter_corpus(Path(str(self.data_dir)).expanduser(), self.held_out, self.seed, self.both_strands)
        found = self.own()
        console.print(str(found.report), highlight=False)
        return sequence_corpus(found.tokens, self.held_out, self.seed, self.both_strands)


@dataclass(frozen=True)
class Statistics(Part):
    """What natural sequences look like."""

    motifs: str | None

    target = "reference.safetensors"

    def make(self, console: Console) -> None:
        reference = self._own_reference() if self.sequences else self._public_reference()
        reference.save(self.path)
        write_card(self.path, reference.info)
        console.print(f"{self.path}\nUse it: tiltflow domain.reference={self.path}", highlight=False, soft_wrap=True)

    def _public_reference(self) -> Reference:
        return build_reference(Path(str(self.data_dir)).expanduser(), self.held_out, self.seed)

    def _own_reference(self) -> Reference:
        found = self.own()
        motifs = read_pfms(self.motifs) if self.motifs else ()
        names = [str(number) for number in range(len(found.tokens))]  # each sequence counts by itself
        return Reference.build(found.tokens, names, motifs, info={"data": f"{len(found.tokens)} sequences of the user"})


PARTS: dict[str, type[Part]] = {"prior": Prior, "reference": Statistics}


def prepare(config: Mapping[str, Any], part: str, problems: Sequence[Problem] = ()) -> Part:
    """Check and build what a configuration asks for.

    Raises:
        ConfigError: all problems at once.
    """
    found = list(problems)
    known = frozenset(problem.key for problem in found)
    built = Builder((), found, known).arguments(PARTS[part], config)
    good = {name: value for name, value in built.items() if value is not BROKEN}
    found += [problem for problem in _together(good, PARTS[part].target) if problem.key not in known]
    if found:
        raise ConfigError(found)
    return PARTS[part](**good)


def _together(good: Mapping[str, Any], target: str) -> list[Problem]:
    """What the keys must fulfil among each other."""
    found = writable(good.get("out"))
    if not 0 < good.get("held_out", 0.1) < 1:
        found.append(Problem("held_out", f"{good['held_out']}; expected a fraction between 0 and 1"))
    if (good.get("threads") or 1) < 1:
        found.append(Problem("threads", f"{good['threads']}; expected at least 1, or null for torch's default"))
    if "out" in good and (Path(good["out"]).expanduser() / target).exists():
        found.append(Problem("out", f"{good['out']} holds a finished {target}; remove it or choose another folder"))
    if {"data_dir", "sequences"} <= good.keys():
        found += _data(good["data_dir"], good["sequences"])
    return found


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


# --- what every part writes ----------------------------------------------------------------------------------------


@contextmanager
def _bar(title: str, total: int, console: Console) -> Iterator[Callable[[int, float], None]]:
    """A progress bar; call it with (step, loss)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=console) as bar:
        task = bar.add_task(title, total=total, loss=float("nan"))
        yield lambda step, loss: bar.update(task, completed=step, loss=loss)


def write_curve(path: Path, curve: Sequence[Mapping[str, float]], lines: Mapping[str, float] | None = None) -> None:
    """The validation curve beside the file at `path`, as JSON and PNG; `lines` are levels to compare with, by name."""
    from .domains.canvas import DESIGNS, NATURAL, PRETRAINED, finish, legend_below, panels, save

    write_json(path.with_suffix(".curve.json"), list(curve))
    figure, (axes,) = panels(1, 7.0, 4.6)
    steps = [row["step"] for row in curve]
    for name, colour in (("train", PRETRAINED), ("validation", DESIGNS)):
        axes.plot(steps, [row[name] for row in curve], color=colour, marker=".", label=name)
    for (name, level), style in zip((lines or {}).items(), ("-", "--", ":", "-."), strict=False):
        axes.axhline(level, color=NATURAL, linestyle=style, label=f"{name.replace('_', ' ')}: {level:.4f}")
    finish(axes, "step", "loss (nats per base)", f"Training of {path.stem}")
    legend_below(axes)
    save(figure, path.with_suffix(".curve.png"))


def write_card(path: Path, facts: Mapping[str, Any]) -> None:
    """What is in the file at `path`, for people."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in facts.items())
    write_text(path.with_suffix(".md"), f"# {path.name}\n\n| | |\n|---|---|\n{rows}\n")


def run(part: Part, console: Console) -> int:
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
