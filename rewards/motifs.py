"""Motif occupancy: how strongly a factor's position weight matrix is bound anywhere on a sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from ..dna import UNIFORM, DnaError, Pwm, read_pfms, scan

Motif = Pwm | str | Path


@dataclass(frozen=True, eq=False)
class MotifOccupancy:
    """Thermodynamic occupancy of motifs, both strands, differentiable.

        Z_m(x) = sum over starts and strands of exp(score_m(start, strand) - mu)
        r(x)   = sign * sum_m log(1 + Z_m(x))                                           [nats]

    Z_m is the statistical weight of all states with one factor bound, against 1 for the free sequence; log(1 + Z_m) is
    minus the binding free energy in units of kT, and Z_m / (1 + Z_m) the probability to be bound (Granek and Clarke
    2005; Roider et al. 2007). With the default mu = log(number of starts and strands), Z is the mean likelihood ratio
    of motif against background. Its average over random background sequence is exactly 1 (if A and T, C and G are equally
    frequent there), so r is about log 2 or less where there is no site, and grows by one nat for each nat that a
    dominant site gains.

    Relaxed input uses the expected score of a window; at one-hot input it is the token result.

    Args:
        motifs: a `Pwm`, an IUPAC consensus ("TATAWAW"), the path of a PFM file (a `Path`, or text with a dot or a
            slash), or a sequence of these.
        sign: 1 for wanted motifs, -1 for unwanted ones.
        select: names of the motifs to take (default: all), for files of many.
        mu: chemical potential in nats, the score of a site that is bound half of the time (default: see above).
        background: letter frequencies A, C, G, T of the null model.
        pseudocount: total pseudocount per position (`Pwm.from_counts`).

    Raises:
        DnaError: a motif, file or name that cannot be read.
        ValueError: sign is neither 1 nor -1, or mu is not finite.
        OSError: a file that cannot be opened.
    """

    motifs: Motif | Sequence[Motif]
    sign: Literal[1, -1] = 1
    select: Sequence[str] | None = None
    mu: float | None = None
    background: Sequence[float] = UNIFORM
    pseudocount: float = 0.8
    pwms: tuple[Pwm, ...] = field(init=False, repr=False)

    takes: ClassVar[str] = "relaxed"
    differentiable: ClassVar[bool] = True
    alphabet: ClassVar[str | None] = "ACGT"

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign {self.sign!r}: expected 1 (wanted) or -1 (unwanted)")
        if self.mu is not None and not math.isfinite(self.mu):
            raise ValueError(f"mu {self.mu!r}: expected a finite score in nats, or None")
        object.__setattr__(self, "pwms", self._load())

    def __call__(self, x: Tensor) -> Tensor:
        """Reward float64 `[B]`, in nats, of tokens `[B, L]` or relaxed `[B, L, 4]`."""
        return self.sign * softplus(self._log_weight(x), threshold=40).sum(-1)  # beyond 40, equal in float64

    def occupancy(self, x: Tensor) -> Tensor:
        """Probability that each motif is bound: float64 `[B, M]`."""
        return self._log_weight(x).sigmoid()

    def _log_weight(self, x: Tensor) -> Tensor:
        """log Z: float64 `[B, M]`."""
        length = x.shape[1]
        for pwm in self.pwms:
            if pwm.width > length:
                raise DnaError(f"motif {pwm.name!r} is {pwm.width} wide; the sequences have only {length} positions")
        log_z = scan(x, self.pwms).flatten(2).logsumexp(-1)
        starts = log_z.new_tensor([2 * (length - pwm.width + 1) for pwm in self.pwms])
        return log_z - (starts.log() if self.mu is None else self.mu)

    def _load(self) -> tuple[Pwm, ...]:
        given = [self.motifs] if isinstance(self.motifs, Pwm | str | Path) else list(self.motifs)
        pwms = [pwm for motif in given for pwm in self._read(motif)]
        if self.select is not None:
            unknown = sorted(set(self.select) - {pwm.name for pwm in pwms})
            if unknown:
                raise DnaError(f"no motif named {', '.join(unknown)}; there are {_some([pwm.name for pwm in pwms])}")
            pwms = [pwm for pwm in pwms if pwm.name in self.select]
        if not pwms:
            raise DnaError(
                "no motif given; expected a Pwm, an IUPAC consensus such as TATAWAW, or the path of a PFM file"
            )
        return tuple(pwms)

    def _read(self, motif: Motif) -> list[Pwm]:
        if isinstance(motif, Pwm):
            return [motif]
        if isinstance(motif, Path) or any(mark in motif for mark in "./\\"):
            return read_pfms(motif, self.pseudocount, self.background)
        try:
            return [Pwm.from_consensus(motif, pseudocount=self.pseudocount, background=self.background)]
        except DnaError as error:
            raise DnaError(f"motif {motif!r}: {error}; the path of a file has a dot or a slash") from None


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
