"""Words that the sampler fixes: templates of SELFIES symbols, scaffolds that a molecule grows from, fragments to be linked.

What is exact. A template fixes tokens at their places, and the sampler draws the others from the model given these; one
site at a time (`FirstHitting`) that is the exact conditional law of the tokens. (Of some sites several tokens are allowed;
each step renormalises over them, which is close to the conditional law and not equal.) What a token means, however, depends
on the tokens before it: after a free site, a fixed symbol may be read as part of a branch, as a ring size, or not at all.

SELFIES are read from the left, so fixed symbols at the *beginning* always mean the same. `grow_from` writes a scaffold so
that it stands there with one atom last, and asks for an atom with a single bond right after it: every sample then contains
the scaffold, grown at that atom; its other atoms can only be ends of new rings, where they have hydrogens to give (and a new
ring may make atoms aromatic that were not).

`link` goes on from there: it allows only words that close what they open and leave a bond for the next one
(`passes_on`), and fixes the second fragment behind them, so every sample contains both fragments and what joins them.

Several points of growth cannot be promised in one go: they grow one after another, see `fragments`. The model
learned canonical SELFIES, in which few molecules begin with a given scaffold: its samples are less natural there, and a
reward has to make up for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...molecules import ALPHABET, LENGTH, MASK, PAD, SYMBOLS, package, pinned, segment
from ...smiles import MoleculeError, molecule, quiet

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_SYMBOL = re.compile(r"\[[^\]]*\]")
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
    """A template of SELFIES symbols and free sites: "[C][=Branch1][C][=O] *4 [N]".

    Symbols that follow one another are written in as few words as there are for them. `*` is a free site, which takes a
    word, and `*4` are four of them; sites after the last word are free. See the module for what that promises.

    Raises:
        TemplateError: an unknown symbol, or more sites than there are.
    """
    fixed: list[int | None] = []
    run: list[str] = []
    for word in _WORD.findall(text):
        if word in _KNOWN:
            run.append(word)
        elif word[0] == "*" and word != "*0":
            fixed += [*segment(run), *[None] * int(word[1:] or 1)]
            run = []
        else:
            raise TemplateError(f"template: {word!r} is {_meaning(word)}")
    fixed += segment(run)
    if not any(token is not None for token in fixed):
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
    fixed = tokens_of(scaffold, opened(*rooted(scaffold), scaffold)[0])
    if len(fixed) >= length:
        raise TemplateError(f"scaffold: takes {len(fixed)} words of {length}, which leaves none to grow")
    template = _template(fixed, length, f"scaffold {scaffold}, growing at *")
    # A double bond, a branch or a ring right here would take what a ring inside the scaffold still needs of this atom.
    template.allowed[len(fixed)] = _starts_with_an_atom()
    return template


def link(fragments: str, words: int = 3, length: int = LENGTH) -> Template:
    """The template of two fragments, each with one `*`, and `words` free words between them: "*c1ccccc1.*N1CCOCC1".

    The molecule ends with the second fragment: nothing else grows.

    Raises:
        TemplateError: not two SMILES with one `*` each; no word between them; more words than fit.
    """
    parts = fragments.split(".")
    if len(parts) != 2:
        raise TemplateError(
            f"linker: {fragments!r} has {len(parts)} fragments; expected two, such as *c1ccccc1.*N1CCOCC1"
        )
    if isinstance(words, bool) or not isinstance(words, int) or words < 1:
        raise TemplateError(f"linker: {words!r} words; expected at least 1")
    first, second = (
        tokens_of(parts[0], opened(*rooted(parts[0]), parts[0])[0]),
        tokens_of(parts[1], _linked_symbols(parts[1])),
    )
    free = range(len(first), len(first) + words)
    if free.stop + len(second) > length:
        raise TemplateError(f"linker: takes {free.stop + len(second)} words; the molecules have {length}")
    fixed: list[int | None] = [*first, *[None] * words, *second]
    fixed += [PAD] * (length - len(fixed))
    template = _template(fixed, length, f"fragments {fragments}, linked by {words} word{'s' * (words > 1)}")
    template.allowed[free] = torch.tensor([passes_on(word) for word in ALPHABET])
    template.allowed[free.start] &= _starts_with_an_atom()
    return template


@cache
def passes_on(word: str) -> bool:
    """Whether a word of SELFIES symbols is whole by itself and leaves its last atom a bond for what follows.

    Its branches and rings end inside it; tried out between a chain and an atom that nothing else has, all of its atoms and
    rings are there, and what follows is bound to one of its atoms.
    """
    from rdkit import Chem

    symbols = _SYMBOL.findall(word)
    atoms, rings, whole = _contents(symbols)
    if not atoms or not whole:
        return False
    with quiet(), pinned():
        found = Chem.MolFromSmiles(package().decoder(f"{'[C]' * 3}{word}{_MARK}"), sanitize=False)
    last = found.GetNumAtoms() - 1
    if last != 3 + atoms or found.GetAtomWithIdx(last).GetSymbol() != "At":
        return False
    ends = [sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in found.GetBonds()]
    to_the_chain = sum(one < 3 for one, _ in ends)  # two bonds of its own, and that to the word
    return to_the_chain == 3 and len(ends) == last + rings and any(one > 2 for one, other in ends if other == last)


def _contents(symbols: Sequence[str]) -> tuple[int, int, bool]:
    """(atoms, rings, whether all branches and their lengths end inside) of SELFIES symbols."""
    from selfies.constants import INDEX_ALPHABET

    atoms = rings = place = 0
    while place < len(symbols):
        symbol, place = symbols[place], place + 1
        if not ("Branch" in symbol or "Ring" in symbol):
            atoms += symbol != "[nop]"
            continue
        digits, place = symbols[place : place + int(symbol[-2])], place + int(symbol[-2])
        if place > len(symbols) or any(digit not in INDEX_ALPHABET for digit in digits):
            return atoms, rings, False
        rings += "Ring" in symbol
        size = sum(INDEX_ALPHABET.index(digit) * 16**power for power, digit in enumerate(reversed(digits))) + 1
        if "Branch" in symbol and place + size > len(symbols):
            return atoms, rings, False
    return atoms, rings, True


@cache
def _starts_with_an_atom() -> Tensor:
    """Which words begin with an atom bound by a single bond, bool `[K]`."""
    first = [_SYMBOL.findall(word)[0] for word in ALPHABET]
    return torch.tensor([symbol in _SINGLE for symbol in first])


def rooted(scaffold: str) -> tuple[Mol, int]:
    """A scaffold with one `*`, as rdkit's molecule and the index of that atom.

    Raises:
        TemplateError: no molecule; none or several `*`; one that cannot be written last.
    """
    try:
        found = molecule(scaffold)
    except MoleculeError as error:
        raise TemplateError(f"scaffold: {error}") from error
    open_atoms = stars(found, scaffold)
    if len(open_atoms) != 1:
        several = "; several points grow one after another: tiltflow.domains.molecules.grow" * (len(open_atoms) > 1)
        raise TemplateError(f"scaffold: {scaffold!r} has {len(open_atoms)} '*'; expected one{several}")
    return found, open_atoms[0]


def stars(found: Mol, scaffold: str) -> list[int]:
    """Indices of the atoms `*` of a scaffold, each bound to the atom that grows.

    Raises:
        TemplateError: one with another number of bonds than one, or whose atom has stereochemistry.
    """
    from rdkit import Chem

    places = [atom.GetIdx() for atom in found.GetAtoms() if atom.GetAtomicNum() == 0]
    for place in places:
        star = found.GetAtomWithIdx(place)
        if star.GetDegree() != 1:
            raise TemplateError(f"scaffold: each '*' in {scaffold!r} must be bound to one atom, which grows")
        bond = star.GetBonds()[0]
        plain = bond.GetOtherAtom(star).GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED
        if not plain or bond.GetBondType() != Chem.BondType.SINGLE:
            raise TemplateError(
                f"scaffold: the atom at '*' in {scaffold!r} must have no stereochemistry and a single bond there"
            )
    return places


def opened(found: Mol, star: int, words: str) -> tuple[list[str], list[int]]:
    """SELFIES symbols of a molecule whose open atom, the neighbour of `star`, is the last that symbols after them attach to.

    Args:
        words: the molecule, for messages.

    Returns:
        The symbols, and the atoms of `found` without `star` in the order in which they are written.
    """
    from rdkit import Chem

    with quiet():
        text = _wrapped(Chem.MolToSmiles(found, rootedAtAtom=star))
    order = list(found.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
    if text[0] in "/\\":
        raise TemplateError(
            f"scaffold: the atom at '*' in {words!r} ends a double bond of known side; leave out / and \\\\"
        )
    return _symbols_of(f"{text}{_MARK}", words)[:-1], order[1:]


def _linked_symbols(fragment: str) -> list[str]:
    """SELFIES symbols of a fragment whose open atom is the first, which attaches to what stands before."""
    from rdkit import Chem

    found, star = rooted(fragment)
    with quiet():
        text = Chem.MolToSmiles(found, rootedAtAtom=star).removeprefix("*").removeprefix("-")
    return _symbols_of(f"{_MARK}{text}", fragment)[1:]


def _symbols_of(text: str, scaffold: str) -> list[str]:
    selfies = package()
    with pinned():
        try:
            return list(selfies.split_selfies(selfies.encoder(text)))
        except selfies.EncoderError as error:
            raise TemplateError(f"scaffold: {scaffold!r} has no SELFIES") from error


def tokens_of(scaffold: str, symbols: Sequence[str]) -> list[int]:
    """Tokens of a scaffold's symbols. Raises TemplateError for symbols that the alphabet does not have."""
    try:
        return segment(symbols, scaffold)
    except MoleculeError as error:
        raise TemplateError(f"scaffold: {error}") from error


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


def _template(fixed: Sequence[int | None], length: int, words: str) -> Template:
    allowed = torch.ones(length, MASK, dtype=torch.bool)
    for site, token in enumerate(fixed):
        if token is not None:
            allowed[site] = torch.arange(MASK) == token
    return Template(allowed, words)


def _meaning(word: str) -> str:
    if word.startswith("["):
        return "no symbol of the alphabet; see tiltflow.molecules.SYMBOLS"
    return "neither a symbol in brackets nor *; a SMILES with a * goes to scaffold="


_KNOWN = {"[nop]", *SYMBOLS}
_NO_ATOM = ("Branch", "Ring")
_SINGLE = {symbol for symbol in SYMBOLS if symbol[1] not in "=#/\\-" and not any(word in symbol for word in _NO_ATOM)}
