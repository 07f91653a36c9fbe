"""Rules for DNA sequences as rewards: 0 where a rule holds, and minus the size of the violation where it does not.

All take tokens `[B, L]` and relaxed `[B, L, 4]` and return float64 `[B]`. On relaxed input they give the expectation of
the token penalty when every position is drawn independently (`GcWindow`: the penalty of the expected GC content), which
is the token penalty itself at one-hot input, and differentiable. `Repeats` alone takes tokens only.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..dna import DnaError, encode, one_hot, parse_iupac, reverse_complement


class _SequenceRule:
    """What the rules below share."""

    takes: ClassVar[str] = "relaxed"
    differentiable: ClassVar[bool] = True
    alphabet: ClassVar[str | None] = "ACGT"


@dataclass(frozen=True)
class GcWindow(_SequenceRule):
    """GC content between `low` and `high`, over the whole sequence or in every window.

    Reward: minus the distance of the GC fraction from [low, high], averaged over windows (0.1: ten percentage points).

    Args:
        low, high: fractions, 0 <= low <= high <= 1.
        window: width of the sliding window in bp, or None for the whole sequence.
    """

    low: float
    high: float
    window: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"GC between {self.low} and {self.high}: expected fractions with 0 <= low <= high <= 1")
        if self.window is not None:
            _check_count("window", self.window, 1)

    def __call__(self, x: Tensor) -> Tensor:
        gc = one_hot(x, torch.float64)[..., 1:3].sum(-1)
        width = gc.shape[1] if self.window is None else self.window
        fraction = _windows(gc, width, "GC window").sum(-1) / width
        return _penalty(((self.low - fraction).clamp(min=0) + (fraction - self.high).clamp(min=0)).mean(-1))


@dataclass(frozen=True)
class Homopolymer(_SequenceRule):
    """No run of one letter longer than `max_run`.

    Reward: minus the sum over runs of (length - max_run)+, that is, of the letters too many.
    """

    max_run: int

    def __post_init__(self) -> None:
        _check_count("max_run", self.max_run, 1)

    def __call__(self, x: Tensor) -> Tensor:
        hot = one_hot(x, torch.float64)
        if self.max_run >= hot.shape[1]:
            return hot.sum((1, 2)) * 0
        # A run of n holds n - max_run constant windows of max_run + 1 letters.
        return _penalty(_windows(hot, self.max_run + 1, "run").prod(-1).sum((1, 2)))


@dataclass(frozen=True)
class ForbiddenSites(_SequenceRule):
    """No occurrence of any site, on either strand.

    Reward: minus the number of occurrences. Overlapping ones all count; a site that reads the same on both strands
    (EcoRI, GAATTC) counts once per start.

    Args:
        sites: IUPAC sites ("GGTCTC", "GANTC") and names of restriction enzymes ("BsaI", as REBASE spells them; a name
            wins over an equal IUPAC text), one or several.

    Attributes:
        resolved: what each entry was taken to mean, as pairs (entry, IUPAC site), for reports.

    Raises:
        DnaError: an entry that is neither, or a site of N alone.
    """

    sites: str | Sequence[str]
    resolved: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        entries = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        if not entries:
            raise DnaError("no forbidden site given; expected IUPAC sites or enzyme names, such as ['BsaI', 'GAATTC']")
        object.__setattr__(self, "sites", entries)
        object.__setattr__(self, "resolved", tuple((entry, site) for entry in entries for site in resolve_site(entry)))

    def __call__(self, x: Tensor) -> Tensor:
        hot = one_hot(x, torch.float64)
        counts = [_expected_matches(hot, pattern) for pattern in self._patterns()]
        return _penalty(torch.stack(counts).sum(0))

    def _patterns(self) -> list[Tensor]:
        """Distinct patterns over both strands, each bool `[W, 4]`."""
        forward = [parse_iupac(site) for _, site in self.resolved]
        both = [strand for pattern in forward for strand in (pattern, pattern.flip(0, 1))]
        return list({str(pattern.tolist()): pattern for pattern in both}.values())


def resolve_site(entry: str) -> tuple[str, ...]:
    """The IUPAC sites meant by an enzyme name or an IUPAC text (an enzyme that cuts at two sites has two).

    Raises:
        DnaError: neither an enzyme name nor an IUPAC text, or N alone.
    """
    enzymes = _enzymes()
    sites = tuple(enzymes[entry].split("|")) if entry in enzymes else (entry.upper(),)
    try:
        patterns = [parse_iupac(site) for site in (sites if entry in enzymes else (entry,))]
    except DnaError as error:
        near = difflib.get_close_matches(entry, enzymes, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise DnaError(f"{entry!r} is neither a restriction enzyme nor an IUPAC site ({error}){hint}") from None
    if any(bool(pattern.all()) for pattern in patterns):
        raise DnaError(f"the site {entry!r} matches everything: expected at least one letter other than N")
    return sites


@lru_cache(maxsize=1)
def _enzymes() -> dict[str, str]:
    """Recognition site of each restriction enzyme, from REBASE as Biopython ships it."""
    from Bio.Restriction import AllEnzymes  # type: ignore[attr-defined]

    return {str(enzyme): enzyme.site for enzyme in AllEnzymes}


@dataclass(frozen=True)
class Repeats:
    """No word of `length` letters twice (they spoil synthesis and recombine).

    Reward: minus the number of words that occurred before in the same sequence, overlapping ones included.

    Args:
        length: 1 to 31 bp.
        both_strands: count a word whose reverse complement occurred before as well (hairpins).
    """

    length: int
    both_strands: bool = False

    takes: ClassVar[str] = "tokens"
    differentiable: ClassVar[bool] = False
    alphabet: ClassVar[str | None] = "ACGT"

    def __post_init__(self) -> None:
        _check_count("length", self.length, 1)
        if self.length > 31:
            raise ValueError(f"length {self.length}: expected at most 31 letters")

    def __call__(self, x: Tensor) -> Tensor:
        words = self._words(x)
        if self.both_strands:
            words = torch.minimum(words, self._words(reverse_complement(x)).flip(-1))
        ordered = words.sort(-1).values
        return _penalty((ordered[:, 1:] == ordered[:, :-1]).sum(-1).double())

    def _words(self, x: Tensor) -> Tensor:
        """Each word as a number in base 4: int64 `[B, starts]`."""
        tokens = one_hot(x).argmax(-1)  # also checks them
        if self.length > tokens.shape[1]:
            return tokens[:, :0]
        return (tokens.unfold(1, self.length, 1) * 4 ** torch.arange(self.length, device=x.device)).sum(-1)


@dataclass(frozen=True)
class MaxEdits(_SequenceRule):
    """At most `max` substitutions with respect to `parent`.

    Reward: minus (number of substitutions - max)+. On relaxed input the excess of the expected number.

    Args:
        parent: sequence over ACGT, as long as the samples.
        max: number of positions that may differ, >= 0.
    """

    parent: str
    max: int

    def __post_init__(self) -> None:
        encode(self.parent)
        _check_count("max", self.max, 0)

    def __call__(self, x: Tensor) -> Tensor:
        hot, parent = one_hot(x, torch.float64), encode(self.parent).to(x.device)
        if len(parent) != hot.shape[1]:
            raise DnaError(f"parent of {len(parent)} letters, samples of {hot.shape[1]}: expected equal lengths")
        kept = hot[:, torch.arange(len(parent)), parent].sum(-1)
        return _penalty((len(parent) - kept - self.max).clamp(min=0))


def _expected_matches(hot: Tensor, pattern: Tensor) -> Tensor:
    """Expected number of starts where `pattern` (bool `[W, 4]`) matches `hot` `[B, L, 4]`: `[B]`."""
    if len(pattern) > hot.shape[1]:
        return hot.sum((1, 2)) * 0
    mass = hot @ pattern.to(hot).T  # [B, L, W]: what each letter of the pattern finds at each position
    sites = mass.unfold(1, len(pattern), 1).diagonal(dim1=-2, dim2=-1)  # [B, starts, W]: letter w at start + w
    return sites.prod(-1).sum(-1)


def _windows(x: Tensor, width: int, what: str) -> Tensor:
    """`[B, L, ...]` -> `[B, L - width + 1, ..., width]`."""
    if width > x.shape[1]:
        raise DnaError(f"{what} of {width} positions, samples of {x.shape[1]}: expected at most that many")
    return x.unfold(1, width, 1)


def _penalty(size: Tensor) -> Tensor:
    return 0.0 - size  # not -size, which writes 0 as -0 in every report


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} {value!r}: expected a whole number, at least {least}")
