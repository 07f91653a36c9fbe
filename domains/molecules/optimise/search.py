"""An optimiser in the place of a steering method: `tiltflow domain=molecules reward=qed method=evolution`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ....core.budget import Budget
from ....core.cost import BudgetSpentError, Meter
from ....core.observers import Observer
from ....core.particles import Particles
from ....core.steering import Steering
from ....core.tilt import Samples, Tilt
from ....molecules import MASK, decode, encode_one
from ....smiles import MoleculeError
from .base import OnRound, Optimiser
from .evolution import Evolution

NATURAL = 400  # samples of the prior that take the place of natural molecules


class _StoppedError(RuntimeError):
    """An observer asked to stop."""


@dataclass(frozen=True)
class Search(Steering):
    """The best molecules that an optimiser finds within so many reward calls, starting from samples of the prior.

    A search is no sampler: what it returns are the n highest rewards of all that it asked for, alpha plays no part, and the
    log-weights are zero. It finds what no sampler at any alpha would, and leaves the prior behind; a hard rule in the
    reward is kept.

    Args:
        optimiser: of `tiltflow.domains.molecules.optimise`, or one of your own.
        calls: different molecules that may be asked for, for each call of `sample`.
    """

    optimiser: Optimiser = field(default_factory=Evolution)
    calls: int = 2000

    def check(self, tilt: Tilt) -> None:
        """Raises ValueError: not molecules, a template or scaffold, or fewer than two calls."""
        process, shape = tilt.diffusion.process, tilt.diffusion.shape
        if getattr(process, "mask", None) != MASK or len(shape) != 1:
            raise ValueError(
                f"A search needs a masked model of molecules (tokens of tiltflow.molecules), not {process}."
            )
        if tilt.diffusion.start is not None:
            raise ValueError(
                "A search does not keep to a template or scaffold. Let the reward forbid what must not be, as Smarts and "
                "ScaffoldLock do, or take SVDD."
            )
        if isinstance(self.calls, bool) or not isinstance(self.calls, int) or self.calls < 2:
            raise ValueError(f"calls is {self.calls!r}; expected how many molecules may be asked for, at least 2.")

    def sample(
        self, tilt: Tilt, n: int, *, generator: torch.Generator | None = None, observe: Sequence[Observer] = ()
    ) -> Samples:
        """The n best molecules. Raises ValueError: n above `calls`, and as `check` does."""
        self.check(tilt)
        if n > self.calls:
            raise ValueError(
                f"{n} molecules asked for within {self.calls} calls; raise calls, at best to 20 times as many."
            )
        generator = generator or torch.Generator().manual_seed(torch.seed())
        asked = _Asked(tilt, Budget(self.calls))
        with Meter() as meter, torch.no_grad():
            start = tilt.diffusion.sample(min(NATURAL, max(2, self.calls // 5)), generator=generator)
        given: Any = SimpleNamespace(diffusion=tilt.diffusion, reference=SimpleNamespace(tokens=start), constraints="")
        stopped: int | None = None
        try:
            with meter:
                self.optimiser.run(given, asked, generator=generator, on_round=_told(asked, meter, n, observe))
        except _StoppedError:
            stopped = len(asked.budget.calls)
        finally:
            for observer in observe:
                getattr(observer, "close", lambda: None)()
        best = asked.best(n)
        zeros = torch.zeros(len(best.x), dtype=torch.float64)
        tables = [table() for observer in observe if (table := getattr(observer, "table", None)) is not None]
        return Samples(best.x, best.value, zeros, meter.cost, trace=tables[0] if tables else None, stopped=stopped)


def _told(asked: _Asked, meter: Meter, n: int, observe: Sequence[Observer]) -> OnRound:
    """What tells the observers how far the search is: time runs from 1 to 0 with the calls."""

    def on_round(budget: Budget) -> None:
        done = len(budget.calls)
        best = replace(asked.best(n), t=1 - done / budget.limit, index=done, total=budget.limit, cost=meter.cost)
        if any([observer(best) for observer in observe]):
            raise _StoppedError

    return on_round


@dataclass
class _Asked:
    """The tilt's reward as an optimiser asks for it: by SMILES or tokens, each molecule once, within a budget."""

    tilt: Tilt
    budget: Budget
    rows: dict[str, list[int]] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        return self.score(decode(x))

    def score(self, smiles: Sequence[str], *, are_canonical: bool = False) -> Tensor:
        """Rewards float64 `[N]`; NaN for what cannot be written in words, which costs no call.

        Raises:
            BudgetSpentError: more new molecules than calls that are left; those within are asked for first.
        """
        for text in smiles:
            if text not in self.rows:
                self._write(text)
        known = {call.text: call.value for call in self.budget.calls}
        wanted = [text for text in dict.fromkeys(smiles) if text in self.rows]
        allowed = self.budget.allowed(wanted)
        new = [text for text in allowed if text not in known]
        if new:
            values = self.tilt.reward(torch.tensor([self.rows[text] for text in new]).to(self.tilt.diffusion.device))
            self.budget.record(zip(new, values.tolist(), strict=True))
            known |= dict(zip(new, values.tolist(), strict=True))
        if len(allowed) < len(wanted):
            raise BudgetSpentError(f"all {self.budget.limit} calls are used up")
        return torch.tensor([known.get(text, torch.nan) for text in smiles], dtype=torch.float64)

    def best(self, n: int) -> Particles:
        """The n highest rewards so far."""
        calls = sorted(self.budget.calls, key=lambda call: call.value, reverse=True)[:n]
        x = torch.tensor([self.rows[call.text] for call in calls], dtype=torch.int64)
        value = torch.tensor([call.value for call in calls], dtype=torch.float64)
        zeros = torch.zeros_like(value)
        return Particles(x, value, zeros, zeros, zeros, t=1.0, total=self.budget.limit)

    def _write(self, text: str) -> None:
        try:
            self.rows[text] = encode_one(text, self.tilt.diffusion.shape[0])[1]
        except MoleculeError:
            return
