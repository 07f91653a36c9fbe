"""How the output of a network is read."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Parameterisation(Protocol):
    """From what a network returns to the clean estimate."""

    def clean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean estimate from the network's output at x `[B, ...]`, t `[B]`."""
        ...

    def settled(self, x: Tensor) -> Tensor | None:
        """bool `[B]`: rows whose clean estimate does not depend on the network; None where all rows do."""
        ...

    def settled_clean(self, x: Tensor) -> Tensor:
        """The clean estimate of settled rows."""
        ...
