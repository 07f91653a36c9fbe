"""SMILES to molecules and back, and for every text that is none the reason why.

Imports nothing that takes long before it is needed, and never torch: the processes that score molecules start with this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "MAX_ATOMS",
    "MAX_CHARACTERS",
    "MoleculeError",
    "canonical",
    "check",
    "molecule",
    "parse",
    "pattern",
    "problem",
    "quiet",
    "reference",
    "shortened",
]

MAX_ATOMS = 200  # heavy atoms: beyond, some scorers take minutes, and none was made for such molecules
MAX_CHARACTERS = 2_000  # of a SMILES: more cannot be a molecule of so few atoms, and takes long to read


class MoleculeError(ValueError):
    """Text or a tensor that is not the molecule it should be; the message says where and how to fix it."""


def canonical(smiles: str) -> str:
    """rdkit's canonical SMILES of a molecule, stereochemistry kept.

    Raises:
        MoleculeError: as `molecule` does.
    """
    from rdkit import Chem

    return str(Chem.MolToSmiles(molecule(smiles)))


def molecule(smiles: str) -> Mol:
    """The rdkit molecule of a SMILES; rdkit's own messages are kept for the error instead of printed.

    Raises:
        MoleculeError: not text, empty, too long, control characters or blanks inside, or refused by rdkit.
    """
    from rdkit import Chem

    text = _checked(smiles)
    with quiet():
        found = Chem.MolFromSmiles(text)
        if found is None or not found.GetNumAtoms():
            raise MoleculeError(_fault(text))
    return found


def parse(smiles: str, max_atoms: int = MAX_ATOMS) -> Mol:
    """A molecule of a size that can be scored.

    Raises:
        MoleculeError: as `molecule` does; no heavy atom, or more than `max_atoms`.
    """
    return check(molecule(smiles), max_atoms)


def check(mol: Any, max_atoms: int = MAX_ATOMS) -> Mol:
    """A molecule as scorers need it; for those read from elsewhere, such as an SD file.

    Raises:
        MoleculeError: None (a record that rdkit could not read), no heavy atom, or more than `max_atoms`.
    """
    if mol is None:
        raise MoleculeError("no molecule: rdkit could not read it")
    atoms = mol.GetNumHeavyAtoms()
    if not 1 <= atoms <= max_atoms:
        raise MoleculeError(f"{atoms} heavy atoms: expected 1 to {max_atoms}")
    return mol


def problem(smiles: str, max_atoms: int = MAX_ATOMS) -> str | None:
    """Why a text cannot be scored, or None where it can."""
    try:
        parse(smiles, max_atoms)
    except MoleculeError as error:
        return str(error)
    return None


@lru_cache(maxsize=256)
def reference(smiles: str) -> Mol:
    """A molecule that others are compared with, read once.

    Raises:
        MoleculeError: names the text.
    """
    try:
        return parse(smiles)
    except MoleculeError as error:
        raise MoleculeError(f"reference molecule {shortened(smiles)}: {error}") from None


@lru_cache(maxsize=256)
def pattern(smarts: str) -> Mol:
    """A SMARTS pattern, read once.

    Raises:
        MoleculeError: not a SMARTS.
    """
    from rdkit import Chem

    with quiet():
        query = Chem.MolFromSmarts(smarts) if smarts else None
    if query is None:
        raise MoleculeError(f"{smarts!r} is not a SMARTS pattern; expected one such as [#7]-c1ccccc1")
    return query


@contextmanager
def quiet() -> Iterator[None]:
    """rdkit prints nothing inside; what was set before is set again after."""
    from rdkit.rdBase import BlockLogs

    blocked = BlockLogs()
    try:
        yield
    finally:
        del blocked


def shortened(text: str) -> str:
    """`text` for a message: escaped, and cut where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _checked(smiles: Any) -> str:
    """`smiles` without blanks around it, if it can be one at all."""
    if not isinstance(smiles, str):
        raise MoleculeError(f"a {type(smiles).__name__} came; expected SMILES text")
    text = smiles.strip()
    if not text:
        raise MoleculeError("empty text; expected SMILES such as CCO")
    if len(text) > MAX_CHARACTERS:
        raise MoleculeError(f"{shortened(text)} has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    for position, letter in enumerate(text, 1):
        if not "!" <= letter <= "~":
            raise MoleculeError(
                f"{shortened(text)}: {letter!r} at position {position}; expected SMILES only, without a name"
            )
    return text


def _fault(text: str) -> str:
    """What is wrong with a SMILES that rdkit refuses: the chemistry where the syntax is right."""
    from rdkit import Chem

    rough = Chem.MolFromSmiles(text, sanitize=False)
    if rough is None or not rough.GetNumAtoms():
        return f"{shortened(text)} is not SMILES: check brackets, ring digits and element symbols"
    faults = Chem.DetectChemistryProblems(rough)
    return f"{shortened(text)} is no possible molecule: {faults[0].Message() if faults else 'rdkit refuses it'}"
