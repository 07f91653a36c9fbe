"""A set of texts in a few bits each: what is in it is always found, what is not is found now and then."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bloom:
    """A Bloom filter (Bloom 1970).

    Attributes:
        table: uint8 `[M]`, 8 M bits.
        hashes: bits that each text sets.
        count: texts in it.
    """

    table: Tensor
    hashes: int
    count: int

    @classmethod
    def build(cls, texts: Iterable[str], bits: int = 12) -> Bloom:
        """A filter of `bits` bits a text, with as many hashes as make errors rarest."""
        names = list(texts)
        hashes = max(1, round(bits * math.log(2)))
        empty = cls(torch.zeros(max(8, -(-bits * len(names) // 8)), dtype=torch.uint8), hashes, len(names))
        marked = torch.zeros(8 * len(empty.table), dtype=torch.bool)
        marked[torch.tensor([place for name in names for place in empty._places(name)], dtype=torch.int64)] = True
        powers = 2 ** torch.arange(8)
        return cls((marked.reshape(-1, 8) * powers).sum(1).to(torch.uint8), hashes, len(names))

    @property
    def error(self) -> float:
        """Probability that a text outside the set is said to be in it."""
        return (1 - math.exp(-self.hashes * self.count / (8 * len(self.table)))) ** self.hashes

    def __contains__(self, text: str) -> bool:
        return all(int(self.table[place // 8]) >> place % 8 & 1 for place in self._places(text))

    def _places(self, text: str) -> list[int]:
        """The bits of a text, by double hashing (Kirsch & Mitzenmacher 2006)."""
        digest = blake2b(text.encode(), digest_size=16).digest()
        first, step = int.from_bytes(digest[:8]), int.from_bytes(digest[8:]) | 1
        return [(first + i * step) % (8 * len(self.table)) for i in range(self.hashes)]
