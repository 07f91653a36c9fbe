"""Bases fixed or restricted site by site, from IUPAC text: what the sampler itself can enforce.

Positions are those of the biologist: they count from 1, here, in every message and in `echo`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ...dna import ALPHABET, IUPAC, MASK, DnaError, parse_iupac
from ..files import listing, quoted

_CODE = {frozenset(bases): code for code, bases in IUPAC.items()}
_RUN = re.compile(r"([A-Za-z])(\*|[0-9]*)")


class TemplateError(DnaError):
    """A template that cannot be read or honoured; the message names the position and the fix."""


@dataclass(frozen=True, eq=False)
class Template:
    """Bases allowed at each site.

    Args:
        allowed: bool `[L, 4]`, columns A C G T, at least one true in every row; what `Diffusion.restrict` takes.
        name: what messages call it.
        parts: the templates that it combines, none for a single one.

    Raises:
        TemplateError: `allowed` of another shape or type, or a site without a base.
    """

    allowed: Tensor
    name: str = "template"
    parts: tuple[Template, ...] = ()

    def __post_init__(self) -> None:
        allowed = self.allowed
        flat = isinstance(allowed, Tensor) and allowed.dtype == torch.bool and allowed.shape[1:] == (4,)
        if not flat or not len(allowed):
            raise TemplateError(f"{self.name}: allowed must be a bool tensor [L, 4], columns A C G T")
        empty = (~allowed.any(-1)).nonzero().flatten().tolist()
        if empty:
            raise TemplateError(f"{self.name}: no base is allowed at position {empty[0] + 1}; allow at least one")

    @classmethod
    def parse(cls, spec: str | Mapping[int | str, str], length: int = 80, name: str | None = None) -> Template:
        """Read a template of `length` sites.

        Args:
            spec: one of three forms, in IUPAC codes (N is free, A C G T are fixed), upper or lower case:
                letters, "NNNNTATAWAWNN..."; a letter and a number is a run, and N* fills the rest: "N20 TATAWAW N*";
                motifs at positions counted from 1, all else free: {10: "TATAWA", 40: "CCGN11CGG"};
                the same as text: "10:TATAWA, 40:CCGN11CGG".
            name: what messages call it; None takes the text itself.

        Raises:
            TemplateError: an unknown letter, a malformed run, another total length, a position outside 1..length, or
                motifs that contradict each other.
        """
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise TemplateError(f"length={length!r}; expected a whole number of sites, at least 1")
        if isinstance(spec, str) and ":" in spec:
            return _placed(_pairs(spec), length, name)
        if isinstance(spec, Mapping):
            return _placed(list(spec.items()), length, name)
        if not isinstance(spec, str):
            raise TemplateError(f"template: {type(spec).__name__} came; expected a text or {{position: motif}}")
        text = _expand(spec, length)
        if len(text) != length:
            raise TemplateError(
                f"template: {len(text)} positions, expected {length}; write N* once for a run of N that fills the rest"
            )
        return cls(parse_iupac(text), name or quoted(spec))

    @classmethod
    def free(cls, length: int = 80) -> Template:
        """All bases at all sites."""
        return cls.parse("N*", length)

    @classmethod
    def combine(cls, *templates: Template) -> Template:
        """What all templates allow.

        Raises:
            TemplateError: no template, other lengths, or positions where nothing is left, with the sources of each.
        """
        parts = tuple(part for template in templates for part in (template.parts or (template,)))
        if not parts:
            raise TemplateError("combine: no template came; expected at least one")
        if len({len(part.allowed) for part in parts}) > 1:
            found = ", ".join(f"{part.name} {len(part.allowed)}" for part in parts)
            raise TemplateError(f"templates of different lengths: {found}; make them equal")
        allowed = torch.stack([part.allowed for part in parts]).all(0)
        problems = [_contradiction(parts, site) for site in (~allowed.any(-1)).nonzero().flatten().tolist()]
        if problems:
            raise TemplateError(listing("templates contradict each other", problems))
        return cls(allowed, " & ".join(part.name for part in parts), parts)

    def __and__(self, other: Template) -> Template:
        return Template.combine(self, other)

    def __len__(self) -> int:
        return len(self.allowed)

    @property
    def fixed(self) -> Tensor:
        """Sites with one base: bool `[L]`."""
        return self.allowed.sum(-1) == 1

    @property
    def restricted(self) -> Tensor:
        """Sites with two or three bases: bool `[L]`."""
        return ~self.fixed & ~self.allowed.all(-1)

    @property
    def tokens(self) -> Tensor:
        """The base of fixed sites and the mask elsewhere, int64 `[L]`; what `Diffusion.infill` takes."""
        return torch.where(self.fixed, self.allowed.int().argmax(-1), MASK)

    @property
    def count(self) -> int:
        """How many sequences fit, exactly."""
        return math.prod(self.allowed.sum(-1).tolist())

    @property
    def iupac(self) -> str:
        """One IUPAC code for each site."""
        return "".join(_codes(self.allowed))

    def fits(self, tokens: Tensor) -> Tensor:
        """Which sequences of int64 `[B, L]` honour the template: bool `[B]`. A mask never does."""
        if tokens.dtype != torch.int64 or tokens.ndim != 2 or tokens.shape[1] != len(self):
            found = f"{tokens.dtype} tensor of shape {list(tokens.shape)}"
            raise TemplateError(f"{self.name}: {found}; expected int64 tokens [B, {len(self)}]")
        hits = tokens.unsqueeze(-1) == torch.arange(len(ALPHABET), device=tokens.device)  # [B, L, 4]
        return (hits & self.allowed.to(tokens.device)).any(-1).all(-1)

    def echo(self) -> str:
        """The template as it was understood: a form that `parse` reads, then what is fixed, restricted and free."""
        iupac, ranges = self.iupac, list(_ranges(self.iupac))
        lines = [f"{self.name}: {len(self)} bp, positions from 1, read as {_runs(iupac)}"]
        for kind in ("fixed", "restricted", "free"):
            texts = [place if kind == "free" else f"{place} {text}" for what, place, text in ranges if what == kind]
            number = sum(len(text) for what, _, text in ranges if what == kind)
            lines.append(f"{kind} ({number}): {', '.join(texts) or 'none'}")
        legend = [f"{code} = {' or '.join(IUPAC[code])}" for code in sorted(set(iupac) - {*ALPHABET, "N"})]
        return "\n".join([*lines, *legend, f"sequences that fit: 10^{math.log10(self.count):.1f}"])


def _pairs(spec: str) -> list[tuple[int | str, str]]:
    """(position, motif) of "10:TATAWA, 40:CCGN11CGG"."""
    entries = [entry for entry in re.split(r"[\s,;]+", spec) if entry]
    for entry in entries:
        if entry.count(":") != 1:
            raise TemplateError(f"template: {quoted(entry)}: expected position:motif, such as 10:TATAWA")
    return [(position, motif) for position, _, motif in (entry.partition(":") for entry in entries)]


def _placed(entries: list[tuple[int | str, str]], length: int, name: str | None) -> Template:
    """Motifs at positions counted from 1, all else free."""
    parts = tuple(_place(position, motif, length) for position, motif in entries)
    allowed = Template.combine(Template.free(length), *parts).allowed
    return Template(allowed, name or quoted(", ".join(f"{position}:{motif}" for position, motif in entries)), parts)


def _place(position: int | str, motif: str, length: int) -> Template:
    digits = isinstance(position, str) and re.fullmatch("[0-9]{1,9}", position.strip())
    start = int(position) if digits else position
    if isinstance(start, bool) or not isinstance(start, int):
        raise TemplateError(f"template: position {quoted(str(position))}: expected a whole number, counted from 1")
    if not isinstance(motif, str):
        raise TemplateError(f"template: position {start}: {type(motif).__name__} came; expected IUPAC codes")
    text = _expand(motif, length, f"position {start}: ")
    if start < 1 or start - 1 + len(text) > length:
        raise TemplateError(
            f"template: position {start}: a motif of {len(text)} does not fit in 1 to {length}; "
            f"it can begin at 1 to {length - len(text) + 1}"
        )
    free = "N" * (start - 1)
    return Template(parse_iupac(free + text + "N" * (length - len(free + text))), f"{quoted(motif)} at {start}")


def _expand(spec: str, length: int, where: str = "") -> str:
    """Letters of a text with runs; at most `length` of them are ever written out."""
    runs = list(_tokenise(spec, where))
    stars = sum(number is None for _, number in runs)
    total = sum(number or 0 for _, number in runs)
    if not runs:
        raise TemplateError(f"template: {where}empty; expected IUPAC codes such as TATAWA, or N* for no constraint")
    if stars > 1:
        raise TemplateError(f"template: {where}{stars} runs with *; one at most can fill the rest")
    if total > length or (stars and total == length):
        room = "leaves no room for the run with *" if total == length else "is too long"
        raise TemplateError(f"template: {where}{total} positions, expected {length}: this {room}")
    return "".join(code * (length - total if number is None else number) for code, number in runs)


def _tokenise(spec: str, where: str) -> Iterator[tuple[str, int | None]]:
    """(code, how often) of every run; None is *."""
    index = 0
    while index < len(spec):
        if spec[index] in " \t\r\n_":
            index += 1
            continue
        match = _RUN.match(spec, index)
        if match is None or match[1].upper() not in IUPAC:
            raise TemplateError(f"template: {where}character {index + 1}: {_letter_fix(spec[index])}")
        code, number = match[1].upper(), match[2]
        if number and number != "*" and (int(number[:9]) == 0 or len(number) > 9):
            raise TemplateError(f"template: {where}character {index + 1}: run {quoted(match[0])}; expected 1 or more")
        yield code, None if number == "*" else int(number or 1)
        index = match.end()


def _letter_fix(letter: str) -> str:
    if letter in "0123456789*":
        return f"{letter!r} follows no letter; a run is written with the letter first, such as N20"
    if letter in "-.":
        return f"{letter!r} is no IUPAC code; write N for a free position"
    if letter in "Uu":
        return f"{letter!r} is RNA; write T"
    return f"{letter!r} is no IUPAC code; expected one of {' '.join(IUPAC)}"


def _codes(allowed: Tensor) -> Iterator[str]:
    for row in allowed.tolist():
        yield _CODE[frozenset(base for base, yes in zip(ALPHABET, row, strict=True) if yes)]


def _contradiction(parts: tuple[Template, ...], site: int) -> str:
    """Which parts leave nothing at a site; those that allow all are not to blame."""
    codes = [(part.name, next(_codes(part.allowed[site : site + 1]))) for part in parts]
    blame = " and ".join(f"{name} has {_meaning(code)}" for name, code in codes if code != "N")
    return f"position {site + 1}: {blame}; change one of them"


def _meaning(code: str) -> str:
    return code if code in ALPHABET else f"{code} ({' or '.join(IUPAC[code])})"


def _ranges(iupac: str) -> Iterator[tuple[str, str, str]]:
    """(kind, "21-27" counted from 1, codes) of every longest range of one kind."""
    kinds = ["free" if code == "N" else "fixed" if code in ALPHABET else "restricted" for code in iupac]
    start = 0
    for kind, group in groupby(kinds):
        end = start + len(list(group))
        yield kind, f"{end}" if end == start + 1 else f"{start + 1}-{end}", iupac[start:end]
        start = end


def _runs(iupac: str) -> str:
    """The run-length form: free stretches as N20, set apart by blanks."""
    groups = ["".join(group) for _, group in groupby(iupac, key="N".__eq__)]
    return " ".join(f"N{len(text)}" if text[0] == "N" else text for text in groups)
