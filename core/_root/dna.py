"""Facts about DNA that rewards and domains share: letters, strands, position weight matrices and how often they match.

Tokens are int64 with A=0, C=1, G=2, T=3; 4 is the mask of a masked diffusion. Relaxed sequences are float `[..., L, 4]`
on the simplex, one-hot meaning a hard token.
"""

from __future__ import annotations

from .nucleotides import ALPHABET, IUPAC, MASK, DnaError, decode, encode, one_hot, parse_iupac, reverse_complement
from .pwm import UNIFORM, Pwm, motif_counts, parse_pfms, read_pfms, scan

__all__ = [
    "ALPHABET",
    "IUPAC",
    "MASK",
    "UNIFORM",
    "DnaError",
    "Pwm",
    "decode",
    "encode",
    "motif_counts",
    "one_hot",
    "parse_iupac",
    "parse_pfms",
    "read_pfms",
    "reverse_complement",
    "scan",
]
