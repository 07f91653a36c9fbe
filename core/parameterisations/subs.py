"""SUBS: how masked denoisers are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..states import is_discrete, log_normalise, safe_log


@dataclass(frozen=True)
class Subs:
    """SUBS (Sahoo et al. 2024): no mass on the mask; a token that is there stays there.

    On a relaxed state a site is each token in proportion to its mass, and the network's prediction in proportion to its
    mask mass: one-hot states give exactly the discrete rule.
    """

    vocab: int

    def clean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        expected = (*x.shape[:2],)
        if output.shape[:-1] != expected or output.shape[-1] not in (self.vocab, self.vocab + 1):
            raise ValueError(
                f"The network returned {tuple(output.shape)}; expected logits [{expected[0]}, {expected[1]}, {self.vocab}] "
                f"(or {self.vocab + 1} with the mask last). Check vocab={self.vocab} and the order of dimensions."
            )
        predicted = log_normalise(output[..., : self.vocab])
        if is_discrete(x):
            return torch.where((x == self.vocab).unsqueeze(-1), predicted, _held(x, self.vocab, predicted.dtype))
        return safe_log(x[..., :-1] + x[..., -1:] * predicted.exp())

    def settled(self, x: Tensor) -> Tensor | None:
        return ~(x == self.vocab).any(-1) if is_discrete(x) else None

    def settled_clean(self, x: Tensor) -> Tensor:
        return _held(x, self.vocab, torch.get_default_dtype())


def _held(x: Tensor, vocab: int, dtype: torch.dtype) -> Tensor:
    """log one-hot of the tokens of x, `[B, L, K]`; the value at masked sites is not meant to be read."""
    return torch.nn.functional.embedding(x, _held_table(vocab, dtype, x.device))


@lru_cache(maxsize=16)
def _held_table(vocab: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """log one-hot of every token, and a row of zeros for the mask: `[K + 1, K]`."""
    return torch.cat([torch.eye(vocab, dtype=dtype).log(), torch.zeros(1, vocab, dtype=dtype)]).to(device)
