"""Real yeast promoters and what they were measured to do (Vaishnav et al., Nature 603:455, 2022; MIT licence).

Two data sets, both of 80-bp inserts over ACGT:

* natural promoters of the 1 011 sequenced isolates of *S. cerevisiae*: what a prior is trained on;
* expression of native, random and evolved 80-mers in two media, YPD ("complex") and SC-Ura ("defined"), on the scale of
  the sorting bins (0 to 17, logarithmic in fluorescence): what oracles are trained on.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...dna import ALPHABET, Pwm, decode, read_pfms
from ..shares import assign
from .relatives import families

LENGTH = 80
CONDITIONS = ("YPD", "SC-Ura")
SUBSETS = ("Native", "Random", "SSWM")
FLANKS = ("TGCATTTTTTTCACATC", "GGTTACGGCTGTT")  # of the reporter construct, on either side of the 80-mer
PROMOTER_FILES = ("native80_orthologous_unique.txt.gz", "20190719_Native80.2_orthologous_promoters_unique.txt.gz")
MOTIF_FILE = "JASPAR2022_fungi.pfm"
BACKGROUND = (0.31, 0.19, 0.19, 0.31)  # letters of the natural promoters, both strands
_MEDIUM = {"YPD": "complex", "SC-Ura": "defined"}
SOURCE = (
    "Public sources: https://github.com/1edv/evolution (MIT), promoters in manuscript_code/model/benchmarking_models/"
    f"{PROMOTER_FILES[1]}, measurements in manuscript_code/model/reproduce_test_data_performance/"
    "{Native,Random,SSWM}_{complex,defined}.csv; whole study: https://zenodo.org/record/4436477."
)


class DataError(ValueError):
    """A data file that is not what it should be; the message names file, line and fix."""


@dataclass(frozen=True)
class Promoters:
    """Distinct natural promoters; several per gene, one for each sequence found among the isolates.

    Attributes:
        tokens: int64 `[N, 80]`, A=0 C=1 G=2 T=3.
        genes: N systematic names such as "YAL001C". The file writes "YAL001C.2"; the ".2", which is on every line,
            stands for the window (160 to 80 bp upstream of the transcription start) and is dropped.
        isolates: int64 `[N]`, isolates that carry this sequence.
        skipped: lines left out because they hold an N.
    """

    tokens: Tensor
    genes: tuple[str, ...]
    isolates: Tensor
    skipped: int


@dataclass(frozen=True)
class Measurements:
    """Distinct 80-mers with what was measured for them.

    Attributes:
        tokens: int64 `[N, 80]`.
        expression: float64 `[N, 2]`, columns as in `CONDITIONS`; NaN where a sequence was not measured. One row per
            sequence, so both conditions of a sequence are always on one side of a split.
        subset: str array `[N]`: "Native", "Random" or "SSWM" (strong-selection-weak-mutation trajectories).
        skipped: rows left out because no clean 80-mer could be read.
    """

    tokens: Tensor
    expression: Tensor
    subset: np.ndarray
    skipped: int


def load_promoters(data_dir: str | Path) -> Promoters:
    """Read the natural promoters.

    Args:
        data_dir: folder that holds `dna/yeast/` or the file itself (either name in `PROMOTER_FILES`).

    Raises:
        FileNotFoundError: not there; the message says where it is published.
        DataError: a line that is not gene, 80-mer, count.
    """
    path = _find(data_dir, PROMOTER_FILES)
    rows = list(_promoter_rows(path))
    kept = [row for row in rows if "N" not in row[1]]
    if not kept:
        raise DataError(f"{path}: no promoter without N; is this the file of {PROMOTER_FILES[1]}?")
    genes, sequences, isolates = zip(*kept, strict=True)
    return Promoters(_tokens(sequences), genes, torch.tensor(isolates), skipped=len(rows) - len(kept))


def commonest(promoters: Promoters) -> Tensor:
    """One row per gene, the sequence that most isolates carry (the first of equals): int64 indices `[genes]`."""
    best: dict[str, int] = {}
    for row, gene in enumerate(promoters.genes):
        if gene not in best or promoters.isolates[row] > promoters.isolates[best[gene]]:
            best[gene] = row
    return torch.tensor(list(best.values()))


def gene_families(promoters: Promoters, word: int = 30) -> list[str]:
    """Family of each row: the first name among the genes linked by a shared 30-mer on either strand.

    About 8 % of the genes share promoter sequence with another one (recent copies; neighbours whose windows overlap).
    """
    names = sorted(set(promoters.genes))
    number = {name: index for index, name in enumerate(names)}
    return [names[i] for i in families(promoters.tokens, word=word, group=[number[g] for g in promoters.genes])]


def split_by_gene(genes: Sequence[str], held_out: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Masks (train, held out), bool `[N]` each: all rows of one name go together, by a hash of the name.

    Pass `gene_families(promoters)` to keep homologous promoters together as well.

    Raises:
        ValueError: `held_out` is not a fraction in [0, 1].
    """
    if not 0 <= held_out <= 1:
        raise ValueError(f"held_out={held_out}: expected a fraction of the genes, 0 to 1")
    away = torch.from_numpy(assign(genes, {"train": 1 - held_out, "held out": held_out}, seed) == "held out")
    return ~away, away


def load_expression(data_dir: str | Path) -> Measurements:
    """Read the six measurement files `{Native,Random,SSWM}_{complex,defined}.csv`.

    The 80-mer is what stands directly before the 3' flank. Inserts of the Random library that are a few bp short are so
    completed with the last bases of the 5' flank, which is what the cell saw there. Rows with an N in these 80 bp or
    another 3' flank are skipped and counted. A sequence measured twice in one condition gets the mean.

    Args:
        data_dir: folder that holds `dna/yeast/` or the files themselves.

    Raises:
        FileNotFoundError: a file is not there; the message says where it is published.
        DataError: a column is missing or a number cannot be read.
    """
    values: dict[str, tuple[list[float], list[float]]] = {}
    subsets: dict[str, str] = {}
    skipped = 0
    for subset in SUBSETS:
        for column, condition in enumerate(CONDITIONS):
            path = _find(data_dir, (f"{subset}_{_MEDIUM[condition]}.csv",))
            for construct, level in _measured_rows(path):
                insert = _insert(construct)
                if insert is None:
                    skipped += 1
                    continue
                subsets.setdefault(insert, subset)
                values.setdefault(insert, ([], []))[column].append(level)
    means = [[float(np.mean(levels)) if levels else math.nan for levels in pair] for pair in values.values()]
    subset_of = np.array(list(subsets.values()))
    return Measurements(_tokens(list(values)), torch.tensor(means, dtype=torch.float64), subset_of, skipped)


def expression_families(measurements: Measurements) -> np.ndarray:
    """Family of each row, int64 `[N]`: rows that share a 20-mer on either strand, or agree at 56 of the 80 positions."""
    return families(measurements.tokens, word=20, matches=56)


def expression_folds(measurements: Measurements, family: np.ndarray, test: float = 0.1, seed: int = 0) -> np.ndarray:
    """Fold of each row: "A" (optimised oracle), "B" (held-out oracle) or "test"; A and B share the rest equally.

    Whole families go to one fold, so no relatives cross. Returns a str array `[N]`.
    """
    names = decode(measurements.tokens[torch.from_numpy(family)])
    return assign(names, {"A": (1 - test) / 2, "B": (1 - test) / 2, "test": test}, seed)


def load_motifs(data_dir: str | Path) -> list[Pwm]:
    """The fungal motifs of JASPAR 2022 (CC BY 4.0), from data_dir/dna/motifs or data_dir.

    Raises:
        FileNotFoundError: not there; the message says where it is published.
        DnaError: not a file of position frequency matrices.
    """
    folders = (Path(data_dir) / "dna" / "motifs", Path(data_dir))
    for folder in folders:
        if (folder / MOTIF_FILE).is_file():
            return read_pfms(folder / MOTIF_FILE, background=BACKGROUND)
    raise FileNotFoundError(
        f"no {MOTIF_FILE} in {folders[0]} or {folders[1]}; set data_dir. Public source: https://github.com/vanheeringen-lab/"
        f"gimmemotifs, data/motif_databases/{MOTIF_FILE}."
    )


def _find(data_dir: str | Path, names: Sequence[str]) -> Path:
    """The first of `names` under data_dir/dna/yeast or data_dir."""
    folders = (Path(data_dir) / "dna" / "yeast", Path(data_dir))
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(f"no {' or '.join(names)} in {folders[0]} or {folders[1]}; set data_dir. {SOURCE}")


def _promoter_rows(path: Path) -> Iterator[tuple[str, str, int]]:
    """(gene, 80-mer over ACGTN, isolates) of each line after the header."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            for number, line in enumerate(lines, 1):
                if number > 1:
                    yield _promoter_row(path, number, line.rstrip("\r\n").split("\t"))
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a whole gzip text file ({error}); download it again. {SOURCE}") from error


def _promoter_row(path: Path, number: int, fields: list[str]) -> tuple[str, str, int]:
    well_formed = len(fields) == 3 and len(fields[1]) == LENGTH and set(fields[1]) <= set("ACGTN")
    if not well_formed or not fields[2].isdecimal():
        raise DataError(
            f"{path}, line {number}: {fields!r}; expected gene, {LENGTH} letters ACGTN, count, tab-separated"
        )
    return fields[0].removesuffix(".2"), fields[1], int(fields[2])


def _measured_rows(path: Path) -> Iterator[tuple[str, float]]:
    """(110-bp construct, measured level) of each row."""
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        sequence = _column(path, reader, ("sequence", "seq110"))
        measured = _column(path, reader, ("Measured Expression",))
        for row in reader:
            yield row[sequence], _level(path, reader.line_num, row[measured])


def _column(path: Path, reader: csv.DictReader[str], names: tuple[str, ...]) -> str:
    header = reader.fieldnames or ()
    for name in names:
        if name in header:
            return name
    raise DataError(f"{path}, line 1: no column {' or '.join(map(repr, names))} among {list(header)}")


def _level(path: Path, line: int, text: str | None) -> float:
    try:
        level = float(text or "")
    except ValueError:
        level = math.nan
    if not math.isfinite(level):
        raise DataError(f"{path}, line {line}: measured expression {text!r} is not a finite number; remove the row")
    return level


def _insert(construct: str) -> str | None:
    """The 80 bp before the 3' flank, or None where they cannot be read."""
    if not construct.endswith(FLANKS[1]):
        return None
    insert = construct[: -len(FLANKS[1])][-LENGTH:]
    return insert if len(insert) == LENGTH and set(insert) <= set(ALPHABET) else None


def _tokens(sequences: Sequence[str]) -> Tensor:
    """int64 `[N, L]` from N texts of one length over ACGT, all at once (62 000 promoters in 10 ms)."""
    code = np.zeros(128, np.int64)
    code[list(ALPHABET.encode())] = range(len(ALPHABET))
    letters = np.frombuffer("".join(sequences).encode("ascii"), np.uint8)
    return torch.from_numpy(code[letters].reshape(len(sequences), -1))
