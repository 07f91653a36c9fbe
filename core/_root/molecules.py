"""Facts about molecules that rewards and domains share: the alphabet of SELFIES words, and SMILES as tokens and back.

A molecule is a row of `LENGTH` = 24 tokens, int64, each a word of `ALPHABET`: one or several symbols of SELFIES (2: Krenn et
al. 2020; Lo et al. 2023), such as `[N]`, a ring closure with its size, `[Ring1][=Branch1]`, or a whole phenyl,
`[C][=C][C][=C][C][=C][Ring1][=Branch1]`. Words make rows three times shorter than symbols would, what belongs together is
drawn at once, and a model that draws words masks and draws again *pieces* of a molecule, not atoms.

Token 0 is `[nop]`, "no operation", which stands for nothing: decoding skips it wherever it is. It pads shorter molecules to
the full length, and it is a token of the vocabulary like any other, so that a model draws the length of a molecule together
with the molecule: there is no separate model of lengths, and filling in or masking again may lengthen or shorten a molecule.
`MASK` = `len(ALPHABET)` is the mask of a masked diffusion and has no word.

Every row of tokens decodes to something: symbols that ask for more bonds than an atom has are read as fewer. How many
bonds an atom has (`CAPACITY`) is fixed here and does not follow what other code tells the selfies package.

`SYMBOLS` has the symbols that at least 50 of 396 342 molecules need: ZINC250k, QM9 and the two sets in the rdkit wheel,
each as rdkit's canonical SMILES. All are words, so that whatever these symbols can write has tokens, if perhaps many. The
longer words were learned from ZINC250k by pair merging (Sennrich et al. 2016; `tiltflow.domains.molecules.learn_words`).
Of ZINC250k 657 molecules cannot be written, because they need rarer symbols (boron, silicon, metals, isotopes, radicals,
some charges) or more than 24 words (97 of them): `encode` says so.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .smiles import MoleculeError, molecule, quiet, shortened

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "ALPHABET",
    "CAPACITY",
    "LENGTH",
    "MASK",
    "PAD",
    "SYMBOLS",
    "WORDS",
    "MoleculeError",
    "decode",
    "encode",
    "encode_one",
    "package",
    "pinned",
    "segment",
    "structures",
    "symbols",
]

SYMBOLS: tuple[str, ...] = (
    "[#Branch1]", "[#Branch2]", "[#C]", "[#N]", "[/C]", "[/Cl]", "[/NH1+1]", "[/N]", "[/O]",
    "[/S]", "[=Branch1]", "[=Branch2]", "[=C]", "[=N+1]", "[=NH1+1]", "[=NH2+1]", "[=N]", "[=O]",
    "[=Ring1]", "[=Ring2]", "[=S]", "[Br]", "[Branch1]", "[Branch2]", "[C@@H1]", "[C@@]", "[C@H1]",
    "[C@]", "[C]", "[Cl]", "[F]", "[I]", "[N+1]", "[N-1]", "[NH1+1]", "[NH1]",
    "[NH2+1]", "[NH3+1]", "[N]", "[O-1]", "[O]", "[P]", "[Ring1]", "[Ring2]", "[S-1]",
    "[S@@]", "[S@]", "[S]", "[\\C]", "[\\NH1]", "[\\N]", "[\\O-1]", "[\\O]", "[\\S]",
)  # fmt: skip
WORDS: tuple[str, ...] = tuple((files(__package__) / "assets" / "selfies_words.txt").read_text("ascii").split())
ALPHABET: tuple[str, ...] = ("[nop]", *SYMBOLS, *WORDS)
PAD = 0  # [nop]
MASK = len(ALPHABET)  # the token that stands for "not drawn yet"
LENGTH = 24  # tokens of every row

#: Most bonds of an atom by element and charge: the defaults of selfies 2.2, "?" for all others.
CAPACITY: dict[str, int] = {
    "H": 1, "F": 1, "Cl": 1, "Br": 1, "I": 1,
    "B": 3, "B+1": 2, "B-1": 4,
    "O": 2, "O+1": 3, "O-1": 1,
    "N": 3, "N+1": 4, "N-1": 2,
    "C": 4, "C+1": 3, "C-1": 3,
    "P": 5, "P+1": 4, "P-1": 6,
    "S": 6, "S+1": 5, "S-1": 5,
    "?": 8,
}  # fmt: skip

_SPLIT: tuple[tuple[str, ...], ...] = tuple(tuple(re.findall(r"\[[^\]]*\]", word)) for word in ALPHABET)
_INDEX = {word: index for index, word in enumerate(_SPLIT)}
_LONGEST = max(map(len, _SPLIT))
_PINNED = threading.RLock()  # the constraints of selfies are global to the process


def encode(smiles: Iterable[str], length: int = LENGTH) -> Tensor:
    """Tokens int64 `[N, length]` of N SMILES: the words of each one's canonical form, then `[nop]`.

    The same molecule gives the same tokens however its SMILES is written. Salts and mixtures (with a dot) have no SELFIES
    here: give the fragment that matters.

    Raises:
        MoleculeError: the first SMILES that cannot be encoded, by its position from 1, and why.
    """
    if isinstance(smiles, str):
        raise MoleculeError(f"one text came, {shortened(smiles)}; expected several, so write [text]")
    rows = []
    for number, text in enumerate(smiles, 1):
        try:
            rows.append(encode_one(text, length)[1])
        except MoleculeError as error:
            raise MoleculeError(f"molecule {number}: {error}") from error
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, length)


def encode_one(smiles: str, length: int = LENGTH) -> tuple[str, list[int]]:
    """The canonical SMILES and the `length` tokens of one molecule. Raises as `encode` does, without a position."""
    from rdkit import Chem

    found = molecule(smiles)
    count = found.GetNumHeavyAtoms()
    if count > length * _LONGEST:  # before anything that takes long
        raise MoleculeError(f"{shortened(smiles)} has {count} heavy atoms; {length} tokens cannot hold them")
    text = str(Chem.MolToSmiles(found))
    if any(atom.GetNumRadicalElectrons() for atom in found.GetAtoms()):
        raise MoleculeError(f"{shortened(text)} has unpaired electrons; write the hydrogens that are missing")
    if "." in text:
        parts = text.split(".")
        hint = f"expected one, such as {shortened(max(parts, key=len))}"
        raise MoleculeError(f"{shortened(text)} has {len(parts)} fragments; {hint}")
    tokens = segment(_selfies(text), text)
    if len(tokens) > length:
        raise MoleculeError(f"{shortened(text)} takes {len(tokens)} words; at most {length} fit")
    return text, tokens + [PAD] * (length - len(tokens))


def segment(written: Sequence[str], text: str = "") -> list[int]:
    """SELFIES symbols as tokens: from the left, each time the longest word that fits.

    Args:
        text: what the symbols are of, for the message.

    Raises:
        MoleculeError: a symbol that no word has.
    """
    unknown = [symbol for symbol in written if (symbol,) not in _INDEX]
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        raise MoleculeError(f"{shortened(text)} needs {names}, which the alphabet does not have")
    tokens, start = [], 0
    while start < len(written):
        sizes = range(min(_LONGEST, len(written) - start), 0, -1)
        words = (tuple(written[start : start + size]) for size in sizes)
        word = next(word for word in words if word in _INDEX)
        tokens.append(_INDEX[word])
        start += len(word)
    return tokens


def decode(tokens: Tensor) -> list[str]:
    """Canonical SMILES of each row of tokens `[B, L]`; "" where nothing is left (all `[nop]`) or rdkit refuses the molecule.

    Atoms that got fewer bonds than their symbol was written for are filled up with hydrogens: no radicals come out.

    Raises:
        MoleculeError: not an integer tensor `[B, L]`, or a token outside the alphabet (the mask has no symbol).
    """
    rows = symbols(tokens)
    with quiet(), pinned():
        return [_smiles("".join(row)) for row in rows]


def structures(tokens: Tensor) -> list[Mol | None]:
    """rdkit molecules of each row of tokens `[B, L]`, None where `decode` gives "".

    Atoms stand in the order of their symbols: where rows begin with the same symbols, their molecules begin with the same atoms.

    Raises:
        MoleculeError: as `decode` does.
    """
    rows = symbols(tokens)
    with quiet(), pinned():
        return [_structure("".join(row)) for row in rows]


def symbols(tokens: Tensor) -> list[list[str]]:
    """SELFIES symbols of each row of tokens `[B, L]`, without `[nop]`.

    Raises:
        MoleculeError: as `decode` does.
    """
    rows = _tokens(tokens).tolist()
    return [[symbol for token in row if token != PAD for symbol in _SPLIT[token]] for row in rows]


def package() -> Any:
    """The selfies package.

    Raises:
        ModuleNotFoundError: it is not installed; says how to.
    """
    try:
        import selfies
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Molecules need selfies: pip install 'tiltflow[molecules]'.") from error
    return selfies


@contextmanager
def pinned() -> Iterator[None]:
    """selfies works with `CAPACITY` inside, whatever the process set before, and with that again after."""
    selfies = package()
    with _PINNED:
        before = selfies.get_semantic_constraints()
        if before == CAPACITY:
            yield
            return
        selfies.set_semantic_constraints(dict(CAPACITY))
        try:
            yield
        finally:
            selfies.set_semantic_constraints(before)


def _selfies(text: str) -> Sequence[str]:
    """SELFIES symbols of a canonical SMILES."""
    selfies = package()
    try:
        with pinned():
            return list(selfies.split_selfies(selfies.encoder(text)))
    except selfies.EncoderError as error:
        raise MoleculeError(f"{shortened(text)} has no SELFIES: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What selfies says, without the molecule and the layout."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(("SMILES:", "Errors:")))


@lru_cache(maxsize=65536)
def _smiles(text: str) -> str:
    """Canonical SMILES of a SELFIES; "" where there is none. Call under `pinned` and `quiet`.

    Samplers ask for the same molecules again and again.
    """
    from rdkit import Chem

    found = _structure(text)
    return "" if found is None else str(Chem.MolToSmiles(found))


def _structure(text: str) -> Mol | None:
    """The molecule of a SELFIES, or None. Call under `pinned` and `quiet`."""
    from rdkit import Chem

    found = Chem.MolFromSmiles(package().decoder(text)) if text else None
    return None if found is None or not found.GetNumAtoms() else _filled(found)


def _filled(found: Mol) -> Mol:
    """The molecule with hydrogens where bonds are missing.

    Symbols in brackets, such as [C@@], say how many hydrogens they have: with fewer neighbours than they were written for
    they would be radicals or carbenes, which nobody means.
    """
    from rdkit import Chem

    open_atoms = [atom for atom in found.GetAtoms() if atom.GetNumRadicalElectrons()]
    if not open_atoms:
        return found
    for atom in open_atoms:
        atom.SetNumRadicalElectrons(0)
        atom.SetNoImplicit(False)
    found.UpdatePropertyCache()
    Chem.AssignStereochemistry(found, cleanIt=True, force=True)
    return found


def _tokens(x: Tensor) -> Tensor:
    """`x` as int64 `[B, L]` on the CPU, checked."""
    whole = isinstance(x, Tensor) and not x.is_floating_point() and x.dtype != torch.bool and x.ndim == 2
    if not whole:
        came = f"{x.dtype} tensor of shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise MoleculeError(f"{came}: expected int64 tokens [B, L]")
    outside = ((x < 0) | (x >= MASK)).nonzero()
    if len(outside):
        row, column = outside[0].tolist()
        token = int(x[row, column])
        hint = " (the mask: pass finished samples only)" if token == MASK else ""
        raise MoleculeError(f"token {token}{hint} in row {row}, position {column}: expected 0 to {MASK - 1}")
    return x.long().cpu()
