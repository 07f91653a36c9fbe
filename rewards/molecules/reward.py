"""A scorer of molecules as a reward for token sequences."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...smiles import MAX_ATOMS, MoleculeError, parse
from ..blackbox import BlackBox, Counts
from ..budget import Budget, BudgetSpentError
from .curves import Curve
from .profile import Profile, Scorer, label
from .scoring import INVALID, Scoring


@dataclass
class Tally:
    """Samples that were no molecule, each time they were asked for."""

    invalid: int = 0


@dataclass(frozen=True, eq=False)
class Molecular:
    """The reward r(x) = aim(scorer(molecule of x)), for tokens of `tiltflow.molecules`.

    Tokens are decoded to canonical SMILES; each distinct one is scored once and remembered. With several workers, a
    timeout or a memory limit, scoring happens in other processes, which may be late or crash without harm: such a
    molecule gives NaN, is counted in `counts`, and `Tilt.failures` says what that means. What is no molecule at all
    (unreadable, empty, above `max_atoms`) gives `invalid` and is counted in `tally.invalid`.

    Args:
        scorer: rdkit Mol -> number in the property's own unit; -inf means never, whatever the aim.
        aim: "maximize", "minimize", or a curve of `tiltflow.rewards.molecules` that says how good each value is. There is
            no default, since a wrong guess optimises the opposite.
        invalid: reward of what is no molecule: -inf (never), or a floor.
        max_atoms: heavy atoms of the largest molecule that is scored.
        workers: number of processes.
        timeout: seconds for one molecule, or None.
        memory: GiB that a worker may take on top of what it holds at its start, or None (Linux only).
        batch_size: molecules handed to a worker at once; the default is that of `BlackBox`: 1 with a timeout.
        cache_size: how many values to remember.
        cache_file: file of values that outlives the run; tied to the scorer and its settings.
        on_error: "nan", or "raise" to stop at the first molecule whose scorer fails.
        budget: refuses more than so many different molecules, or None.
        beyond: what a molecule beyond the budget is: "raise" (the molecules within it are scored first), or "nan".
        name: in reports (default: the scorer's own).

    Raises:
        TypeError: no scorer, or an aim that is neither a word nor a curve.
        ValueError: an impossible number or policy.
    """

    scorer: Scorer
    aim: str | Curve
    invalid: float = -math.inf
    max_atoms: int = MAX_ATOMS
    workers: int = 1
    timeout: float | None = None
    memory: float | None = None
    batch_size: int | None = None
    cache_size: int = 1_000_000
    cache_file: str | os.PathLike[str] | None = None
    on_error: Literal["nan", "raise"] = "nan"
    budget: Budget | None = None
    beyond: Literal["raise", "nan"] = "raise"
    name: str = ""
    tally: Tally = field(init=False, default_factory=Tally)
    _box: BlackBox = field(init=False, repr=False)

    takes: ClassVar[str] = "tokens"
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self)
        box = BlackBox(
            Scoring(self.scorer, self.max_atoms),
            smiles_of,
            batch_size=self.batch_size,
            vectorised=False,
            cache_size=self.cache_size,
            cache_file=self.cache_file,
            workers=self.workers,
            timeout=self.timeout,
            memory=self.memory,
            on_error=self.on_error,
            name=f"{self.scorer!r} up to {self.max_atoms} atoms",  # the cache holds values of this scorer alone
        )
        object.__setattr__(self, "_box", box)
        object.__setattr__(self, "name", self.name or label(self.scorer))

    def __call__(self, x: Tensor) -> Tensor:
        """Rewards float64 `[B]`, on the device of the tokens x, int64 `[B, L]`.

        Raises:
            BlackBoxError: `on_error="raise"` and a scorer failed, or every molecule is late.
            BudgetSpentError: a new molecule beyond the budget, under `beyond="raise"`.
        """
        return self._rewards(smiles_of(x)).to(x.device)

    def score(self, smiles: Sequence[str], *, are_canonical: bool = False) -> Tensor:
        """Rewards float64 `[N]` of SMILES as anyone may write them; what is no molecule gives `invalid`.

        Args:
            are_canonical: they are rdkit's canonical SMILES, as `tiltflow.molecules.decode` gives them: saves reading them.
        """
        return self._rewards(smiles if are_canonical else [canonical(text, self.max_atoms) for text in smiles])

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """What stands behind the rewards of x `[B, L]`, for reports: each part's number float64 `[B]`, NaN for no molecule."""
        scorer = self.scorer
        columns = [_values(scorer, text, self.max_atoms) for text in smiles_of(x)]
        names = [part.label for part in scorer.parts] if isinstance(scorer, Profile) else [self.name]
        return {name: torch.tensor([row.get(name, math.nan) for row in columns]).double() for name in names}

    @property
    def directions(self) -> dict[str, str]:
        """Which way each part of a profile is to go, by name; empty for a single property, or a curve of the whole."""
        if not isinstance(self.scorer, Profile) or callable(self.aim):
            return {}
        return {part.label: self.aim for part in self.scorer.parts}

    @property
    def counts(self) -> Counts:
        """How many molecules were scored, remembered, failed and late."""
        return self._box.counts

    @property
    def alphabet(self) -> Any:
        """The tokens it reads: those of the molecules domain, in order."""
        return _domain().ALPHABET

    def close(self) -> None:
        """End the worker processes; the next call starts new ones."""
        self._box.close()

    def __enter__(self) -> Molecular:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rewards(self, texts: Sequence[str]) -> Tensor:
        wanted = [text for text in dict.fromkeys(texts) if text]
        asked = wanted if self.budget is None else self.budget.allowed(wanted)
        raw = dict(zip(asked, self._box.score(asked), strict=True))
        rewards = {text: self._aimed(value) for text, value in raw.items()}
        if self.budget is not None:
            self.budget.record(rewards.items())
        if len(asked) < len(wanted) and self.beyond == "raise":
            limit = self.budget.limit if self.budget else 0
            raise BudgetSpentError(
                f"{self.name}: all {limit} calls are used up; the record of them is in .budget.calls"
            )
        self.tally.invalid += sum(not text or raw.get(text) == INVALID for text in texts)
        rewards[""] = self.invalid
        return torch.tensor([rewards.get(text, math.nan) for text in texts], dtype=torch.float64)

    def _aimed(self, value: float) -> float:
        if value == INVALID:
            return self.invalid
        if math.isnan(value) or value == -math.inf or self.aim == "maximize":
            return value
        return self.aim(value) if callable(self.aim) else -value


def canonical(smiles: str, max_atoms: int = MAX_ATOMS) -> str:
    """rdkit's canonical SMILES, or '' for what is no molecule."""
    from rdkit import Chem

    try:
        return str(Chem.MolToSmiles(parse(smiles, max_atoms)))
    except (MoleculeError, RuntimeError):
        return ""


def smiles_of(x: Tensor) -> list[str]:
    """Canonical SMILES of tokens int64 `[B, L]`, '' where they are no molecule."""
    tokens = x.detach().cpu().long().contiguous()
    return list(_decoded(tokens.numpy().tobytes(), tuple(tokens.shape)))


@lru_cache(maxsize=8)
def _decoded(tokens: bytes, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The latest batches are remembered: each of several rewards asks for the same ones."""
    rows = torch.frombuffer(bytearray(tokens), dtype=torch.int64) if tokens else torch.empty(0, dtype=torch.int64)
    return tuple(_domain().decode(rows.view(shape)))


def _domain() -> Any:
    from ... import molecules

    return molecules


def _values(scorer: Callable[[Any], float], smiles: str, max_atoms: int) -> dict[str, float]:
    try:
        mol = parse(smiles, max_atoms)
    except MoleculeError:
        return {}
    return scorer.values(mol) if isinstance(scorer, Profile) else {label(scorer): scorer(mol)}


def _check(reward: Molecular) -> None:
    if not callable(reward.scorer) or isinstance(reward.scorer, type):
        raise TypeError(f"scorer {reward.scorer!r}: expected a function of a molecule, such as Descriptor('qed')")
    if isinstance(reward.aim, str) and reward.aim not in ("maximize", "minimize"):
        raise ValueError(
            f"aim {reward.aim!r}: expected 'maximize', 'minimize' or a curve such as Window(1, 3, slack=1)"
        )
    if not isinstance(reward.aim, str) and (not callable(reward.aim) or isinstance(reward.aim, type)):
        raise TypeError(f"aim {reward.aim!r}: expected 'maximize', 'minimize' or a curve such as Window(1, 3, slack=1)")
    if isinstance(reward.invalid, bool) or not isinstance(reward.invalid, int | float) or not reward.invalid < math.inf:
        raise ValueError(f"invalid {reward.invalid!r}: expected a number, or -inf for never")
    if isinstance(reward.max_atoms, bool) or not isinstance(reward.max_atoms, int) or reward.max_atoms < 1:
        raise ValueError(f"max_atoms {reward.max_atoms!r}: expected a whole number, at least 1")
    if reward.beyond not in ("raise", "nan"):
        raise ValueError(f"beyond {reward.beyond!r}: expected 'raise' or 'nan'")
