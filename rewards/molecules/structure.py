"""From text to a molecule, or to the reason why there is none. All scorers of this package take what `parse` returns."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MAX_ATOMS = 200  # heavy atoms: beyond, some scorers take minutes, and none was made for such molecules
MAX_LETTERS = 2_000  # of a SMILES: more cannot be a molecule of so few atoms, and takes long to read


class MoleculeError(ValueError):
    """Text that is no molecule, or a molecule that cannot be scored; the message says why."""


def parse(smiles: str, max_atoms: int = MAX_ATOMS) -> Mol:
    """The sanitised molecule that a SMILES stands for.

    Raises:
        MoleculeError: empty or too long a text, a syntax or valence error, no heavy atom, or more than `max_atoms`.
    """
    from rdkit import Chem, rdBase

    if not smiles.strip():
        raise MoleculeError("empty text: expected a SMILES such as CCO")
    if len(smiles) > MAX_LETTERS:
        raise MoleculeError(f"{len(smiles)} characters: expected a SMILES of at most {MAX_LETTERS}")
    if "\0" in smiles:
        raise MoleculeError("a NUL character: expected a SMILES such as CCO")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise MoleculeError(_fault(smiles))
    return check(mol, max_atoms)


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


def _fault(smiles: str) -> str:
    """What is wrong with a SMILES that does not parse: the chemistry where the syntax is right."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        rough = Chem.MolFromSmiles(smiles, sanitize=False)
        problems = [] if rough is None else Chem.DetectChemistryProblems(rough)
    if problems:
        return f"impossible chemistry: {problems[0].Message()}"
    shown = smiles if len(smiles) <= 60 else f"{smiles[:57]}..."
    return f"{shown!r} is not a SMILES"


@lru_cache(maxsize=256)
def reference(smiles: str) -> Mol:
    """A molecule that a scorer compares with, read once.

    Raises:
        MoleculeError: names the text.
    """
    try:
        return parse(smiles)
    except MoleculeError as error:
        raise MoleculeError(f"reference molecule {smiles!r}: {error}") from None


@lru_cache(maxsize=256)
def pattern(smarts: str) -> Mol:
    """A SMARTS pattern, read once.

    Raises:
        MoleculeError: not a SMARTS.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        query = Chem.MolFromSmarts(smarts) if smarts else None
    if query is None:
        raise MoleculeError(f"{smarts!r} is not a SMARTS pattern; expected one such as [#7]-c1ccccc1")
    return query
