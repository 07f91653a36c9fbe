"""What a reader expects of each sequence, what it says about those that differ, and the pack of those that fit."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...dna import ALPHABET, IUPAC
from ..files import listing, quoted
from ..records import Fault, Record
from .errors import CodecError

Policy = Literal["error", "skip"]

_UPPER = {ord(letter): letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"}  # str.upper would change lengths


@dataclass(frozen=True)
class ReadReport:
    """What reading did, for the user's eyes: `str(report)`.

    Args:
        source: the file. found, kept: sequences in the file, and in the result.
        lower_case: of those kept, how many had lower-case letters (soft masking), read as upper case.
        repeated_names: names that occur more than once; they are kept as they are.
        skipped: one sentence for each sequence left out by a policy, with its line; counts by reason.
        missing: of those kept, how many have no number, by label column; NaN stands for it.
    """

    source: str
    found: int
    kept: int
    lower_case: int = 0
    repeated_names: int = 0
    skipped: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.kept} of {self.found} sequences kept"]
        lines += [f"skipped {number}: {kind.replace('_', ' ')}" for kind, number in self.counts.items()]
        if self.lower_case:
            lines.append(f"{self.lower_case} with lower-case letters, read as upper case")
        if self.repeated_names:
            lines.append(f"{self.repeated_names} names occur more than once, kept as they are")
        lines += [f"{name}: {number} of {self.kept} missing" for name, number in self.missing.items()]
        return "; ".join(lines)


@dataclass(frozen=True, eq=False)
class Sequences:
    """What a file held, in its order: B names, tokens int64 `[B, L]`, labels float64 `[B]` by column, descriptions.

    A label is NaN where the cell was empty; fits leave such a label out and keep the others of its row.
    """

    names: tuple[str, ...]
    tokens: Tensor
    labels: dict[str, Tensor]
    report: ReadReport
    descriptions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Rules:
    """What a reader expects of a sequence and what it does about those that differ."""

    length: int | None
    prefix: str = ""
    suffix: str = ""
    ambiguous: Policy = "error"
    wrong_length: Policy = "error"
    flanks: Policy = "error"

    def __post_init__(self) -> None:
        for name in ("ambiguous", "wrong_length", "flanks"):
            if getattr(self, name) not in ("error", "skip"):
                raise CodecError(f"{name}={getattr(self, name)!r}; expected 'error' or 'skip'")
        for name in ("prefix", "suffix"):
            flank = getattr(self, name)
            if not isinstance(flank, str) or upper(flank).strip(ALPHABET):
                raise CodecError(f"{name}={flank!r}; expected letters {ALPHABET}")

    def skips(self, fault: Fault) -> bool:
        return fault.kind in ("ambiguous", "wrong_length", "flanks") and getattr(self, fault.kind) == "skip"


def upper(text: str) -> str:
    return text.translate(_UPPER)


def gather(
    source: str, records: list[Record], faults: list[Fault], rules: Rules, labels: tuple[str, ...] = ()
) -> Sequences:
    """Check every record, raise all problems together, and pack what is left."""
    inserts, found = _inserts(records, rules)
    length, odd = _lengths(inserts, rules)
    faults = sorted([*faults, *found, *odd], key=lambda fault: fault.line)
    problems = [fault.text for fault in faults if not rules.skips(fault)]
    if not records and not problems:
        problems = ["line 1: no sequence in this file; check its format"]
    if problems:
        raise CodecError(listing(source, problems))
    kept = [(record, text) for record, text in inserts if len(text) == length]
    report = _report(source, records, [record for record, _ in kept], faults, labels)
    if not kept:
        raise CodecError(listing(source, [f"{report.found} sequences, none left after skipping", *report.skipped]))
    columns = zip(*(record.labels for record, _ in kept), strict=True)
    return Sequences(
        names=tuple(record.name for record, _ in kept),
        tokens=_tokens([text for _, text in kept]),
        labels={name: torch.tensor(values, dtype=torch.float64) for name, values in zip(labels, columns, strict=True)},
        report=report,
        descriptions=tuple(record.description for record, _ in kept),
    )


def _report(
    source: str, records: list[Record], kept: list[Record], skipped: list[Fault], labels: tuple[str, ...]
) -> ReadReport:
    missing = [(name, sum(math.isnan(record.labels[i]) for record in kept)) for i, name in enumerate(labels)]
    return ReadReport(
        source=source,
        found=len(records),
        kept=len(kept),
        lower_case=sum(record.text != upper(record.text) for record in kept),
        repeated_names=sum(number > 1 for number in Counter(record.name for record in kept).values()),
        skipped=tuple(fault.text for fault in skipped),
        counts=dict(Counter(fault.kind for fault in skipped)),
        missing={name: number for name, number in missing if number},
    )


def _tokens(texts: list[str]) -> Tensor:
    """int64 `[B, L]` of equally long texts over ACGT."""
    codes = np.frombuffer("".join(texts).encode("ascii"), np.uint8).reshape(len(texts), -1)
    table = np.zeros(256, np.int64)
    table[list(ALPHABET.encode())] = range(len(ALPHABET))
    return torch.from_numpy(table[codes])


def _inserts(records: list[Record], rules: Rules) -> tuple[list[tuple[Record, str]], list[Fault]]:
    """Upper-case letters between the flanks for each sound record, and what is wrong with the others."""
    prefix, suffix = upper(rules.prefix), upper(rules.suffix)
    inserts, faults = [], []
    for record in records:
        text = upper(record.text)
        fault = _letter_fault(record, text) or _flank_fault(record, text, prefix, suffix)
        if fault:
            faults.append(fault)
        else:
            inserts.append((record, text[len(prefix) : len(text) - len(suffix)]))
    return inserts, faults


def _label(record: Record) -> str:
    return f"sequence {quoted(record.name)}" if record.name else "the sequence"


def _letter_fault(record: Record, text: str) -> Fault | None:
    """The first letter that is no base at all, or else the first ambiguous one."""
    if not text:
        return Fault(record.line, "empty", f"{record.place()}: {_label(record)} has no letters; add them or remove it")
    if not text.strip(ALPHABET):
        return None
    odd = [index for index, letter in enumerate(text) if letter not in ALPHABET]
    foreign = [index for index in odd if text[index] not in IUPAC and text[index] not in "-.U"]
    index, *others = foreign or odd
    kind = "letter" if foreign else "ambiguous"
    more = f" ({len(others)} more in {_label(record)})" if others else ""
    return Fault(record.line, kind, f"{record.place(index)}: {_letter_fix(text[index])}{more}")


def _letter_fix(letter: str) -> str:
    skip = "or leave such sequences out with ambiguous='skip'"
    if letter in "-.":
        return f"{letter!r} is a gap; remove the gaps, {skip}"
    if letter == "U":
        return f"'U' is RNA; write T for U, {skip}"
    if letter in IUPAC:
        return f"'{letter}' is ambiguous ({', '.join(IUPAC[letter])}); replace it, {skip}"
    protein = " (is this a protein?)" if letter in "EFILPQZX*" else ""
    return f"{letter!r} is not a DNA letter{protein}; expected {', '.join(ALPHABET)}"


def _flank_fault(record: Record, text: str, prefix: str, suffix: str) -> Fault | None:
    if text.startswith(prefix) and text.endswith(suffix) and len(text) > len(prefix) + len(suffix):
        return None
    begin, end = text[: len(prefix)], text[len(text) - len(suffix) :] if suffix else ""
    what = f"{record.place()}: {_label(record)} has flanks {begin}...{end}, expected {prefix}...{suffix}"
    fix = "correct prefix= and suffix=, or leave such sequences out with flanks='skip'"
    return Fault(record.line, "flanks", f"{what}; {fix}")


def _lengths(inserts: list[tuple[Record, str]], rules: Rules) -> tuple[int | None, list[Fault]]:
    """The length to keep, and a fault for each record of another one."""
    length = rules.length
    if length is None and inserts:
        length = Counter(len(text) for _, text in inserts).most_common(1)[0][0]
    wrong = [(record, len(text)) for record, text in inserts if len(text) != length]
    fix = "correct it, strip flanks with prefix= and suffix=, or leave such sequences out with wrong_length='skip'"
    return length, [
        Fault(
            record.line,
            "wrong_length",
            f"{record.place()}: {_label(record)} has {found} letters, expected {length}; {fix}",
        )
        for record, found in wrong
    ]
