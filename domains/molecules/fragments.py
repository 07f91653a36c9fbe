"""Molecules piece by piece: scaffolds that grow at several points, linkers of several lengths, fragments drawn again.

The moves are those of GenMol (Lee et al. 2025), for rows of words (`tiltflow.molecules`). `grow` takes the points of a
scaffold one after another, since words promise growth only at the atom that was written last (see `constraints`): each time
the molecule so far is written anew with the next point last, its words are fixed and the model draws the others. What comes
out is compared atom by atom with the molecule before; only growth by one single bond at that point passes. So what is drawn
at a point follows the model's law given the molecule so far and that growth, by rejection, and the whole is the product of
these laws over the points, in an order that is drawn for each molecule.

Other ways to draw, such as steering, are passed in: `draw=lambda law: SVDD(10).sample(Tilt(law, reward, 0.1), n).x`. At all
points but the last the reward sees molecules that are not finished, with hydrogens where they are to grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.diffusion import Diffusion, check_count
from ...molecules import MASK, PAD, decode, encode_one, structures
from ...smiles import MoleculeError, molecule, quiet
from .constraints import TemplateError, link, opened, stars, tokens_of

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from ..base import Domain

Draw = Callable[[Diffusion], Tensor]  # a law -> samples of it, int64 [M, L]
Sizes = tuple[int, int]  # least and most words
ROOM = 2  # words that a molecule must leave for each point that is still to grow
PATIENCE = 5  # rounds in a row without success, after which a molecule begins again from the scaffold


class GrowthError(ValueError):
    """Too few molecules of the kind that was asked for; the message says how many there were and what to do."""


@dataclass(frozen=True, eq=False)
class Growing:
    """A molecule on its way.

    Attributes:
        found: the molecule so far, its atoms in the order in which `words` have them; the one that grows next is the first.
        points: atoms of `found` that are still to grow, that one first; empty where the molecule is finished.
        words: tokens of `found` behind which the model is free.
        failed: rounds in a row in which nothing fitted.
    """

    found: Mol
    points: tuple[int, ...]
    words: tuple[int, ...] = ()
    failed: int = 0


def grow(
    domain: Domain,
    scaffold: str,
    n: int,
    *,
    generator: torch.Generator,
    draw: Draw | None = None,
    words: Sizes | None = None,
    tries: int = 20,
) -> Tensor:
    """n molecules that contain a scaffold, with a substituent at each `*` of it and nowhere else: tokens int64 `[n, L]`.

    Substituents at different `*` are not joined with each other. Without a `*` the result is a superstructure: each molecule
    grows at an atom that is drawn among those with a hydrogen, and may bind to the scaffold's other hydrogens as well.

    Args:
        scaffold: SMILES such as "*c1ccc(C(*)=O)cc1".
        draw: how a law is sampled: takes a `Diffusion` that starts from several templates, and returns tokens `[M, L]`, M at
            least their number. By default `law.sample(n)`.
        words: least and most words of each substituent, drawn evenly; None leaves the size to the model.
        tries: rounds for each point. In each, all molecules that are not finished are drawn.

    Raises:
        TemplateError: a scaffold that cannot grow there.
        GrowthError: fewer than n molecules after the last round.
        ValueError: an impossible number, or `draw` returned something else than samples of the law.
    """
    check_count("n", n)
    check_count("tries", tries)
    length = domain.diffusion.shape[0]
    low, high = _sizes(words or (1, length), length)
    base, points = _scaffold(scaffold)
    fresh = [_begin(base, points, length, scaffold, generator) for _ in range(n)]
    rows, done = list(fresh), dict[int, Tensor]()
    for _ in range(tries * max(1, len(points))):
        pending = [row for row in range(n) if row not in done]
        sizes = [length] * n if words is None else torch.randint(low, high + 1, (n,), generator=generator).tolist()
        starts = torch.stack([_start(rows[row].words, sizes[row], length) for row in pending])
        law = domain.diffusion.infill(starts)
        x = law.sample(n, generator=generator) if draw is None else draw(law)
        taken = _shared(_checked(x, starts), starts, [rows[row] for row in pending], not points)
        for row, got in zip(pending, taken, strict=True):
            rows[row] = _advance(rows[row], fresh[row], got, scaffold, length)
            if got is not None and not rows[row].points:
                done[row] = rewritten(*got)
        if len(done) == n:
            return torch.stack([done[row] for row in range(n)])
    raise GrowthError(
        f"{len(done)} of {n} molecules grew from {scaffold!r} in {tries} rounds for each point. Give more tries, fewer words "
        "for each substituent, a smaller scaffold, or fewer '*'."
    )


def links(
    domain: Domain,
    fragments: str,
    n: int,
    words: Sizes = (1, 6),
    *,
    generator: torch.Generator,
    draw: Draw | None = None,
) -> Tensor:
    """n molecules that join two fragments by linkers of several lengths, tokens int64 `[n, L]`.

    Each number of words has its own law (`constraints.link`), of which an even share is taken, the shortest first; lengths
    that leave no room are passed over.

    Args:
        fragments: two SMILES with one `*` each, such as "*c1ccccc1.*N1CCOCC1".
        words: least and most words of the linker.
        draw: as in `grow`; it must give at least as many samples as are taken of one length.

    Raises:
        TemplateError: fragments that cannot be linked.
        ValueError: an impossible number, or `draw` returned too few samples, or others than of the law.
    """
    check_count("n", n)
    length = domain.diffusion.shape[0]
    low, high = _sizes(words, length)
    shortest = link(fragments, low, length)
    room = int((shortest.allowed[:, PAD] & (shortest.allowed.sum(1) == 1)).sum())
    templates = [shortest, *(link(fragments, count, length) for count in range(low + 1, min(high, low + room) + 1))]
    made = []
    for index, template in enumerate(templates):
        share = (index + 1) * n // len(templates) - index * n // len(templates)
        if share:
            law = domain.diffusion.restrict(template.allowed)
            x = law.sample(share, generator=generator) if draw is None else draw(law)
            made.append(_checked(x, template.allowed.int().argmax(1)[None].expand(share, -1))[:share])
            if not bool(template.fits(made[-1]).all()):
                raise ValueError(_FOREIGN)
    x = torch.cat(made)
    return torch.stack([rewritten(row, found) for row, found in zip(x, structures(x), strict=True)])


def rewritten(tokens: Tensor, found: Mol | None) -> Tensor:
    """The tokens `[L]` of the molecule's canonical form, which is what models learned; where it has none, as they are."""
    from rdkit import Chem

    if found is None:
        return tokens
    try:
        smiles, row = encode_one(Chem.MolToSmiles(found), len(tokens))
    except MoleculeError:
        return tokens
    canonical = torch.tensor(row)
    return canonical if decode(canonical[None]) == [smiles] else tokens


# --- where a molecule begins and goes on ---------------------------------------------------------------------------


def _scaffold(scaffold: str) -> tuple[Mol, list[int]]:
    """The scaffold with hydrogens in place of `*`, and the atoms that had one, as often as they had."""
    from rdkit import Chem

    try:
        found = Chem.RWMol(molecule(scaffold))
    except MoleculeError as error:
        raise TemplateError(f"scaffold: {error}") from error
    if len(Chem.GetMolFrags(found)) > 1:
        raise TemplateError(f"scaffold: {scaffold!r} has several fragments; tiltflow.domains.molecules.links joins two")
    for place in stars(found, scaffold):
        star = found.GetAtomWithIdx(place)
        neighbour = star.GetNeighbors()[0]
        if neighbour.GetAtomicNum() < 2:
            raise TemplateError(f"scaffold: a '*' in {scaffold!r} is bound to no heavy atom")
        neighbour.SetIntProp(_POINTS, 1 + (neighbour.GetIntProp(_POINTS) if neighbour.HasProp(_POINTS) else 0))
        star.SetAtomicNum(1)
        star.SetIsotope(0)
        star.SetAtomMapNum(0)
    with quiet():
        Chem.SanitizeMol(found)
        plain = Chem.RemoveHs(found)
    marked = [atom for atom in plain.GetAtoms() if atom.HasProp(_POINTS)]
    return plain, [atom.GetIdx() for atom in marked for _ in range(atom.GetIntProp(_POINTS))]


def _begin(base: Mol, points: Sequence[int], length: int, scaffold: str, generator: torch.Generator) -> Growing:
    """The scaffold with its points in a random order; without any, with one atom that has a hydrogen.

    Raises:
        TemplateError: it cannot grow, or leaves no room.
    """
    candidates = points or [atom.GetIdx() for atom in base.GetAtoms() if atom.GetTotalNumHs()]
    order = [candidates[place] for place in torch.randperm(len(candidates), generator=generator).tolist()]
    if points:
        return _opened(base, order, length, scaffold)
    for atom in order:
        try:
            return _opened(base, [atom], length, scaffold)
        except TemplateError as error:
            why = str(error)
    raise TemplateError(
        f"scaffold: no atom of {scaffold!r} can grow{f' ({why})' if order else ': none has a hydrogen'}"
    )


def _opened(found: Mol, points: Sequence[int], length: int, scaffold: str) -> Growing:
    """The molecule written with the first of its points last.

    Raises:
        TemplateError: it has no such form, or leaves fewer than `ROOM` words for each point.
    """
    from rdkit import Chem

    grown = Chem.RWMol(found)
    atom = grown.GetAtomWithIdx(points[0])
    if atom.GetNumExplicitHs():
        atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    star = grown.AddAtom(Chem.Atom(0))
    grown.AddBond(points[0], star, Chem.BondType.SINGLE)
    with quiet():
        Chem.SanitizeMol(grown)
    stars(grown, scaffold)  # refuses stereochemistry at the point
    symbols, order = opened(grown, star, scaffold)
    words = tokens_of(scaffold, symbols)
    if len(words) + ROOM * len(points) > length:
        room = f"{ROOM} for each point that grows"
        raise TemplateError(f"scaffold: takes {len(words)} words of {length}; there must be {room}")
    places = {atom: place for place, atom in enumerate(order)}
    return Growing(Chem.RenumberAtoms(found, order), tuple(places[point] for point in points), tuple(words))


def _start(words: Sequence[int], size: int, length: int) -> Tensor:
    """A template `[L]`: the words, `size` free ones as far as there is room, and padding."""
    free = min(size, length - len(words))
    return torch.tensor([*words, *[MASK] * free, *[PAD] * (length - len(words) - free)])


def _advance(row: Growing, fresh: Growing, got: tuple[Tensor, Mol] | None, scaffold: str, length: int) -> Growing:
    """The next state: with the next point opened, or once more the same, or after many failures the scaffold."""
    if got is not None:
        try:
            return _opened(got[1], row.points[1:], length, scaffold) if row.points[1:] else Growing(got[1], ())
        except TemplateError:  # grown so far that nothing else fits, say
            pass
    failed = row.failed + 1
    return fresh if failed % PATIENCE == 0 else replace(row, failed=failed)


# --- what was drawn ------------------------------------------------------------------------------------------------


def _checked(x: Tensor, starts: Tensor) -> Tensor:
    """What `draw` returned, as tokens on the CPU."""
    shape = f"int64 tokens [M, {starts.shape[1]}], M at least {len(starts)}"
    if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.dim() != 2 or x.shape[1] != starts.shape[1]:
        came = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"draw returned {came}; expected {shape}. Of a steering method, return its samples' .x.")
    if len(x) < len(starts):
        raise ValueError(f"draw returned {len(x)} rows; expected {shape}. Ask the method for more samples.")
    return x.cpu()


def _shared(x: Tensor, starts: Tensor, rows: Sequence[Growing], anywhere: bool) -> list[tuple[Tensor, Mol] | None]:
    """For each row the first of the samples `[M, L]` from its start that it may become; methods may mix the starts."""
    fits = ((x[:, None] == starts) | (starts == MASK)).all(-1)  # [M, N]
    if not bool(fits.any(1).all()):
        raise ValueError(_FOREIGN)
    taken: list[tuple[Tensor, Mol] | None] = [None] * len(rows)
    for sample, found in enumerate(structures(x)):
        home = sample * len(rows) // len(x)
        open_rows = [row for row in fits[sample].nonzero().flatten().tolist() if taken[row] is None]
        # Where several rows are open, their words are the same, or the sample is from the one it would come from unmixed.
        row = min(open_rows, key=lambda row: row != home, default=None)
        if row is not None and found is not None and _is_grown(rows[row].found, found, anywhere):
            taken[row] = (x[sample], found)
    return taken


def _is_grown(before: Mol, after: Mol, anywhere: bool) -> bool:
    """Whether `after` is `before`, its first atoms, with growth at atom 0 by one single bond, or `anywhere` by any."""
    from rdkit import Chem

    size = before.GetNumAtoms()
    inside = across = 0
    for bond in after.GetBonds():
        near, far = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        inside += far < size
        if near < size <= far:
            across += 1
            if not anywhere and (near != 0 or bond.GetBondType() != Chem.BondType.SINGLE):
                return False
    if inside != before.GetNumBonds() or not across or (across > 1 and not anywhere):
        return False
    charges = zip(before.GetAtoms(), after.GetAtoms(), strict=False)
    if any(one.GetFormalCharge() != other.GetFormalCharge() for one, other in charges):
        return False
    matching: Any = Chem.SubstructMatchParameters()
    matching.useChirality = True
    itself = list(range(size))
    matching.setExtraFinalCheck(
        lambda _, places: list(places) == itself
    )  # among the ways a symmetric one lies on itself
    return bool(after.HasSubstructMatch(before, matching))


def _sizes(words: Sizes, length: int) -> Sizes:
    low, high = words
    if (
        not all(isinstance(size, int) and not isinstance(size, bool) for size in words)
        or not 1 <= low <= high <= length
    ):
        raise ValueError(f"words is {words!r}; expected the least and the most, whole numbers from 1 to {length}")
    return low, high


_POINTS = "_points"
_FOREIGN = "draw returned rows that do not begin as its law does; expected samples of the law that it is given"
