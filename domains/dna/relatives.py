"""Related sequences kept on one side of a split: families of rows that share long words or align closely.

A random split of sequences that evolved from one another puts near-copies on both sides, and any score on the far side
then measures memory. Splits here move whole families, chosen by a hash of the family's name, so that they are the same
on every machine and in every version. `split_families` does all of it for a set of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...dna import decode, one_hot, reverse_complement
from ..shares import check_shares, uniform

_PAIRED_ROWS = 50_000  # more would take minutes to compare all with all


def families(
    tokens: Tensor, *, word: int = 20, matches: int | None = None, group: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Label of each row's family: the smallest row (or group) that it is linked to, directly or through others.

    Two rows are linked when they share a word of `word` letters at any place on either strand.

    Args:
        tokens: int64 `[N, L]` over ACGT.
        word: length of a shared word that makes two rows relatives, 1 to 31. Chance makes about
            `(N L)^2 / 4^word` links: 20 is right for thousands of rows. Long runs of one letter link rows too.
        matches: also link rows that agree at this many positions or more (substitutions spread too densely for a long
            word to survive); compares all pairs, so for up to about 50 000 rows. None: words only.
        group: for each row a number that ties rows together from the start (all isolates of one gene).

    Returns:
        int64 `[N]`; rows of one family carry the same label, a row index, or a group number where `group` is given.

    Raises:
        ValueError: `word` is longer than the rows or than 31 letters.
    """
    if not 1 <= word <= min(31, tokens.shape[1]):
        raise ValueError(f"word={word}: expected 1 to {min(31, tokens.shape[1])} for rows of {tokens.shape[1]} letters")
    node = np.arange(len(tokens)) if group is None else np.asarray(group, dtype=np.int64)
    count, links = int(node.max(initial=-1)) + 1, _word_links(tokens, node, word)
    labels = _components(count, links)
    if matches is not None:
        pairs = _close_pairs(tokens, matches, torch.from_numpy(labels[node]))
        labels = _components(count, np.concatenate([links, node[pairs]], axis=1))
    return labels[node]


def split_families(
    tokens: Tensor, shares: Mapping[str, float], seed: int = 0, *, relatives: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Split rows into parts with no relatives across: the family and the part of each row, `[N]` both.

    Relatives share a word of 20 letters on either strand, or agree at 70 % of the positions (at more where so many would
    agree by chance; by words only above 50 000 rows). The families are dealt out from the largest on, each to the part that
    lacks most, so that parts are as large as asked unless the families are too large for it, and none stays empty that
    need not.

    Args:
        tokens: int64 `[N, L]` over ACGT. shares: fraction of the rows for each part, by name; they must add up to 1.
        seed: another seed deals families of one size in another order.
        relatives: False takes every row (equal rows) for a family of its own.

    Raises:
        ValueError: a negative share, or a sum other than 1.
    """
    check_shares(shares)
    length = tokens.shape[1]
    matches = _rare_agreement(tokens) if relatives and len(tokens) <= _PAIRED_ROWS else None
    family = families(tokens, word=min(20, length), matches=matches) if relatives else _equal_rows(tokens)
    labels, sizes = np.unique(family, return_counts=True)
    names = decode(tokens[torch.from_numpy(labels)])
    order = sorted(range(len(labels)), key=lambda i: (-sizes[i], uniform(f"{seed}:{names[i]}")))
    lacking = {name: share * len(tokens) for name, share in shares.items()}
    empty = {name for name, share in shares.items() if share > 0}
    part: dict[int, str] = {}
    for left, index in zip(range(len(order), 0, -1), order, strict=True):
        name = max(empty if left <= len(empty) else lacking, key=lambda name: (lacking[name], name))
        part[int(labels[index])] = name
        lacking[name] -= sizes[index]
        empty.discard(name)
    return family, np.array([part[label] for label in family.tolist()])


def _equal_rows(tokens: Tensor) -> NDArray[np.int64]:
    """The first row that is equal to each: int64 `[N]`."""
    _, first, inverse = np.unique(tokens.numpy(), axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def _rare_agreement(tokens: Tensor) -> int | None:
    """The least number of equal positions, from 70 % on, that chance gives less than one row in a hundred; None if none."""
    rows, length = tokens.shape
    same = float((tokens.flatten().bincount(minlength=4) / tokens.numel()).square().sum())  # two letters at random
    for matches in range(round(0.7 * length), length):
        ways = (math.comb(length, k) * same**k * (1 - same) ** (length - k) for k in range(matches, length + 1))
        if rows * sum(ways) < 0.01:
            return matches
    return None


def _word_links(tokens: Tensor, node: NDArray[np.int64], word: int) -> NDArray[np.int64]:
    """Pairs of nodes `[2, E]` that hold the same word next to each other in the sorted list of all words."""
    keys = np.minimum(_words(tokens, word), _words(reverse_complement(tokens), word)[:, ::-1]).ravel()
    order = np.argsort(keys, kind="stable")
    holder = np.repeat(node, tokens.shape[1] - word + 1)[order]
    same = keys[order][1:] == keys[order][:-1]
    return np.stack([holder[1:][same], holder[:-1][same]])


def _words(tokens: Tensor, word: int) -> NDArray[np.int64]:
    """Every window of `word` letters as a number in base 4: `[N, L - word + 1]`."""
    letters = tokens.numpy()
    windows = letters.shape[1] - word + 1
    keys = np.zeros((len(letters), windows), np.int64)
    for offset in range(word):
        keys = keys * 4 + letters[:, offset : offset + windows]
    return keys


def _close_pairs(tokens: Tensor, matches: int, label: Tensor, block: int = 2048) -> NDArray[np.int64]:
    """Pairs of rows `[2, E]` of different `label` `[N]` that agree at `matches` positions or more.

    Rows with one label are linked already, and variants of one sequence would make as many pairs as there are.
    """
    hot = one_hot(tokens, torch.float32).flatten(1)
    found = []
    for start in range(0, len(hot), block):
        agree = hot[start : start + block] @ hot[start:].T
        apart = label[start : start + block, None] != label[start:]
        found.append(((agree >= matches - 0.5) & apart).nonzero().T + start)
    return torch.cat(found, dim=1).numpy()


def _components(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """Smallest node connected to each of `count` nodes, by label propagation with pointer jumping."""
    labels = np.arange(count)
    while True:
        low = labels[links].min(axis=0)
        new = labels.copy()
        np.minimum.at(new, labels[links[0]], low)
        np.minimum.at(new, labels[links[1]], low)
        new = new[new]
        if np.array_equal(new, labels):
            return labels
        labels = new
