"""What `tiltflow pretrain` can make: each part is a dataclass of its keys that reads data, trains, and writes its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .core.pretraining import VALIDATION_DRAWS, Pretraining
from .core.storage import write_json, write_text
from .dna import Pwm, read_pfms
from .domains.dna import DnaCodec, Reference
from .domains.dna.pretrain import DRAWS, promoter_corpus, sequence_corpus, train_prior
from .domains.dna.prior import load_prior
from .domains.dna.reference import build_reference

if TYPE_CHECKING:
    from rich.console import Console

    from .domains.dna.codec import Sequences
    from .domains.dna.pretrain import Corpus

READING = ("prefix", "suffix", "ambiguous", "wrong_length", "flanks")  # how a user's file is read; see `DnaCodec`
SHIPPED = "shipped"  # the motifs that come with tiltflow
Policy = Literal["error", "skip"]


@dataclass(frozen=True)
class Network:
    """Size of the convolutional denoiser; see `tiltflow.core.networks.ConvDenoiser`."""

    channels: int
    kernel: int
    dilations: list[int]
    dropout: float


@dataclass(frozen=True)
class Part:
    """What can be made, and from what: the keys that all parts share. `targets` names the files that are made."""

    domain: Literal["dna"]
    data_dir: str | None
    sequences: str | None
    column: str
    prefix: str
    suffix: str
    ambiguous: Policy
    wrong_length: Policy
    flanks: Policy
    out: str
    seed: int
    held_out: float
    threads: int | None

    targets: ClassVar[tuple[str, ...]] = ()

    @property
    def data(self) -> Path:
        """The folder of public data."""
        return Path(str(self.data_dir)).expanduser()

    @property
    def path(self) -> Path:
        """The (first) file that is made."""
        return Path(self.out).expanduser() / self.targets[0]

    def own(self, labels: Sequence[str] = ()) -> Sequences:
        """The user's sequences, all of the most common length. Raises: CodecError, for anything that cannot be read."""
        path, codec = Path(str(self.sequences)).expanduser(), DnaCodec(None)
        rules: dict[str, Any] = {name: getattr(self, name) for name in READING}
        if {".csv", ".tsv", ".txt"} & set(path.suffixes):
            return codec.read_csv(path, self.column, labels, **rules)
        return codec.read_fasta(path, **rules)

    def make(self, console: Console) -> None:
        """Read the data, make the file and say what is in it."""
        raise NotImplementedError


def motifs_of(name: str | None) -> tuple[Sequence[Pwm], str]:
    """The motifs that the key `motifs` asks for, and where they are from: "shipped", a file, or None for none."""
    if name is None:
        return (), "none"
    if name == SHIPPED:
        reference = Reference.load()
        return reference.motifs, f"{len(reference.motifs)} shipped ones; {reference.info['matrices']}"
    found = read_pfms(Path(name).expanduser())
    return found, f"{len(found)} of {name}"


@dataclass(frozen=True)
class Prior(Part):
    """The diffusion model."""

    both_strands: bool
    relatives: bool
    start: str | None
    training: Pretraining
    network: Network

    targets = ("prior.safetensors",)

    def make(self, console: Console) -> None:
        corpus = self._corpus(console)
        console.print(
            f"{len(corpus.tokens)} sequences to learn from, {len(corpus.validation)} held out", highlight=False
        )
        size = {**asdict(self.network), "dilations": tuple(self.network.dilations)}
        with bar("training", self.training.steps, console) as on_step:
            curve: list[dict[str, float]] = []
            for progress in train_prior(
                corpus, self.path, self.training, seed=self.seed, network=size, start=self.start, on_step=on_step
            ):
                curve = progress.curve
                write_curve(self.path, curve)
        facts = load_prior(self.path)[1]
        levels = {f"validation, {DRAWS} noise levels": facts["validation_nelbo"]}
        levels |= {name.replace("markov_", "Markov chain of order "): facts[name] for name in facts if "markov" in name}
        write_curve(self.path, curve, levels)
        write_card(self.path, facts)
        console.print(f"{self.path}\nUse it: tiltflow domain.prior={self.path}", highlight=False, soft_wrap=True)

    def _corpus(self, console: Console) -> Corpus:
        if self.sequences is None:
            return promoter_corpus(self.data, self.held_out, self.seed, self.both_strands)
        found = self.own()
        console.print(str(found.report), highlight=False)
        return sequence_corpus(found.tokens, self.held_out, self.seed, self.both_strands, self.relatives)


@dataclass(frozen=True)
class Statistics(Part):
    """What natural sequences look like."""

    motifs: str | None

    targets = ("reference.safetensors",)

    def make(self, console: Console) -> None:
        reference = self._own_reference() if self.sequences else self._public_reference()
        reference.save(self.path)
        write_card(self.path, reference.info)
        console.print(f"{self.path}\nUse it: tiltflow domain.reference={self.path}", highlight=False, soft_wrap=True)

    def _public_reference(self) -> Reference:
        return build_reference(self.data, self.held_out, self.seed)

    def _own_reference(self) -> Reference:
        found = self.own()
        motifs, source = motifs_of(self.motifs)
        names = [str(number) for number in range(len(found.tokens))]  # each sequence counts by itself
        info = {"data": f"{len(found.tokens)} sequences of the user", "matrices": source}
        return Reference.build(found.tokens, names, motifs, info=info)


# --- what every part writes ----------------------------------------------------------------------------------------


@contextmanager
def bar(title: str, total: int, console: Console) -> Iterator[Callable[[int, float], None]]:
    """A progress bar; call it with (step, loss)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=console) as shown:
        task = shown.add_task(title, total=total, loss=float("nan"))
        yield lambda step, loss: shown.update(task, completed=step, loss=loss)


def write_curve(
    path: Path, curve: Sequence[Mapping[str, float]], lines: Mapping[str, float] | None = None, site: str = "base"
) -> None:
    """The validation curve beside the file at `path`, as JSON and PNG; `lines` are levels to compare with, by name.

    The curve takes few noise levels a sequence, the same at each point: it tells whether training goes on, and a level with
    more of them tells where it ends.
    """
    from .domains.canvas import DESIGNS, NATURAL, PRETRAINED, finish, legend_below, panels, save

    write_json(path.with_suffix(".curve.json"), list(curve))
    figure, (axes,) = panels(1, 7.0, 4.6)
    steps = [row["step"] for row in curve]
    words = {"train": "training", "validation": f"validation, {VALIDATION_DRAWS} noise levels a sequence"}
    for (name, label), colour in zip(words.items(), (PRETRAINED, DESIGNS), strict=True):
        axes.plot(steps, [row[name] for row in curve], color=colour, marker=".", label=label)
    for (name, level), style in zip((lines or {}).items(), ("-", "--", ":", "-."), strict=False):
        colour = DESIGNS if name.startswith("validation") else NATURAL
        axes.axhline(level, color=colour, linestyle=style, label=f"{name}: {level:.4f}")
    finish(axes, "step", f"loss (nats per {site})", f"Training of {path.stem}")
    legend_below(axes)
    save(figure, path.with_suffix(".curve.png"))


def write_card(path: Path, facts: Mapping[str, Any]) -> None:
    """What is in the file at `path`, for people."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in facts.items())
    write_text(path.with_suffix(".md"), f"# {path.name}\n\n| | |\n|---|---|\n{rows}\n")
