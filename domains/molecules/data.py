"""Real molecules, as SMILES from public files or from a user's own, made into tokens; and splits by scaffold.

* ZINC250k: 249 455 drug-like molecules for sale (Sterling & Irwin 2015; as in Gomez-Bombarelli et al. 2018).
* QM9: 132 040 molecules of at most nine heavy atoms C, N, O, F (Ramakrishnan et al. 2014).
* rdkit: what lies in the rdkit wheel, 10 000 compounds of a screening collection (WEHI, Baell & Holloway 2010) and 4 999
  of the National Cancer Institute, so that a model can be trained with no file at hand.
"""

from __future__ import annotations

import csv
import tarfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...molecules import LENGTH, encode_one
from ...smiles import MoleculeError, molecule, quiet
from ..shares import assign

if TYPE_CHECKING:
    from rdkit.Chem import Mol

ZINC_FILES = ("zinc250k.tar.gz", "zinc.txt.gz", "zinc.tar.gz")
QM9_FILES = ("qm9_smiles.txt", "0SelectedSMILES_QM9.txt")
SETS = ("zinc", "qm9", "rdkit")
TITLES = {
    "zinc": "ZINC250k, drug-like molecules for sale (Sterling & Irwin 2015; as in Gomez-Bombarelli et al. 2018)",
    "qm9": "QM9, molecules of at most nine heavy atoms C, N, O, F (Ramakrishnan et al. 2014)",
    "rdkit": "the molecules in the rdkit wheel: WEHI screening collection and NCI",
}
SOURCE = (
    "Public sources: ZINC250k is data/zinc.txt.gz of https://github.com/wenhao-gao/mol_opt (MIT), a tar.gz inside; QM9 is "
    "examples/vae_example/datasets/0SelectedSMILES_QM9.txt of https://github.com/aspuru-guzik-group/selfies (Apache-2.0). "
    "source=rdkit needs no file."
)


class DataError(ValueError):
    """A data file that is not what it should be; the message names file, line and fix."""


@dataclass(frozen=True)
class Library:
    """Distinct molecules that can be written as tokens.

    Attributes:
        smiles: N canonical SMILES.
        tokens: int16 `[N, L]`, a quarter of the memory of int64.
        duplicates: molecules left out because they came before.
        refused: why others were left out, and how many.
    """

    smiles: tuple[str, ...]
    tokens: Tensor
    duplicates: int = 0
    refused: Counter[str] | None = None

    @classmethod
    def of(cls, smiles: Iterable[str], tokens: Tensor) -> Library:
        """Distinct canonical SMILES with their tokens `[N, L]`."""
        return cls(tuple(smiles), tokens.to(torch.int16))

    def __str__(self) -> str:
        refused = self.refused or Counter()
        said = [f"{len(self.smiles)} distinct molecules", f"{self.duplicates} duplicates"]
        said += [f"{count} left out: {reason}" for reason, count in refused.most_common()]
        return "; ".join(said)


def read_set(name: str, data_dir: str | Path | None = None) -> list[str]:
    """SMILES of a public set, as they stand in its file.

    Args:
        name: "zinc", "qm9" or "rdkit".
        data_dir: folder that holds `molecules/` or the file itself; not needed for "rdkit".

    Raises:
        FileNotFoundError: not there; the message says where it is published.
        DataError: a file of another form.
    """
    readers = {"zinc": _zinc, "qm9": _qm9}
    if name == "rdkit":
        return _rdkit()
    if name not in readers:
        raise DataError(f"There is no set {name!r}; expected {', '.join(SETS)}.")
    if data_dir is None:
        raise DataError(f"The set {name!r} needs data_dir=<folder>. {SOURCE}")
    files = {"zinc": ZINC_FILES, "qm9": QM9_FILES}[name]
    return readers[name](_find(data_dir, files))


def prepare(smiles: Iterable[str], *, length: int = LENGTH, on_step: Callable[[int], object] | None = None) -> Library:
    """Encode molecules, each counted once; those that cannot be encoded are left out and counted by reason.

    Takes about two milliseconds a molecule.

    Args:
        on_step: called with the number of molecules that were looked at.
    """
    rows: dict[str, array[int]] = {}
    refused: Counter[str] = Counter()
    duplicates = 0
    for number, text in enumerate(smiles, 1):
        try:
            name, row = encode_one(text, length)
        except MoleculeError as error:
            refused[reason(str(error))] += 1
        else:
            duplicates += name in rows
            rows.setdefault(name, array("h", row))
        if on_step is not None:
            on_step(number)
    tokens = np.array(list(rows.values()), dtype=np.int16).reshape(-1, length)
    return Library(tuple(rows), torch.from_numpy(tokens), duplicates, refused)


def reason(message: str) -> str:
    """The kind of an error, without the molecule it is about."""
    kinds = {
        "needs": "symbols that the alphabet does not have",
        "fragments": "several fragments",
        "words; at most": "longer than the rows",
        "heavy atoms": "longer than the rows",
        "no SELFIES": "more bonds than SELFIES allows",
    }
    return next((kind for word, kind in kinds.items() if word in message), "no possible molecule")


def scaffold_of(found: Mol) -> str:
    """Bemis-Murcko scaffold of a molecule as SMILES without stereochemistry: its rings and what links them; "" without rings."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol

    return str(Chem.MolToSmiles(GetScaffoldForMol(found), isomericSmiles=False))


def scaffolds(smiles: Iterable[str]) -> list[str]:
    """`scaffold_of` each molecule."""
    with quiet():
        return [scaffold_of(molecule(text)) for text in smiles]


def split_by_scaffold(smiles: Sequence[str], held_out: float = 0.1, seed: int = 0) -> Tensor:
    """Which molecules are held out, bool `[N]`: all that share a scaffold go together, by a hash of the scaffold.

    Library without a ring have no scaffold and go one by one.

    Raises:
        ValueError: `held_out` is not a fraction in [0, 1].
    """
    if not 0 <= held_out <= 1:
        raise ValueError(f"held_out={held_out}: expected a fraction of the scaffolds, 0 to 1")
    names = [frame or text for frame, text in zip(scaffolds(smiles), smiles, strict=True)]
    return torch.from_numpy(assign(names, {"train": 1 - held_out, "out": held_out}, seed) == "out")


# --- files ---------------------------------------------------------------------------------------------------------


def _find(data_dir: str | Path, names: Sequence[str]) -> Path:
    """The first of the names that lies in `data_dir` or in its folder `molecules`."""
    folder = Path(data_dir).expanduser()
    places = [place / name for place in (folder / "molecules", folder) for name in names]
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(f"No {' or '.join(names)} in {folder} or {folder / 'molecules'}. {SOURCE}")


def _zinc(path: Path) -> list[str]:
    """One SMILES a line, in the only file of a tar archive."""
    try:
        with tarfile.open(path) as archive:
            member = next((each for each in archive if each.isfile()), None)
            content = None if member is None else archive.extractfile(member)
            text = "" if content is None else content.read().decode()
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a whole tar archive of text ({error}). Download it again. {SOURCE}") from error
    found = text.split()
    if not found:
        raise DataError(f"{path}: no SMILES in it. Download it again. {SOURCE}")
    return found


def _qm9(path: Path) -> list[str]:
    """A table with the header idx,smiles."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        if "smiles" not in (rows.fieldnames or ()):
            raise DataError(f"{path}, line 1: columns {rows.fieldnames}; expected idx,smiles. {SOURCE}")
        return [row["smiles"] or "" for row in rows]


def _rdkit() -> list[str]:
    from rdkit import RDConfig

    folder = Path(RDConfig.RDDataDir)
    return [*_first_words(folder / "NCI" / "first_5K.smi"), *_first_cells(folder / "Pains/test_data/wehi_mols.csv")]


def _first_words(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield from line.split()[:1]


def _first_cells(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as lines:
        yield from (row[0] for row in csv.reader(lines) if row)
