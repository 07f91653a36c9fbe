"""Position weight matrices: read them, score sequences with them, count their sites; see `tiltflow.dna`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from .nucleotides import ALPHABET, DnaError, one_hot, parse_iupac

UNIFORM = (0.25, 0.25, 0.25, 0.25)

_STEP = 0.01  # nats: scores are rounded to this grid where their distribution is needed exactly
_CHUNK = 2**24  # scores held at once by `motif_counts`


@dataclass(frozen=True, eq=False)
class Pwm:
    """A position weight matrix: log p(letter at position) / p(letter in the background).

    Args:
        name: as in the file.
        log_odds: float64 `[W, 4]`, nats, columns A C G T, finite.
        background: letter frequencies of the null model.
        pseudocount: total pseudocount per position that went into `log_odds` (a record, for reports).
    """

    name: str
    log_odds: Tensor
    background: Sequence[float] = UNIFORM
    pseudocount: float = 0.0

    def __post_init__(self) -> None:
        shape = self.log_odds.shape
        if len(shape) != 2 or shape[0] < 1 or shape[1] != 4 or not bool(self.log_odds.isfinite().all()):
            raise DnaError(f"motif {self.name!r}: log_odds of shape {list(shape)}; expected finite [W, 4] with W >= 1")
        _check_background(self.background)

    @property
    def width(self) -> int:
        """Number of positions."""
        return self.log_odds.shape[0]

    @property
    def max_score(self) -> float:
        """Score of the best word, in nats."""
        return float(self.log_odds.amax(1).sum())

    @classmethod
    def from_counts(
        cls, name: str, counts: Tensor, pseudocount: float = 0.8, background: Sequence[float] = UNIFORM
    ) -> Pwm:
        """p(letter) = (count + pseudocount * background) / (sites + pseudocount) at each position of counts `[W, 4]`.

        The default pseudocount, in all and not per letter, is that of Nishida, Frith and Nakai (2009).

        Raises:
            DnaError: negative or non-finite counts, an empty position, pseudocount <= 0, or an impossible background.
        """
        _check_background(background)
        if not 0 < pseudocount < float("inf"):
            raise DnaError(f"pseudocount {pseudocount}: expected > 0, or letters never seen would score -inf")
        if counts.dim() != 2 or counts.shape[1] != 4:
            raise DnaError(f"motif {name!r}: counts of shape {list(counts.shape)}; expected [W, 4], columns A C G T")
        counts, null = counts.double(), torch.tensor(background, dtype=torch.float64)
        total = counts.sum(-1, keepdim=True)
        if not bool(counts.isfinite().all() and (counts >= 0).all() and (total > 0).all() and total.isfinite().all()):
            raise DnaError(f"motif {name!r}: expected finite counts >= 0, with at least one site at each position")
        frequencies = (counts + pseudocount * null) / (total + pseudocount)
        return cls(name, (frequencies / null).log(), tuple(background), pseudocount)

    @classmethod
    def from_consensus(
        cls, text: str, sites: float = 20.0, pseudocount: float = 0.8, background: Sequence[float] = UNIFORM
    ) -> Pwm:
        """The matrix of `sites` sites spread by background over the letters that an IUPAC consensus allows."""
        _check_background(background)
        if not 0 < sites < float("inf"):
            raise DnaError(f"sites {sites}: expected a positive number")
        allowed = parse_iupac(text).double() * torch.tensor(background, dtype=torch.float64)
        return cls.from_counts(text, sites * allowed / allowed.sum(-1, keepdim=True), pseudocount, background)


def _check_background(background: Sequence[float]) -> None:
    if len(background) != 4 or not all(p > 0 for p in background) or not abs(sum(background) - 1) < 1e-6:
        raise DnaError(f"background {tuple(background)}: expected four positive frequencies that sum to 1 (A, C, G, T)")


def read_pfms(
    path: str | Path, pseudocount: float = 0.8, background: Sequence[float] = UNIFORM, sites: float = 100.0
) -> list[Pwm]:
    """Motifs from a file of position frequency matrices.

    After each `>name` line come either one row `A C G T` per position, or one row per letter, with or without the
    letters (`A [ 1 2 3 ]`, the JASPAR format). Empty lines and lines that start with # are skipped.

    Args:
        path: text file.
        pseudocount: see `Pwm.from_counts`.
        background: letter frequencies of the null model.
        sites: number of sites that a motif stands for when it holds frequencies (every position sums to 1).

    Raises:
        DnaError: anything else, with file and line.
        OSError: the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DnaError(
            f"{path}: not a text file ({error.reason} at byte {error.start}); expected PFMs in text"
        ) from None
    return parse_pfms(text, str(path), pseudocount, background, sites)


def parse_pfms(
    text: str,
    source: str = "<text>",
    pseudocount: float = 0.8,
    background: Sequence[float] = UNIFORM,
    sites: float = 100.0,
) -> list[Pwm]:
    """`read_pfms` on text; `source` names it in errors."""
    seen: dict[str, int] = {}
    motifs = []
    for line, name, rows in _blocks(text, source):
        if name in seen:
            raise DnaError(f"{source}:{line}: motif {name!r} was already given in line {seen[name]}; rename one")
        seen[name] = line
        counts = _counts(rows, f"{source}:{line}: motif {name!r}")
        if bool(((counts.sum(-1) - 1).abs() < 1e-2).all()):
            counts = counts * sites
        try:
            motifs.append(Pwm.from_counts(name, counts, pseudocount, background))
        except DnaError as error:
            raise DnaError(f"{source}:{line}: {error}") from None
    if not motifs:
        raise DnaError(f"{source}: no motif found; expected lines '>name' followed by counts")
    return motifs


_Row = tuple[str, list[float]]  # the letter in front, if any, and the numbers


def _blocks(text: str, source: str) -> Iterable[tuple[int, str, list[_Row]]]:
    """(line number, name, rows) of each motif."""
    block: tuple[int, str, list[_Row]] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped.startswith(">"):
            if block:
                yield block
            block = (number, stripped[1:].strip(), [])
            if not block[1]:
                raise DnaError(f"{source}:{number}: a motif without a name; write '>name'")
        elif stripped and not stripped.startswith("#"):
            if block is None:
                raise DnaError(f"{source}:{number}: {stripped[:40]!r} before the first '>name' line")
            block[2].append(_row(stripped, f"{source}:{number}"))
    if block:
        yield block


def _row(line: str, where: str) -> _Row:
    letter = line[0].upper() if line[0] in "ACGTacgt" else ""
    body = line[1:].strip() if letter else line
    if body.startswith("[") and body.endswith("]"):
        body = body[1:-1]
    try:
        return letter, [float(number) for number in body.split()]
    except ValueError:
        raise DnaError(f"{where}: {line[:40]!r} is not a row of counts; expected numbers such as 18 39 25 18") from None


def _counts(rows: list[_Row], where: str) -> Tensor:
    """Counts `[W, 4]` from the rows of one motif, whichever way they lie."""
    letters, numbers = "".join(letter for letter, _ in rows), [row for _, row in rows]
    widths = {len(row) for row in numbers}
    if len(widths) != 1 or widths == {0}:
        raise DnaError(f"{where}: rows of {sorted(widths)} numbers; expected rows of one length")
    if letters:
        if sorted(letters) != list(ALPHABET) or len(rows) != 4:
            raise DnaError(f"{where}: rows for {letters!r}; expected one row for each of A, C, G, T")
        return torch.tensor([numbers[letters.index(letter)] for letter in ALPHABET], dtype=torch.float64).T
    by_position, by_letter = widths == {4}, len(rows) == 4
    if by_position == by_letter:
        problem = "4 x 4 numbers could lie either way" if by_position else f"{len(rows)} rows of {widths.pop()} numbers"
        raise DnaError(
            f"{where}: {problem}; write one row per letter as 'A [ 1 2 3 ]', or one row 'A C G T' per position"
        )
    counts = torch.tensor(numbers, dtype=torch.float64)
    return counts if by_position else counts.T


def scan(x: Tensor, pwms: Sequence[Pwm]) -> Tensor:
    """Score of every motif at every start and strand, in nats: float64 `[B, M, 2, L]`, by one convolution.

    score(start) = sum_w sum_letter x[start + w, letter] * log_odds[w, letter]; strand 1 scores the reverse complement
    of the same window. Starts where a motif would overhang the end hold -inf. Relaxed input gives the expected score.

    Args:
        x: tokens `[B, L]` or relaxed `[B, L, 4]`.
        pwms: at least one motif, of any widths.
    """
    scores = _correlate(one_hot(x, torch.float64), [pwm.log_odds for pwm in pwms])
    return scores.masked_fill(~_fits(scores, pwms), -torch.inf)


def motif_counts(tokens: Tensor, pwms: Sequence[Pwm], p_value: float = 1e-4) -> Tensor:
    """How many sites of each motif a sequence holds: int64 `[B, M]`.

    A site is a start where either strand scores at least the threshold; overlapping sites all count, a start that
    matches on both strands (a palindrome) counts once. The threshold of a motif is the smallest score that a random
    word of its background reaches with probability at most `p_value`, by dynamic programming over scores rounded to
    0.01 nats (Staden 1989). A motif too short for that is met by its best word only.

    Args:
        tokens: int64 `[B, L]`.
        pwms: M motifs.
        p_value: probability per start and strand, in (0, 1).
    """
    if not 0 < p_value < 1:
        raise DnaError(f"p_value {p_value}: expected a probability in (0, 1), such as 1e-4")
    grids = [_grid(pwm) for pwm in pwms]
    threshold = torch.tensor([_limit(pwm, p_value) for pwm in pwms], device=tokens.device)[:, None, None]
    rows = max(1, _CHUNK // (2 * len(grids) * max(1, tokens.shape[-1])))
    counts = []
    for chunk in one_hot(tokens, torch.float64).split(rows):
        scores = _correlate(chunk, grids)
        counts.append(((scores >= threshold) & _fits(scores, pwms)).any(2).sum(-1))
    return torch.cat(counts)


def _grid(pwm: Pwm) -> Tensor:
    """`[W, 4]` whole numbers of steps: scores of them add up exactly, and no site hangs on rounding."""
    return (pwm.log_odds / _STEP).round()


@lru_cache(maxsize=4096)
def _limit(pwm: Pwm, p_value: float) -> float:
    """The threshold of a motif on the grid, worked out once: milliseconds each, for hundreds of motifs at every call."""
    return _threshold(_grid(pwm), pwm.background, p_value)


def _threshold(grid: Tensor, background: Sequence[float], p_value: float) -> float:
    """Smallest sum s of one entry per row of `grid` (whole numbers, `[W, 4]`) with P(sum >= s) <= p_value."""
    low = grid.amin(1)
    steps = (grid - low[:, None]).long().tolist()
    law = torch.zeros(sum(max(row) for row in steps) + 1, dtype=torch.float64)
    law[0] = 1.0
    for row in steps:
        law = sum(
            (p * F.pad(law, (s, 0))[: len(law)] for s, p in zip(row, background, strict=True)), torch.zeros_like(law)
        )
    tail = law.flip(0).cumsum(0).flip(0)
    unlikely = (tail <= p_value * (1 + 1e-9)).nonzero()
    return float(low.sum()) + (int(unlikely[0]) if len(unlikely) else len(law) - 1)


def _correlate(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Sums `[B, M, 2, L]` of every matrix `[W, 4]` along one-hot `x` `[B, L, 4]`, past its end too, on both strands."""
    if not matrices:
        raise DnaError("no motif given; expected at least one Pwm")
    width = max(len(matrix) for matrix in matrices)
    pairs = [strand for matrix in matrices for strand in (matrix, matrix.flip(0, 1))]
    bank = torch.stack([F.pad(strand, (0, 0, 0, width - len(strand))) for strand in pairs])
    padded = F.pad(x.transpose(1, 2), (0, width - 1))
    return F.conv1d(padded, bank.to(x).transpose(1, 2)).unflatten(1, (-1, 2))


def _fits(scores: Tensor, pwms: Sequence[Pwm]) -> Tensor:
    """Where a motif lies inside the sequence: bool `[M, 1, L]` for scores `[B, M, 2, L]`."""
    length = scores.shape[-1]
    last = torch.tensor([length - pwm.width for pwm in pwms], device=scores.device)
    return torch.arange(length, device=scores.device) <= last[:, None, None]
