"""Sequences as text and files (FASTA, CSV) to tokens and back, exactly; what does not fit is refused with its place.

Tokens are int64 `[B, L]` with A=0, C=1, G=2, T=3; 4 is the mask. Positions and lines in messages count from 1.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...dna import ALPHABET, MASK
from .. import files
from ..files import quoted, read_text, write_text
from ..records import Columns, Record, parse_csv, parse_fasta
from .errors import CodecError, as_dna
from .screen import Policy, ReadReport, Rules, Sequences, gather

__all__ = ["CodecError", "DnaCodec", "ReadReport", "Sequences"]


@dataclass(frozen=True)
class DnaCodec:
    """Text <-> tokens for sequences of one length.

    Args:
        length: letters of every sequence; None takes the most common length of what is read.

    Reading options, the same for both formats:
        prefix, suffix: constant flanks of the construct, required and stripped before the length is checked.
        ambiguous: what to do with gaps, U and IUPAC codes such as N: "error", or "skip" the sequence.
        wrong_length, flanks: the same for another length and for missing flanks.

    Every problem of a file is reported in one error; skipped sequences are listed in the report. Lower case is read as
    upper case. Names may repeat (isolates of one gene) and are kept.

    Raises:
        CodecError: anything that cannot be read or written exactly.
    """

    length: int | None = 80

    def __post_init__(self) -> None:
        bad = isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1
        if self.length is not None and bad:
            raise CodecError(f"length={self.length!r}; expected a whole number of letters, at least 1, or None")

    def encode(self, sequences: Iterable[str]) -> Tensor:
        """Tokens int64 `[B, L]` of B texts over ACGT, upper or lower case."""
        if isinstance(sequences, str):
            raise CodecError("sequences: one text came; expected several, so write [text]")
        texts = list(sequences)
        if not texts:
            return torch.empty(0, self.length or 0, dtype=torch.int64)
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise CodecError(f"sequences: sequence {number}: {type(text).__name__}, expected str")
        records = [Record("", number, ((number, text),), unit="sequence") for number, text in enumerate(texts, 1)]
        return gather("sequences", records, [], Rules(self.length)).tokens

    def decode(self, tokens: Tensor, mask: str | None = None) -> list[str]:
        """Texts of tokens `[B, L]`. A mask token is refused unless a letter to show it is given, such as "-"."""
        whole = isinstance(tokens, Tensor) and not tokens.is_floating_point() and tokens.dtype != torch.bool
        if not whole or tokens.ndim != 2:
            raise CodecError(f"tokens: {_kind(tokens)}; expected an int64 tensor [B, L]")
        if mask is not None and (len(mask) != 1 or not mask.isascii() or mask in ALPHABET):
            raise CodecError(f"mask={mask!r}; expected one ASCII character that is no base, such as '-'")
        letters = ALPHABET + (mask or "")
        outside = ((tokens < 0) | (tokens >= len(letters))).nonzero()
        if len(outside):
            row, site = outside[0].tolist()
            token = int(tokens[row, site])
            hint = "the mask, so this sample is unfinished; mask='-' shows it" if token == MASK else "expected 0 to 3"
            raise CodecError(f"tokens: sequence {row + 1}, position {site + 1}: token {token}, {hint}")
        table = np.frombuffer(letters.encode(), np.uint8)
        return [row.tobytes().decode() for row in table[tokens.cpu().numpy()]]

    @as_dna
    def read_fasta(
        self,
        path: str | os.PathLike[str],
        *,
        prefix: str = "",
        suffix: str = "",
        ambiguous: Policy = "error",
        wrong_length: Policy = "error",
        flanks: Policy = "error",
    ) -> Sequences:
        """Sequences of a FASTA file, plain or gzip; the name is the header's first word, the rest its description."""
        rules = Rules(self.length, prefix, suffix, ambiguous, wrong_length, flanks)
        return gather(str(path), *parse_fasta(read_text(path)), rules)

    @as_dna
    def read_csv(
        self,
        path: str | os.PathLike[str],
        column: str = "sequence",
        labels: Iterable[str] = (),
        *,
        names: str | None = None,
        delimiter: str | None = None,
        prefix: str = "",
        suffix: str = "",
        ambiguous: Policy = "error",
        wrong_length: Policy = "error",
        flanks: Policy = "error",
    ) -> Sequences:
        """Sequences and number columns of a table with a header line, plain or gzip.

        Args:
            column: holds the sequences. labels: columns of finite numbers, each a float64 `[B]` in the result; NaN where the
                cell is empty (or NA, NaN), and the report counts these.
            names: column of names; None takes "name" where there is one, and seq1, seq2, ... otherwise.
            delimiter: one character; None tells comma, tab or semicolon by the header.
        """
        rules = Rules(self.length, prefix, suffix, ambiguous, wrong_length, flanks)
        columns = Columns(column, (labels,) if isinstance(labels, str) else tuple(labels), names)
        text = read_text(path)
        try:
            records, faults = parse_csv(text, columns, delimiter)
        except files.CodecError as error:
            raise CodecError(f"{path}: {error}") from error
        return gather(str(path), records, faults, rules, columns.labels)

    def columns(self, samples: Any, names: Sequence[str] | None = None) -> dict[str, Sequence[Any] | Tensor]:
        """The columns that `write_csv` writes for samples, to add more to: name, sequence, reward, log_weight.

        Args:
            samples: tokens `[B, L]`, or an object with tokens `.x` and optionally `.reward` and `.log_weight` `[B]`.
            names: B names; None gives seq1, seq2, ...
        """
        texts = self.decode(samples if isinstance(samples, Tensor) else getattr(samples, "x", samples))
        called = [f"seq{number + 1}" for number in range(len(texts))] if names is None else list(names)
        numbers = {name: getattr(samples, name, None) for name in ("reward", "log_weight")}
        return {
            "name": called,
            "sequence": texts,
            **{name: values for name, values in numbers.items() if values is not None},
        }

    @as_dna
    def write_fasta(
        self,
        path: str | os.PathLike[str],
        samples: Any,
        names: Sequence[str] | None = None,
        descriptions: Sequence[str] | None = None,
        *,
        width: int = 80,
        overwrite: bool = False,
    ) -> None:
        """Write samples (see `columns`) as FASTA, `width` letters a line; gzip where the path ends in .gz.

        The header line is the name, reward=... log_weight=... where the samples have them, and the description.
        """
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise CodecError(f"{path}: width={width!r}; expected letters a line, at least 1")
        columns = self.columns(samples, names)
        if descriptions is not None:
            columns["description"] = descriptions
        cells = self._cells(path, columns)
        if not cells["name"]:
            raise CodecError(f"{path}: no sequence to write")
        rows = (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))
        write_text(path, "".join(_fasta(path, width, **row) for row in rows), overwrite)

    @as_dna
    def write_csv(self, path: str | os.PathLike[str], columns: Any, *, overwrite: bool = False) -> None:
        """Write columns of equal length, or samples (see `columns`), as CSV; floats are written to read back the same.

        Args:
            columns: {header: B values}; values are texts, numbers, a tensor `[B]`, or tokens `[B, L]`.
        """
        cells = self._cells(path, columns if isinstance(columns, Mapping) else self.columns(columns))
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
        write_text(path, buffer.getvalue(), overwrite)

    def _cells(self, path: str | os.PathLike[str], columns: Mapping[str, Any]) -> dict[str, list[str]]:
        """The text of every cell by column, all of one length, without characters that a reader would not give back."""
        cells = {str(name): self._column(path, name, values) for name, values in columns.items()}
        if len({len(column) for column in cells.values()}) > 1:
            found = ", ".join(f"{name} {len(column)}" for name, column in cells.items())
            raise CodecError(f"{path}: columns of different lengths: {found}")
        for name, column in cells.items():
            for number, text in enumerate((name, *column)):
                if any(ord(letter) < 32 for letter in text):
                    place = f"sequence {number}, " if number else ""
                    raise CodecError(f"{path}: {place}column {quoted(name)}: control character in {quoted(text)}")
        return cells

    def _column(self, path: str | os.PathLike[str], name: str, values: Any) -> list[str]:
        if isinstance(values, Tensor) and values.ndim == 2:
            return self.decode(values)
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = (values.double() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or np.ndim(values) != 1:
            raise CodecError(f"{path}: column {quoted(name)}: {_kind(values)}; expected one value for each sequence")
        return ["" if value is None else str(value) for value in values]


def _fasta(
    path: str | os.PathLike[str], width: int, name: str, sequence: str, description: str = "", **notes: str
) -> str:
    """One FASTA record; a name must be one word, or it would not come back."""
    if name.split() != [name]:
        raise CodecError(f"{path}: name {quoted(name)}: expected one word; replace blanks by '_'")
    header = " ".join(filter(None, (name, *map("=".join, notes.items()), description.strip())))
    lines = (sequence[start : start + width] for start in range(0, len(sequence), width))
    return "\n".join((f">{header}", *lines, ""))


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} tensor of shape {list(value.shape)}"
    return type(value).__name__
