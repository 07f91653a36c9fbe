"""FASTA and tables as records that keep the line of every letter, for messages that name the place."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

from .files import CodecError, quoted, suggestion

MISSING = ("", "na", "nan")  # cells that say, in any case, that nothing was measured


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one record.

    Args:
        line: where it begins, for sorting.
        kind: "ambiguous", "flanks" or "wrong_length" where the reader has a policy for it; anything else is an error.
        text: the whole sentence, place and fix included.
    """

    line: int
    kind: str
    text: str


@dataclass(frozen=True)
class Record:
    """One sequence as it stood in the file: `pieces` are (line, text), one for each line it is wrapped over."""

    name: str
    line: int
    pieces: tuple[tuple[int, str], ...]
    description: str = ""
    labels: tuple[float, ...] = ()
    unit: str = "line"

    @property
    def text(self) -> str:
        """All letters, unwrapped."""
        return "".join(piece for _, piece in self.pieces)

    def place(self, index: int | None = None) -> str:
        """Where the record begins, or where its letter `index` (from 0) stands; the words count from 1."""
        if index is None:
            return f"{self.unit} {self.line}"
        for line, piece in self.pieces:
            if index < len(piece):
                return f"{self.unit} {line}, position {index + 1}"
            index -= len(piece)
        raise IndexError(index)


def parse_fasta(text: str) -> tuple[list[Record], list[Fault]]:
    """Records of a FASTA text, wrapped or not, with any line ends, and what is wrong outside them."""
    headers: list[tuple[int, str, list[tuple[int, str]]]] = []
    faults = []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        content = line.strip()
        if content.startswith(">"):
            headers.append((number, content[1:], []))
            if not content[1:].strip():
                faults.append(Fault(number, "header", f"line {number}: header without a name; write '>name'"))
        elif content and headers:
            headers[-1][2].append((number, content))
        elif content and not faults:
            faults.append(
                Fault(number, "header", f"line {number}: text before the first header; FASTA starts with '>name'")
            )
    return [_fasta_record(*header) for header in headers], faults


def _fasta_record(line: int, header: str, pieces: list[tuple[int, str]]) -> Record:
    name, description = (*header.split(None, 1), "", "")[:2]
    return Record(name, line, tuple(pieces), description)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read; `names` None means a column called "name" where there is one."""

    sequence: str
    labels: tuple[str, ...] = ()
    names: str | None = None

    def find(self, header: list[str]) -> tuple[int, list[int], int | None]:
        """Indices of the sequence, of the labels, and of the names.

        Raises:
            CodecError: every column that is missing or there twice, in one message.
        """
        wanted = [self.sequence, *self.labels, *([] if self.names is None else [self.names])]
        problems = [text for name in dict.fromkeys(wanted) if (text := _missing(name, header))]
        if problems:
            raise CodecError("; ".join(problems))
        names = self.names if self.names is not None else "name"
        labels = [header.index(name) for name in self.labels]
        return header.index(self.sequence), labels, header.index(names) if header.count(names) == 1 else None


def _missing(name: str, header: list[str]) -> str:
    if header.count(name) == 1:
        return ""
    if header.count(name) > 1:
        return f"line 1: {header.count(name)} columns are called {quoted(name)}; rename all but one"
    known = ", ".join(quoted(column) for column in header[:20]) + (", ..." if len(header) > 20 else "")
    data = any(len(cell) > 9 and not cell.upper().strip("ACGTN") for cell in header)
    hint = "; it looks like data: add a line with the column names" if data else suggestion(name, header)
    return f"line 1: no column {quoted(name)}{hint} (the first line has {known})"


def parse_csv(text: str, columns: Columns, delimiter: str | None = None) -> tuple[list[Record], list[Fault]]:
    """Records of a table with a header line; the delimiter is a tab, semicolon or comma, told by the header.

    Raises:
        CodecError: the header lacks a column, or the delimiter is not one character.
    """
    if delimiter is None:
        first = next(line for line in io.StringIO(text, newline="") if line.strip())
        delimiter = max(",\t;", key=first.count)
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\r\n"':
        raise CodecError(f"delimiter={delimiter!r}; expected one character, such as ','")
    # newline="" keeps line breaks inside quotes, and lets the csv module count lines by any line end.
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    faults: list[Fault] = []
    numbered = _rows(rows, faults)
    _, header = next(numbered, (1, []))
    sequence, labels, name = columns.find([cell.strip() for cell in header])
    records: list[Record] = []
    for line, row in numbered:
        if len(row) != len(header):
            what = f"line {line}: {len(row)} cells, the header has {len(header)}; quote cells that hold a {delimiter!r}"
            faults.append(Fault(line, "cells", what))
            continue
        values = [_number(row[index], line, header[index], faults) for index in labels]
        called = f"seq{len(records) + 1}" if name is None else row[name]
        records.append(Record(called, line, ((line, row[sequence].strip()),), labels=tuple(values)))
    return records, faults


def _rows(reader: Iterator[list[str]], faults: list[Fault]) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each row that is not blank; a row that cannot be split ends the table with a fault."""
    while True:
        line = reader.line_num + 1  # type: ignore[attr-defined]
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(Fault(line, "cells", f"line {line}: {error}; check the quotes from here on"))
            return
        if any(cell.strip() for cell in row):
            yield line, row


def _number(cell: str, line: int, column: str, faults: list[Fault]) -> float:
    """The label; NaN where it is missing, and NaN and a fault where it is no finite number and so would poison a fit."""
    if cell.strip().lower() in MISSING:
        return math.nan
    try:
        value = math.nan if "_" in cell else float(cell)  # Python reads 1_0 as 10
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = (
            f"{quoted(cell)} is not a finite number; write it like 1.5, or leave the cell empty where none was measured"
        )
        faults.append(Fault(line, "label", f"line {line}: column {quoted(column)}: {what}"))
    return value
