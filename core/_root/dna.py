"""Facts about DNA that rewards and domains share: letters, strands, position weight matrices and how often they match.

Tokens are int64 with A=0, C=1, G=2, T=3; 4 is the mask of a masked diffusion. Relaxed sequences are float `[..., L, 4]`
on the simplex, one-hot meaning a hard token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHABET = "ACGT"
MASK = len(ALPHABET)  # the token that stands for "not drawn yet"
UNIFORM = (0.25, 0.25, 0.25, 0.25)
IUPAC: dict[str, str] = {
    "A": "A", "C": "C", "G": "G", "T": "T",
    "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip

_COMPLEMENT = (3, 2, 1, 0, 4)
_STEP = 0.01  # nats: scores are rounded to this grid where their distribution is needed exactly
_CHUNK = 2**24  # scores held at once by `motif_counts`


class DnaError(ValueError):
    """Text or a tensor that is not the DNA it should be; the message says where and how to fix it."""


def encode(text: str) -> Tensor:
    """Tokens int64 `[L]` of a sequence over ACGT; lower case is read as upper case.

    Raises:
        DnaError: an empty text, or a letter other than A, C, G, T.
    """
    if not text:
        raise DnaError("empty sequence: expected letters A, C, G, T")
    return torch.tensor([ALPHABET.index(letter) for letter in _letters(text, ALPHABET, "DNA letter")])


def decode(tokens: Tensor) -> list[str]:
    """Text of each row of `tokens`, int64 `[B, L]`.

    Raises:
        DnaError: not a `[B, L]` integer tensor, or a token outside 0..3 (the mask has no letter).
    """
    letters = torch.tensor(list(ALPHABET.encode()), dtype=torch.uint8)
    rows = letters[_tokens(tokens).cpu()].numpy()
    return [row.tobytes().decode() for row in rows]


def parse_iupac(text: str) -> Tensor:
    """Letters allowed at each position of an IUPAC consensus such as "TATAWAW": bool `[W, 4]`.

    Raises:
        DnaError: an empty text, or a letter outside the IUPAC table.
    """
    if not text:
        raise DnaError("empty consensus: expected IUPAC letters such as TATAWAW")
    codes = _letters(text, "".join(IUPAC), "IUPAC nucleotide code")
    return torch.tensor([[letter in IUPAC[code] for letter in ALPHABET] for code in codes])


def _letters(text: str, known: str, what: str) -> list[str]:
    """`text` in upper case, letter by letter; only ASCII case is folded, since str.upper can change the length."""
    upper = [chr(ord(letter) - 32) if "a" <= letter <= "z" else letter for letter in text]
    for position, letter in enumerate(upper):
        if letter not in known:
            hint = "; write T for U" if letter == "U" else ""
            raise DnaError(f"{text[position]!r} at position {position + 1} is not a {what}: expected {known}{hint}")
    return upper


def reverse_complement(x: Tensor) -> Tensor:
    """The other strand, read 5' to 3'.

    Args:
        x: int64 `[..., L]` (the mask, 4, stays a mask) or float `[..., L, 4]`, or `[..., L, 5]` with the mask last.
    """
    order = torch.tensor(_COMPLEMENT, device=x.device)
    if x.is_floating_point():
        return x.flip(-2)[..., order[: x.shape[-1]]]
    return order[x.long()].flip(-1)


def one_hot(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Float `[B, L, 4]` from tokens `[B, L]`; a relaxed `[B, L, 4]` passes through (cast where `dtype` is given).

    Raises:
        DnaError: another shape, a token outside 0..3, or a mask channel (`[B, L, 5]`).
    """
    if not x.is_floating_point():
        return F.one_hot(_tokens(x), len(ALPHABET)).to(dtype or torch.get_default_dtype())
    if x.dim() == 3 and x.shape[-1] == MASK + 1:
        raise DnaError(
            f"relaxed input {list(x.shape)} carries a mask channel: expected clean sequences [B, L, 4]; "
            "pass the clean estimate, not the noisy state"
        )
    if x.dim() != 3 or x.shape[-1] != len(ALPHABET):
        raise DnaError(f"relaxed input of shape {list(x.shape)}: expected [B, L, 4]")
    return x if dtype is None else x.to(dtype)


def _tokens(x: Tensor) -> Tensor:
    """`x` as int64 `[B, L]`, checked."""
    if x.is_floating_point() or x.dtype == torch.bool or x.dim() != 2:
        raise DnaError(f"{x.dtype} tensor of shape {list(x.shape)}: expected int64 tokens [B, L]")
    outside = (x < 0) | (x >= len(ALPHABET))
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        token = int(x[row, column])
        hint = " (the mask: pass finished samples only)" if token == MASK else ""
        raise DnaError(f"token {token}{hint} in sequence {row}, position {column}: expected 0..3 for ACGT")
    return x.long()


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
        if not pseudocount > 0:
            raise DnaError(f"pseudocount {pseudocount}: expected > 0, or letters never seen would score -inf")
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
    # On the grid, scores are small integers: float32 adds them exactly and no site hangs on rounding.
    grids = [(pwm.log_odds / _STEP).round() for pwm in pwms]
    limits = [_threshold(grid, pwm.background, p_value) for grid, pwm in zip(grids, pwms, strict=True)]
    threshold = torch.tensor(limits, device=tokens.device)[:, None, None]
    weights = [grid.float() for grid in grids]
    rows = max(1, _CHUNK // (2 * len(weights) * max(1, tokens.shape[-1])))
    counts = []
    for chunk in one_hot(tokens, torch.float32).split(rows):
        scores = _correlate(chunk, weights)
        counts.append(((scores >= threshold) & _fits(scores, pwms)).any(2).sum(-1))
    return torch.cat(counts)


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
