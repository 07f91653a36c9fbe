"""What `tiltflow pretrain domain=molecules` makes: a prior of molecules with the statistics that designs are compared with, or
the oracles of measured properties."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .core.pretraining import Pretraining
from .parts import bar, write_card, write_curve
from .rewards.molecules import PROPERTIES

if TYPE_CHECKING:
    from rich.console import Console

    from .domains.molecules import Library
    from .domains.molecules.pretrain import Corpus

MoleculePart = Literal["prior", "properties"]
REFERENCE = 2000  # held-out molecules whose statistics are kept


@dataclass(frozen=True)
class Transformer:
    """Size of the denoiser; see `tiltflow.core.networks.TransformerDenoiser`."""

    width: int
    layers: int
    heads: int
    expand: int
    dropout: float


@dataclass(frozen=True)
class MoleculePrior:
    """The diffusion model of molecules, with statistics of molecules that it was not trained on.

    Args:
        source: which public set: "zinc", "qm9" or "rdkit"; None takes zinc where there is a data_dir, and rdkit otherwise.
        unreadable: what to do with molecules of your file that cannot be written as tokens.
        length: tokens of a molecule.
    """

    domain: Literal["molecules"]
    part: MoleculePart
    data_dir: str | None
    source: Literal["zinc", "qm9", "rdkit"] | None
    sequences: str | None
    column: str
    unreadable: Literal["error", "skip"]
    length: int
    out: str
    seed: int
    held_out: float
    threads: int | None
    start: str | None
    training: Pretraining
    network: Transformer

    targets: ClassVar[tuple[str, ...]] = ("prior.safetensors", "reference.safetensors")

    @property
    def path(self) -> Path:
        """The file of the model."""
        return Path(self.out).expanduser() / self.targets[0]

    def make(self, console: Console) -> None:
        """Read the molecules, train, write model, statistics and card, and say what is in them."""
        from .domains.molecules import molecule_corpus, train_prior

        library, words = self._library(console)
        corpus = molecule_corpus(library, words, self.held_out, self.seed)
        told = f"{len(corpus.tokens)} molecules to learn from, {len(corpus.outside)} with other scaffolds held out"
        console.print(told, highlight=False)
        options: dict[str, Any] = {"seed": self.seed, "network": asdict(self.network), "start": self.start}
        with bar("training", self.training.steps, console) as on_step:
            for progress in train_prior(corpus, self.path, self.training, on_step=on_step, **options):
                write_curve(self.path, progress.curve, site="token")
                curve = progress.curve
        self._finish(corpus, curve, console)

    def _finish(self, corpus: Corpus, curve: list[dict[str, float]], console: Console) -> None:
        from .domains.molecules.prior import load_prior

        reference = corpus.reference(REFERENCE)
        reference.save(self.path.with_name(self.targets[1]))
        facts = load_prior(self.path)[1]
        levels = {"validation of the file": facts["validation_nelbo"]}
        levels |= {f"Markov chain of order {order}": facts[f"markov_{order}"] for order in (0, 3)}
        write_curve(self.path, curve, levels, site="token")
        write_card(self.path, facts)
        write_card(self.path.with_name(self.targets[1]), reference.info)
        use = f"tiltflow domain=molecules domain.prior={self.path} domain.reference={self.path.with_name(self.targets[1])}"
        console.print(f"{self.path}\nUse it: {use}", highlight=False, soft_wrap=True)

    def _library(self, console: Console) -> tuple[Library, str]:
        """The molecules, and in words where they are from."""
        from .domains.molecules import Library, MoleculeCodec
        from .domains.molecules.data import TITLES, prepare, read_set

        if self.sequences is not None:
            path = Path(self.sequences).expanduser()
            found = MoleculeCodec(self.length).read(path, self.column, unreadable=self.unreadable)
            console.print(str(found.report), highlight=False)
            return Library.of(found.smiles, found.tokens), f"{len(found)} molecules of the user"
        name = self.source or ("rdkit" if self.data_dir is None else "zinc")
        smiles = read_set(name, self.data_dir)
        with _reading(len(smiles), console) as on_step:
            library = prepare(smiles, length=self.length, on_step=on_step)
        console.print(str(library), highlight=False)
        return library, TITLES[name]


@dataclass(frozen=True)
class MoleculeProperties:
    """The oracles of logD and logS with their judges, as they come with tiltflow: see `tiltflow.rewards.molecules.Property`.

    Args:
        data_dir: folder with the public tables, or with `molecules/` that has them.
    """

    domain: Literal["molecules"]
    part: MoleculePart
    data_dir: str | None
    out: str
    seed: int
    threads: int | None

    targets: ClassVar[tuple[str, ...]] = tuple(
        f"{name}{end}.safetensors" for name in PROPERTIES for end in ("", "_heldout")
    )
    sequences: ClassVar[None] = None  # there is no own data for them

    @property
    def path(self) -> Path:
        """The first file that is made."""
        return Path(self.out).expanduser() / self.targets[0]

    def make(self, console: Console) -> None:
        """Fit oracles and judges, write them with their cards, and say how good they are."""
        from .rewards.molecules import train_properties

        data, out = Path(str(self.data_dir)).expanduser(), self.path.parent

        def say(line: str) -> None:
            console.print(line, highlight=False)

        train_properties(data, out, seed=self.seed, progress=say)
        say(f"{out}: the files that tiltflow.rewards.molecules.Property reads, each with its card")


@contextmanager
def _reading(total: int, console: Console) -> Iterator[Any]:
    """A progress bar; call it with the number of molecules read."""
    from rich.progress import Progress

    with Progress(console=console) as shown:
        task = shown.add_task("reading molecules", total=total)
        yield lambda number: shown.update(task, completed=number) if number % 500 == 0 or number == total else None
