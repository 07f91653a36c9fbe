"""Molecules as text and files (SMILES, CSV, SDF) to tokens and back; what cannot be read is named with its place and reason.

Tokens are int64 `[B, L]` over `tiltflow.molecules.ALPHABET`. Lines, records and molecules in messages count from 1.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...molecules import LENGTH, decode, encode, encode_one
from ...smiles import MoleculeError, quiet
from ..files import CodecError, listing, quoted, read_text, write_text
from ..records import Columns, parse_csv
from .data import reason

__all__ = ["CodecError", "MoleculeCodec", "Molecules", "ReadReport"]

Policy = Literal["error", "skip"]


@dataclass(frozen=True)
class ReadReport:
    """What reading did, for the user's eyes: `str(report)`.

    Args:
        source: the file. found, kept: molecules in the file, and in the result.
        duplicates: of those found, how many are the same molecule as one before, however it is written; they are left out.
        refused: molecules that cannot be written as tokens, by reason. skipped: one sentence for each, with its place.
    """

    source: str
    found: int
    kept: int
    duplicates: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.kept} of {self.found} molecules kept"]
        if self.duplicates:
            lines.append(f"{self.duplicates} the same as one before, left out")
        return "; ".join([*lines, *(f"skipped {number}: {kind}" for kind, number in self.refused.items())])


@dataclass(frozen=True, eq=False)
class Molecules:
    """What a file held, in its order, each molecule once: B names, canonical SMILES, tokens int64 `[B, L]`, labels float64
    `[B]` by column (NaN where the cell was empty)."""

    names: tuple[str, ...]
    smiles: tuple[str, ...]
    tokens: Tensor
    report: ReadReport
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class _Entry:
    """One molecule as it stood in a file; `fault` where no SMILES could be made of it."""

    name: str
    place: str
    smiles: str
    labels: tuple[float, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class MoleculeCodec:
    """Text <-> tokens for molecules of at most `length` symbols.

    Reading takes `unreadable`: what to do with molecules that cannot be written as tokens (no SMILES, several fragments,
    rare elements, too long): "error" lists them all in one message, "skip" leaves them out and counts them in the report.
    The same molecule twice, however written, is kept once and counted.

    Raises:
        CodecError: anything that cannot be read or written.
    """

    length: int = LENGTH

    def encode(self, smiles: Iterable[str]) -> Tensor:
        """Tokens int64 `[B, L]` of B SMILES. Raises MoleculeError with the position of the first that has none."""
        return encode(smiles, self.length)

    def decode(self, tokens: Tensor) -> list[str]:
        """Canonical SMILES of tokens `[B, L]`; "" where there is no molecule."""
        return decode(tokens)

    def read_smiles(self, path: str | os.PathLike[str], *, unreadable: Policy = "error") -> Molecules:
        """Molecules of a text file, plain or gzip: a SMILES a line, then a blank and its name, where it has one.

        Empty lines and lines that begin with # are passed over, and so is a first line "smiles" or "smiles name".
        """
        return self._gather(path, list(_lines(read_text(path))), unreadable)

    def read_csv(
        self,
        path: str | os.PathLike[str],
        column: str = "smiles",
        labels: Iterable[str] = (),
        *,
        names: str | None = None,
        delimiter: str | None = None,
        unreadable: Policy = "error",
    ) -> Molecules:
        """Molecules and number columns of a table with a header line, plain or gzip.

        Args:
            column: holds the SMILES. labels: columns of finite numbers; an empty cell is NaN.
            names: column of names; None takes "name" where there is one, and seq1, seq2, ... otherwise.
            delimiter: one character; None tells comma, tab or semicolon by the header.
        """
        columns = Columns(column, (labels,) if isinstance(labels, str) else tuple(labels), names)
        text = read_text(path)
        try:
            records, faults = parse_csv(text, columns, delimiter)
        except CodecError as error:
            raise CodecError(f"{path}: {error}") from error
        if faults:
            raise CodecError(listing(str(path), [fault.text for fault in faults]))
        entries = [_Entry(each.name, f"line {each.line}", each.text, each.labels) for each in records]
        return self._gather(path, entries, unreadable, columns.labels)

    def read_sdf(self, path: str | os.PathLike[str], *, unreadable: Policy = "error") -> Molecules:
        """Molecules of an SD file, plain or gzip; coordinates are not kept, stereochemistry is read from them."""
        return self._gather(path, list(_records(read_text(path))), unreadable)

    def read(self, path: str | os.PathLike[str], column: str = "smiles", *, unreadable: Policy = "error") -> Molecules:
        """`read_csv`, `read_sdf` or `read_smiles`, by the ending of the file's name."""
        endings = [ending.lower() for ending in Path(path).suffixes]
        if {".csv", ".tsv", ".tab"} & set(endings):
            return self.read_csv(path, column, unreadable=unreadable)
        if {".sdf", ".sd", ".mol"} & set(endings):
            return self.read_sdf(path, unreadable=unreadable)
        return self.read_smiles(path, unreadable=unreadable)

    def _gather(
        self, path: str | os.PathLike[str], entries: Sequence[_Entry], unreadable: Policy, labels: Sequence[str] = ()
    ) -> Molecules:
        """Encode every entry, raise all problems together or count them, and pack what is left."""
        if unreadable not in ("error", "skip"):
            raise CodecError(f"unreadable={unreadable!r}; expected 'error' or 'skip'")
        kept: dict[str, tuple[_Entry, list[int]]] = {}
        problems: list[str] = []
        refused: Counter[str] = Counter()
        duplicates = 0
        for entry in entries:
            try:
                smiles, row = _encoded(entry, self.length)
            except MoleculeError as error:
                problems.append(f"{entry.place}: {error}")
                refused[reason(str(error))] += 1
                continue
            duplicates += smiles in kept
            kept.setdefault(smiles, (entry, row))
        if problems and unreadable == "error":
            raise CodecError(f"{listing(str(path), problems)}\n  (unreadable='skip' leaves such molecules out)")
        report = ReadReport(str(path), len(entries), len(kept), duplicates, dict(refused), tuple(problems))
        if not kept:
            raise CodecError(listing(str(path), [f"{len(entries)} molecules, none of which can be used", *problems]))
        chosen = [entry for entry, _ in kept.values()]
        columns = zip(*(entry.labels for entry in chosen), strict=True)
        return Molecules(
            names=tuple(entry.name for entry in chosen),
            smiles=tuple(kept),
            tokens=torch.tensor([row for _, row in kept.values()], dtype=torch.int64),
            report=report,
            labels={n: torch.tensor(v, dtype=torch.float64) for n, v in zip(labels, columns, strict=True)},
        )

    def write_smiles(
        self,
        path: str | os.PathLike[str],
        samples: Any,
        names: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Write one SMILES and name a line; gzip where the path ends in .gz. Samples are tokens `[B, L]` or have them as `.x`."""
        texts = self.decode(_tokens(samples))
        called = _names(texts) if names is None else list(names)
        pairs = [f"{text} {name}\n" for text, name in zip(texts, called, strict=True) if text]
        write_text(path, "".join(pairs), overwrite)

    def write_csv(self, path: str | os.PathLike[str], columns: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Write columns of equal length as CSV; floats are written to read back the same.

        Args:
            columns: {header: B values}; values are texts, numbers, a tensor `[B]`, or tokens `[B, L]`, written as SMILES.
        """
        cells = {name: self._column(path, name, values) for name, values in columns.items()}
        if len({len(column) for column in cells.values()}) > 1:
            found = ", ".join(f"{name} {len(column)}" for name, column in cells.items())
            raise CodecError(f"{path}: columns of different lengths: {found}")
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
        write_text(path, buffer.getvalue(), overwrite)

    def write_sdf(
        self,
        path: str | os.PathLike[str],
        samples: Any,
        columns: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Write an SD file with flat (2-D) coordinates; `columns` are written as properties of each molecule.

        Samples without a molecule are left out, since the format has no place for them.
        """
        texts = self.decode(_tokens(samples))
        called = _names(texts) if names is None else list(names)
        cells = {"smiles": texts} | {name: self._column(path, name, each) for name, each in (columns or {}).items()}
        with quiet():
            blocks = [
                _block(text, called[row], {name: column[row] for name, column in cells.items()})
                for row, text in enumerate(texts)
                if text
            ]
        write_text(path, "".join(blocks), overwrite)

    def _column(self, path: str | os.PathLike[str], name: str, values: Any) -> list[str]:
        """The text of each cell of a column."""
        if isinstance(values, Tensor) and values.ndim == 2:
            return self.decode(values)
        if isinstance(values, Tensor):
            values = values.detach().cpu().double().tolist() if values.is_floating_point() else values.tolist()
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
            kind = type(values).__name__
            raise CodecError(f"{path}: column {quoted(name)}: {kind}; expected one value for each molecule")
        return ["" if value is None else str(value) for value in values]


def _encoded(entry: _Entry, length: int) -> tuple[str, list[int]]:
    if entry.fault:
        raise MoleculeError(entry.fault)
    return encode_one(entry.smiles, length)


def _lines(text: str) -> Iterator[_Entry]:
    """Entries of a text of SMILES."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(None, 1)
        header = number == 1 and words and words[0].lower() in ("smiles", "canonical_smiles")
        if words and not words[0].startswith("#") and not header:
            yield _Entry(words[1].strip() if len(words) > 1 else f"mol{number}", f"line {number}", words[0])


def _records(text: str) -> Iterator[_Entry]:
    """Entries of the text of an SD file, one for each part that ends in $$$$."""
    from rdkit import Chem

    line = 1
    for number, block in enumerate(text.replace("\r\n", "\n").split("$$$$\n"), 1):
        if block.strip():
            place = f"record {number} (line {line})"
            with quiet():
                found = Chem.MolFromMolBlock(block.split("$$$$")[0], sanitize=False)
                fault, smiles = _from_block(found)
            name = block.split("\n", 1)[0].strip() or f"mol{number}"
            yield _Entry(name, place, smiles, fault=fault)
        line += block.count("\n") + 1


def _from_block(found: Any) -> tuple[str, str]:
    """(what is wrong, "") or ("", SMILES) of what rdkit read."""
    from rdkit import Chem

    if found is None:
        return "no molecule can be read from this block: check its counts line and atom lines", ""
    if found.GetNumAtoms() == 0:
        return "a block without atoms", ""
    faults = Chem.DetectChemistryProblems(found)
    if faults:
        return f"no possible molecule: {faults[0].Message()}", ""
    Chem.SanitizeMol(found)
    if found.GetConformer().Is3D():
        Chem.AssignStereochemistryFrom3D(found)
    else:
        Chem.AssignChiralTypesFromBondDirs(found)
        Chem.SetBondStereoFromDirections(found)
        Chem.AssignStereochemistry(found, cleanIt=True, force=True)
    return "", str(Chem.MolToSmiles(Chem.RemoveHs(found)))


def _block(smiles: str, name: str, properties: Mapping[str, str]) -> str:
    """One record of an SD file."""
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    found = Chem.MolFromSmiles(smiles)
    found.SetProp("_Name", name)
    rdDepictor.Compute2DCoords(found)
    data = "".join(
        f"> <{key}>\n{value}\n\n" for key, value in properties.items() if value
    )  # an empty line would end it
    return f"{Chem.MolToMolBlock(found)}{data}$$$$\n"


def _tokens(samples: Any) -> Tensor:
    tokens = samples if isinstance(samples, Tensor) else getattr(samples, "x", None)
    if not isinstance(tokens, Tensor):
        raise CodecError(f"samples: {type(samples).__name__}; expected tokens [B, L], or an object with them as .x")
    return tokens


def _names(texts: Sequence[str]) -> list[str]:
    return [f"mol{number}" for number in range(1, len(texts) + 1)]
