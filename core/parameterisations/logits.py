"""Logits of p(x0 | x_t): how denoisers of uniform and other chains are read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..states import is_discrete, log_normalise


@dataclass(frozen=True, eq=False)
class Logits:
    """log softmax of the output at each site, given the whole of x_t, the site itself included.

    Args:
        vocab: K.
        reach: bool `[K, S]`, token j can become state k; tokens that cannot have become x_t^i get no mass. None: all can.
    """

    vocab: int
    reach: Tensor | None = None

    def clean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        expected = (*x.shape[:2], self.vocab)
        if tuple(output.shape) != expected:
            raise ValueError(
                f"The network returned {tuple(output.shape)}; expected logits {list(expected)}. Check vocab={self.vocab} and "
                "the order of dimensions."
            )
        if self.reach is None or bool(self.reach.all()):
            return log_normalise(output)
        return log_normalise(output.masked_fill(~self._possible(x), -math.inf))

    def _possible(self, x: Tensor) -> Tensor:
        """bool `[B, L, K]`: tokens that can have become x; a relaxed state can come from all that any part of it can."""
        assert self.reach is not None
        into = self.reach.mT.to(x.device)
        return into[x] if is_discrete(x) else (x @ into.to(x.dtype)) > 0

    def settled(self, x: Tensor) -> Tensor | None:
        return None

    def settled_clean(self, x: Tensor) -> Tensor:
        raise NotImplementedError("No row is settled: every token may still change.")
