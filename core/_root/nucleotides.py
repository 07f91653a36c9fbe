"""The letters of DNA as tokens: IUPAC codes, strands, one-hot; see `tiltflow.dna`.

Tokens are int64 with A=0, C=1, G=2, T=3; 4 is the mask of a masked diffusion. Relaxed sequences are float `[..., L, 4]`
on the simplex, one-hot meaning a hard token.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHABET = "ACGT"
MASK = len(ALPHABET)  # the token that stands for "not drawn yet"
IUPAC: dict[str, str] = {
    "A": "A", "C": "C", "G": "G", "T": "T",
    "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip

_COMPLEMENT = (3, 2, 1, 0, 4)


class DnaError(ValueError):
    """Text or a tensor that is not the DNA it should be; the message says where and how to fix it."""


def encode(text: str) -> Tensor:
    """Tokens int64 `[L]` of a sequence over ACGT; lower case is read as upper case.

    Raises:
        DnaError: an empty text, or a letter other than A, C, G, T.
    """
    if not text:
        raise DnaError("empty sequence: expected letters A, C, G, T")
    return torch.tensor([ALPHABET.index(letter) for letter in _letters(text, ALPHABET, "a DNA letter")])


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
    codes = _letters(text, "".join(IUPAC), "an IUPAC nucleotide code")
    return torch.tensor([[letter in IUPAC[code] for letter in ALPHABET] for code in codes])


def _letters(text: str, known: str, what: str) -> list[str]:
    """`text` in upper case, letter by letter; only ASCII case is folded, since str.upper can change the length."""
    upper = [chr(ord(letter) - 32) if "a" <= letter <= "z" else letter for letter in text]
    for position, letter in enumerate(upper):
        if letter not in known:
            hint = "; write T for U" if letter == "U" else ""
            raise DnaError(f"{text[position]!r} at position {position + 1} is not {what}: expected {known}{hint}")
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
