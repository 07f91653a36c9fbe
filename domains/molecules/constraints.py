"""Symbols that the sampler fixes: templates of SELFIES symbols, and scaffolds that a molecule grows from.

What is exact. A template fixes tokens at their places, and the sampler draws the others from the model given these; one
site at a time (`FirstHitting`) that is the exact conditional law of the tokens. What a token means, however, depends on the
tokens before it: after a free site, a fixed symbol may be read as part of a branch, as a ring size, or not at all. SELFIES
are read from the left, so fixed symbols at the *beginning* always mean the same. `grow_from` writes a scaffold so that it
stands there with one atom last, and asks for an atom with a single bond right after it: every sample then contains the
scaffold, grown at that atom; its other atoms can only be ends of new rings, where they have hydrogens to give (and a new
ring may make atoms aromatic that were not). (Of that one
site several tokens are allowed; each step renormalises over them, which is close to the conditional law and not equal.)
Several points of growth, or a scaffold in the middle of a molecule, cannot be promised this way: a reward for a
substructure, or a hard rule, can ask for them. Also, the model learned canonical SELFIES, in which few molecules begin
with a given scaffold: its samples are less natural there, and a reward has to make up for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ...molecules import ALPHABET, LENGTH, MASK, MoleculeError, molecule, package, pinned, quiet

_WORD = re.compile(r"\[[^\[\]]*\]|\*\d*|\S")
_MARK = "[At]"  # an atom that no scaffold has, in the place where the molecule goes on


class TemplateError(MoleculeError):
    """A template or scaffold that cannot be honoured; the message says why and how to fix it."""


@dataclass(frozen=True, eq=False)
class Template:
    """Which tokens are allowed where.

    Attributes:
        allowed: bool `[L, K]`.
        words: what is fixed, for reports.
    """

    allowed: Tensor
    words: str

    def fits(self, tokens: Tensor) -> Tensor:
        """Which rows of tokens int64 `[B, L]` keep to it: bool `[B]`."""
        sites = torch.arange(tokens.shape[1], device=tokens.device)
        return self.allowed.to(tokens.device)[sites, tokens].all(1)


def parse(text: str, length: int = LENGTH) -> Template:
    """A template of SELFIES symbols and free sites: "[C] [=Branch1] [C] [=O] *10 [N]".

    `*` is a free site and `*10` are ten of them; sites after the last word are free. See the module for what that promises.

    Raises:
        TemplateError: an unknown symbol, or more sites than there are.
    """
    fixed: list[str | None] = []
    for word in _WORD.findall(text):
        if word in _INDEX:
            fixed.append(word)
        elif word[0] == "*" and word != "*0":
            fixed += [None] * int(word[1:] or 1)
        else:
            raise TemplateError(f"template: {word!r} is {_meaning(word)}")
    if not any(fixed):
        raise TemplateError("template: nothing is fixed; expected SELFIES symbols such as [C], and * for free sites")
    if len(fixed) > length:
        raise TemplateError(f"template: {len(fixed)} sites; the molecules have {length}")
    return _template(fixed, length, f"template {text.strip()}")


def grow_from(scaffold: str, length: int = LENGTH) -> Template:
    """The template of a scaffold with one `*` where the molecule goes on, such as "*c1ccc2[nH]ccc2c1".

    The scaffold's symbols stand first, written so that the atom at `*` comes last: `A(rest)...`, where A is that atom.

    Raises:
        TemplateError: not a SMILES with exactly one `*`; stereochemistry at its atom; too long to leave room for growth.
    """
    symbols = _scaffold_symbols(scaffold)
    if len(symbols) >= length:
        raise TemplateError(f"scaffold: takes {len(symbols)} symbols of {length}, which leaves none to grow")
    unknown = [symbol for symbol in symbols if symbol not in _INDEX]
    if unknown:
        raise TemplateError(f"scaffold: {scaffold!r} needs {', '.join(unknown)}, which the alphabet does not have")
    template = _template(symbols, length, f"scaffold {scaffold}, growing at *")
    # A double bond, a branch or a ring right here would take what a ring inside the scaffold still needs of this atom.
    template.allowed[len(symbols)] = torch.tensor([symbol in _SINGLE for symbol in ALPHABET])
    return template


def _scaffold_symbols(scaffold: str) -> list[str]:
    """SELFIES symbols of a scaffold whose open atom is the last that symbols after them attach to."""
    from rdkit import Chem

    try:
        found = molecule(scaffold)
    except MoleculeError as error:
        raise TemplateError(f"scaffold: {error}") from error
    stars = [atom for atom in found.GetAtoms() if atom.GetAtomicNum() == 0]
    if len(stars) != 1 or stars[0].GetDegree() != 1:
        raise TemplateError(f"scaffold: {scaffold!r} has {len(stars)} '*'; expected one, bound to the atom that grows")
    bond = stars[0].GetBonds()[0]
    opening = bond.GetOtherAtom(stars[0])
    if opening.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED or bond.GetBondType() != Chem.BondType.SINGLE:
        raise TemplateError(
            f"scaffold: the atom at '*' in {scaffold!r} must have no stereochemistry and a single bond there"
        )
    if found.GetNumAtoms() == 2:
        text = Chem.MolToSmiles(found, rootedAtAtom=opening.GetIdx())[:-1]
    else:
        with quiet():
            text = _wrapped(Chem.MolToSmiles(found, rootedAtAtom=stars[0].GetIdx()))
    selfies = package()
    with pinned():
        try:
            symbols = list(selfies.split_selfies(selfies.encoder(f"{text}{_MARK}")))
        except selfies.EncoderError as error:
            raise TemplateError(f"scaffold: {scaffold!r} has no SELFIES") from error
    return symbols[:-1]


def _wrapped(rooted: str) -> str:
    """ "*A1(B)CC1" -> "A1(B)(CC1)": the chain after the first atom becomes a branch, so that what is added follows atom A."""
    text = rooted.removeprefix("*").removeprefix("-")
    end = re.match(r"(\[[^\]]*\]|Br|Cl|[A-Za-z])((?:[-=#:/\\]?(?:\d|%\d\d))*)", text)
    assert end is not None, rooted
    place, depth = end.end(), 0
    while place < len(text) and (text[place] == "(" or depth):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        place += 1
    return text[:place] + (f"({text[place:]})" if text[place:] else "")


def _template(fixed: list[str | None] | list[str], length: int, words: str) -> Template:
    allowed = torch.ones(length, MASK, dtype=torch.bool)
    for site, symbol in enumerate(fixed):
        if symbol is not None:
            allowed[site] = torch.arange(MASK) == _INDEX[symbol]
    return Template(allowed, words)


def _meaning(word: str) -> str:
    if word.startswith("["):
        return "no symbol of the alphabet; see tiltflow.molecules.ALPHABET"
    return "neither a symbol in brackets nor *; a SMILES with a * goes to scaffold="


_INDEX = {symbol: index for index, symbol in enumerate(ALPHABET)}
_NO_ATOM = ("[nop]", "Branch", "Ring")
_SINGLE = {symbol for symbol in ALPHABET if symbol[1] not in "=#/\\-" and not any(word in symbol for word in _NO_ATOM)}
