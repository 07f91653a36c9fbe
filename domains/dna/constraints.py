"""Forbidden sites against what the sampler can enforce (`Template`): refused where no sequence can honour both.

Positions count from 1. Translation-preserving codon masks are left out on purpose: which codons are synonymous couples
the three sites of a codon (serine is TCN or AGY), so no mask of single sites describes them exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ...dna import IUPAC, parse_iupac, reverse_complement
from ..files import listing, quoted, suggestion
from .templates import Template, TemplateError

__all__ = ["Site", "Template", "TemplateError", "check", "forbidden_sites"]

_BEAM = 256  # states kept by the search for a completion; beyond them it gives up its proof, never a template


@dataclass(frozen=True)
class Site:
    """A forbidden pattern: its name, and IUPAC codes read 5' to 3'; the other strand is forbidden too."""

    name: str
    pattern: str

    def strands(self) -> Iterator[tuple[str, Tensor]]:
        """(strand, bases of the pattern as read along the top strand, bool `[W, 4]`); once if it is a palindrome."""
        forward = parse_iupac(self.pattern)
        backward = reverse_complement(forward.float()).bool()
        yield "forward", forward
        if not torch.equal(forward, backward):
            yield "reverse", backward


def forbidden_sites(forbidden: str | Iterable[str] | Mapping[str, str]) -> tuple[Site, ...]:
    """Sites from enzyme names ("BsaI", through Bio.Restriction), IUPAC codes ("GGTCTC"), or {name: IUPAC codes}.

    Raises:
        TemplateError: an entry that is neither, with close names of enzymes.
    """
    if isinstance(forbidden, Mapping):
        return tuple(_site(str(name), pattern) for name, pattern in forbidden.items())
    entries = [forbidden] if isinstance(forbidden, str) else list(forbidden)
    return tuple(site for entry in entries for site in _named(entry))


def check(template: Template, forbidden: str | Iterable[str] | Mapping[str, str]) -> tuple[Site, ...]:
    """The sites of `forbidden`, after making sure that some sequence fits the template and holds none of them.

    Two tests. A site is unavoidable where the template's bases all lie within the site's. If there is none, a search
    along the sequence (states: which patterns have matched how far, Baeza-Yates and Gonnet 1992) asks whether all can
    be avoided at once; it is exact unless thousands of partial matches overlap, and never refuses a template wrongly.

    Raises:
        TemplateError: the sites that cannot be avoided, with strand, position and fix.
    """
    sites = forbidden_sites(forbidden)
    problems = [problem for site in sites for problem in _unavoidable(template, site)]
    if not problems and sites:
        problems = _dead_end(template, sites)
    if problems:
        raise TemplateError(listing(f"{template.name} contradicts forbidden sites", problems))
    return sites


def _site(name: str, pattern: object) -> Site:
    if not isinstance(pattern, str) or not pattern or pattern.upper().strip("".join(IUPAC)):
        raise TemplateError(f"forbidden site {quoted(name)}: {quoted(str(pattern))}; expected IUPAC codes")
    return Site(name, pattern.upper())


@cache
def _enzymes() -> dict[str, str]:
    """Name to recognition site, from REBASE through Biopython."""
    from Bio import Restriction

    return {str(enzyme): enzyme.site for enzyme in Restriction.AllEnzymes}  # type: ignore[attr-defined]


def _named(entry: object) -> Iterator[Site]:
    """The sites of an enzyme (a few have two), or the codes themselves."""
    enzymes = _enzymes()
    if isinstance(entry, str) and entry in enzymes:
        yield from (_site(entry, pattern) for pattern in enzymes[entry].split("|"))
    elif isinstance(entry, str) and entry and not entry.upper().strip("".join(IUPAC)):
        yield _site(entry.upper(), entry)
    else:
        hint = suggestion(str(entry), enzymes) or "; enzymes are written like EcoRI"
        raise TemplateError(f"forbidden site {quoted(str(entry))}: neither an enzyme nor IUPAC codes{hint}")


def _unavoidable(template: Template, site: Site) -> Iterator[str]:
    """A sentence for every window where all that the template allows is the site."""
    for strand, pattern in site.strands():
        if len(pattern) > len(template):
            return
        windows = template.allowed.unfold(0, len(pattern), 1)  # [L - W + 1, 4, W]
        inside = ~(windows & ~pattern.T).flatten(1).any(1)
        for start in inside.nonzero().flatten().tolist():
            end = start + len(pattern)
            yield (
                f"{site.name} ({site.pattern}) on the {strand} strand at positions {start + 1}-{end} is in every "
                f"sequence that fits, which has {template.iupac[start:end]} there; "
                "change one of these positions or drop the site"
            )


def _dead_end(template: Template, sites: tuple[Site, ...]) -> list[str]:
    """A sentence with the position where no completion is left, or nothing.

    States are bit sets: bit j of a pattern is set where its first j + 1 letters have just matched. A state that
    contains another can only do worse, so only the smallest are kept.
    """
    automaton = _Automaton.build(sites)
    states, truncated = {0}, False
    for site, row in enumerate(template.allowed.tolist()):
        moves = {automaton.step(state, base) for state in states for base in range(4) if row[base]}
        alive = _minimal({state for state in moves if not state & automaton.finals})
        if not alive and not truncated:
            hit = sorted({name for state in moves for name in automaton.hits(state)})
            return [
                f"no sequence that fits avoids all of them: one of {', '.join(hit)} ends at position {site + 1}, or "
                "another before it; free positions up to there or drop a site"
            ]
        if not alive:
            return []
        states, truncated = set(alive[:_BEAM]), truncated or len(alive) > _BEAM
    return []


def _minimal(states: set[int]) -> list[int]:
    """States that contain no other, smallest first, and no more than one beyond the beam."""
    kept: list[int] = []
    for state in sorted(states, key=lambda bits: (bits.bit_count(), bits)):
        if len(kept) > _BEAM:
            break
        if not any(other & state == other for other in kept):
            kept.append(state)
    return kept


@dataclass(frozen=True)
class _Automaton:
    """All patterns side by side in one integer, matched bit-parallel (Shift-And)."""

    names: dict[int, str]  # final bit -> site
    accepts: tuple[int, int, int, int]  # for each base, the pattern letters that it matches
    starts: int
    finals: int

    @classmethod
    def build(cls, sites: tuple[Site, ...]) -> _Automaton:
        names, accepts, starts, offset = {}, [0, 0, 0, 0], 0, 0
        for site in sites:
            for _, pattern in site.strands():
                for index, row in enumerate(pattern.tolist()):
                    for base in range(4):
                        accepts[base] |= row[base] << (offset + index)
                starts |= 1 << offset
                offset += len(pattern)
                names[1 << (offset - 1)] = site.name
        return cls(names, (accepts[0], accepts[1], accepts[2], accepts[3]), starts, sum(names))

    def step(self, state: int, base: int) -> int:
        """The state after one more base."""
        return ((state << 1) | self.starts) & self.accepts[base]

    def hits(self, state: int) -> list[str]:
        """Names of the sites that have just matched in full."""
        return [name for bit, name in self.names.items() if state & bit]
