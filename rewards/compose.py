"""Combine rewards: weighted sums with an explicit direction, hard constraints, target levels.

What a combination takes, whether it is differentiable and which alphabet it reads follow from its parts; parts that
contradict each other are refused when they are put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Alphabet = str | Sequence[str] | None
RewardFunction = Callable[[Tensor], Any]  # [B, ...] -> [B], a tensor or what torch.as_tensor makes one


class _Wrapper:
    """A reward made from one other: it reads what that one reads."""

    reward: RewardFunction

    @property
    def takes(self) -> str:
        return _takes([self.reward])

    @property
    def differentiable(self) -> bool:
        return _differentiable([self.reward])

    @property
    def alphabet(self) -> Alphabet:
        return _alphabet([self.reward])


@dataclass(frozen=True, eq=False)
class Term(_Wrapper):
    """One part of a `Sum`: weight * reward, or minus that when the reward is to be minimised.

    Args:
        reward: callable `x -> [B]`.
        weight: > 0; a sign belongs in `direction`.
        direction: "maximize" or "minimize"; there is no default, since a wrong guess optimises the opposite.
        name: in reports (default: the reward's own name).
    """

    reward: RewardFunction
    weight: float
    direction: Literal["maximize", "minimize"]
    name: str | None = None

    def __post_init__(self) -> None:
        _check_callable(self.reward)
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(f"direction {self.direction!r} of {self.label}: expected 'maximize' or 'minimize'")
        if not (_is_finite(self.weight) and self.weight > 0):
            raise ValueError(
                f"weight {self.weight!r} of {self.label}: expected a finite number > 0; direction says which way"
            )

    @property
    def label(self) -> str:
        """Name in reports."""
        return self.name or _name(self.reward)

    def part(self, values: Tensor) -> Tensor:
        """What a report shows of the reward's values `[B]`: `[B]`."""
        return values

    def contribution(self, part: Tensor) -> Tensor:
        """What `part` `[B]` adds to the sum: `[B]`."""
        return self.weight * part if self.direction == "maximize" else -self.weight * part


@dataclass(frozen=True, eq=False)
class Require(_Wrapper):
    """A hard constraint: 0 where at_least <= reward <= at_most, -inf elsewhere, NaN where the reward failed.

    Put it in a `Sum` as it is. It counts as not differentiable: its gradient is zero on either side.

    Args:
        reward: callable `x -> [B]`.
        at_least, at_most: bounds, both included; at least one of them.
        name: in reports (default: the reward's own name and the bounds).
    """

    reward: RewardFunction
    at_least: float | None = None
    at_most: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_callable(self.reward)
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if not bounds or not all(map(_is_finite, bounds)) or bounds != sorted(bounds):
            raise ValueError(
                f"Require {_name(self.reward)} from {self.at_least!r} to {self.at_most!r}: "
                "expected finite at_least or at_most, or both in order"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """`[B]`, 0 or -inf."""
        return self.part(_evaluate(self.reward, x))

    @property
    def label(self) -> str:
        """Name in reports."""
        low = "" if self.at_least is None else f" >= {self.at_least:g}"
        high = "" if self.at_most is None else f" <= {self.at_most:g}"
        return self.name or f"{_name(self.reward)}{low}{high}"

    def part(self, values: Tensor) -> Tensor:
        """0 or -inf for the reward's values `[B]`: `[B]`."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        verdict = torch.zeros_like(values).masked_fill(~((values >= low) & (values <= high)), -math.inf)
        return verdict.masked_fill(values.isnan(), math.nan)

    def contribution(self, part: Tensor) -> Tensor:
        """What `part` `[B]` adds to the sum: `[B]`."""
        return part

    @property
    def differentiable(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class Target(_Wrapper):
    """Hit a level instead of maximising: 0 at the level, less on both sides.

    shape "linear": -|r - level| / width; shape "gaussian": -((r - level) / width)^2 / 2, the log of a Gaussian bump.
    A miss by one width costs 1 (linear) or 1/2 (gaussian).

    Args:
        reward: callable `x -> [B]`.
        level: wanted value, in the reward's units.
        width: > 0, in the reward's units.
        shape: "linear" or "gaussian".
    """

    reward: RewardFunction
    level: float
    width: float = 1.0
    shape: Literal["linear", "gaussian"] = "linear"

    def __post_init__(self) -> None:
        _check_callable(self.reward)
        if not _is_finite(self.level):
            raise ValueError(f"level {self.level!r}: expected a finite number, in the reward's units")
        if not (_is_finite(self.width) and self.width > 0):
            raise ValueError(f"width {self.width!r}: expected a finite number > 0, in the reward's units")
        if self.shape not in ("linear", "gaussian"):
            raise ValueError(f"shape {self.shape!r}: expected 'linear' or 'gaussian'")

    def __call__(self, x: Tensor) -> Tensor:
        """`[B]`, at most 0."""
        miss = (_evaluate(self.reward, x) - self.level) / self.width
        return 0.0 - (miss.abs() if self.shape == "linear" else miss.square() / 2)

    @property
    def label(self) -> str:
        """Name in reports."""
        return f"{_name(self.reward)} at {self.level:g}"


class _Combination:
    """Several rewards in one. Every reward is evaluated once, also one that stands in several terms.

    For a report, `values = total.parts(x)` gives the parts' own values and `total.combine(values)` the whole, without
    evaluating anything again.
    """

    terms: Sequence[Term | Require]

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(self.terms))
        what = type(self).__name__
        if not self._needed():
            raise ValueError(
                f"a {what} of nothing; expected Term(reward, weight, direction) or Require(reward, at_least=..)"
            )
        for term in self.terms:
            if not isinstance(term, Term | Require):
                raise TypeError(
                    f"{term!r} in a {what}: expected a Term(reward, weight, direction) or a Require(reward, ...)"
                )
        labels = [term.label for term in self.terms]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two terms are called {', '.join(twice)}; give them a name=")
        _takes(self._rewards())
        _alphabet(self._rewards())

    def __call__(self, x: Tensor) -> Tensor:
        """float64 `[B]`."""
        return self.combine(self.parts(x))

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """Each part's own value `[B]` by name, before weight and direction (a `Require`: 0 or -inf)."""
        values = {id(reward): _evaluate(reward, x) for reward in {id(r): r for r in self._rewards()}.values()}
        return {term.label: term.part(values[id(term.reward)]) for term in self.terms}

    @property
    def directions(self) -> dict[str, str]:
        """ "maximize" or "minimize" for each part that is an objective, by name: a `Require` is none."""
        return {term.label: term.direction for term in self._wanted()}

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The whole, float64 `[B]`, of what `parts` returned."""
        raise NotImplementedError

    def _needed(self) -> Sequence[Term | Require]:
        """What there must be some of."""
        return self._wanted()

    def _limits(self, parts: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """0, or -inf where a `Require` is broken: `[B]`."""
        rules = [parts[term.label].double() for term in self.terms if isinstance(term, Require)]
        return torch.stack(rules).sum(0) if rules else torch.zeros_like(like)

    def _wanted(self) -> list[Term]:
        return [term for term in self.terms if isinstance(term, Term)]

    def _weights(self, like: Tensor) -> Tensor:
        """`[terms, 1]`."""
        return like.new_tensor([term.weight for term in self._wanted()])[:, None]

    def _rewards(self) -> list[RewardFunction]:
        return [term.reward for term in self.terms]

    @property
    def takes(self) -> str:
        return _takes(self._rewards())

    @property
    def differentiable(self) -> bool:
        return all(term.differentiable for term in self.terms)

    @property
    def alphabet(self) -> Alphabet:
        return _alphabet(self._rewards())


@dataclass(frozen=True, eq=False)
class Sum(_Combination):
    """Weighted sum of terms, plus hard constraints: r(x) = sum_i (+-) weight_i r_i(x) + sum_j (0 or -inf).

    Every reward is evaluated once, also one that stands in several terms. For a report, `values = total.parts(x)` gives
    the parts' own values and `total.combine(values)` the sum, without evaluating anything again.

    Args:
        terms: `Term`s and `Require`s.

    Raises:
        TypeError: something else among the terms.
        ValueError: no term, one name twice, or parts that cannot read the same samples.
    """

    terms: Sequence[Term | Require]

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The sum, float64 `[B]`, of what `parts` returned."""
        return torch.stack([term.contribution(parts[term.label].double()) for term in self.terms]).sum(0)

    def _needed(self) -> Sequence[Term | Require]:
        return self.terms


@dataclass(frozen=True, eq=False)
class GeometricMean(_Combination):
    """r(x) = (prod_i r_i(x)^weight_i)^(1 / sum_i weight_i), or -inf where a `Require` is broken; 0 where one term is 0.

    For rewards that are desirabilities, 0 to 1 (Derringer and Suich, Journal of Quality Technology 12:214, 1980, eq. 3).

    Args:
        terms: `Term`s, all to be maximised, and `Require`s.

    Raises:
        TypeError, ValueError: as `Sum`, and a term to be minimised; when called, a reward below 0.
    """

    terms: Sequence[Term | Require]

    def __post_init__(self) -> None:
        super().__post_init__()
        down = [term.label for term in self._wanted() if term.direction == "minimize"]
        if down:
            raise ValueError(
                f"{', '.join(down)} to be minimised in a GeometricMean: expected rewards of 0 to 1 where more is better"
            )

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """float64 `[B]`. Raises ValueError for a reward below 0, but for -inf, which stays."""
        values = torch.stack([parts[term.label].double() for term in self._wanted()])  # [terms, B]
        never = (values == -math.inf).any(0)
        if bool(((values < 0) & (values != -math.inf)).any()):
            least = float(values[values != -math.inf].min())
            raise ValueError(
                f"a reward of {least:g} in a GeometricMean: expected 0 or more; use a Sum, or a curve first"
            )
        weights = self._weights(values)
        logs = values.masked_fill(never, 0).log()
        mean = ((weights * logs).sum(0) / weights.sum()).exp().masked_fill(never, -math.inf)
        return mean + self._limits(parts, mean)


@dataclass(frozen=True, eq=False)
class Chebyshev(_Combination):
    """Minus the augmented Chebyshev distance from an ideal point, plus hard constraints:

        r(x) = -(max_i weight_i g_i(x) + rho sum_i weight_i g_i(x)),    g_i = ideal_i - r_i(x)   (minimised: r_i - ideal_i)

    The term that misses its ideal most counts; every Pareto-optimal point is the best one for some weights, which no
    weighted sum can do where the front is hollow (Steuer and Choo, Mathematical Programming 26:326, 1983).

    Args:
        terms: `Term`s and `Require`s.
        ideal: what each `Term` would be at its best, in the order of the `Term`s, in the reward's own unit.
        rho: >= 0; above 0, points that are worse in one term and equal in the others are never chosen.

    Raises:
        TypeError, ValueError: as `Sum`, and another number of ideals than of `Term`s.
    """

    terms: Sequence[Term | Require]
    ideal: Sequence[float]
    rho: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ideal", tuple(self.ideal))
        if len(self.ideal) != len(self._wanted()) or not all(map(_is_finite, self.ideal)):
            names = ", ".join(term.label for term in self._wanted())
            raise ValueError(f"ideal {self.ideal!r}: expected one finite number for each of {names}")
        if not (_is_finite(self.rho) and self.rho >= 0):
            raise ValueError(f"rho {self.rho!r}: expected a finite number >= 0")

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """float64 `[B]`, at most 0 as long as no ideal is surpassed."""
        pairs = zip(self._wanted(), self.ideal, strict=True)
        misses = [_miss(parts[term.label].double(), ideal, term.direction) for term, ideal in pairs]
        values = torch.stack(misses)  # [terms, B]
        weighted = self._weights(values) * values
        distance = weighted.amax(0) + self.rho * weighted.sum(0)
        return 0.0 - distance + self._limits(parts, distance)


def _miss(values: Tensor, ideal: float, direction: str) -> Tensor:
    return ideal - values if direction == "maximize" else values - ideal


def _evaluate(reward: RewardFunction, x: Tensor) -> Tensor:
    """The reward's values `[B]` on x's device, shape checked: a `[B, 1]` would broadcast into a wrong sum."""
    returned = reward(x)
    try:
        values = torch.as_tensor(returned, device=x.device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_name(reward)} did not return numbers: {error}") from error
    if tuple(values.shape) != (len(x),):
        raise ValueError(f"{_name(reward)} returned shape {list(values.shape)}: expected [{len(x)}], one per sample")
    return values


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_callable(reward: object) -> None:
    if not callable(reward):
        raise TypeError(f"{reward!r} is not a reward: expected a callable x -> [B]")


def _name(reward: object) -> str:
    for attribute in ("label", "name", "__name__"):
        name = getattr(reward, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(reward).__name__


def _takes(rewards: Sequence[RewardFunction]) -> str:
    """What all of `rewards` can read: relaxed input only if each of them can."""
    kinds = [getattr(reward, "takes", "tokens") for reward in rewards]
    if set(kinds) == {"tokens", "relaxed"}:
        return "tokens"
    if len(set(kinds)) > 1:
        listed = ", ".join(f"{_name(reward)} takes {kind}" for reward, kind in zip(rewards, kinds, strict=True))
        raise ValueError(f"these rewards read different things: {listed}")
    return str(kinds[0])


def _differentiable(rewards: Sequence[RewardFunction]) -> bool:
    return all(getattr(reward, "differentiable", False) for reward in rewards)


def _alphabet(rewards: Sequence[RewardFunction]) -> Alphabet:
    """The one alphabet among `rewards`; None (any) fits every other."""
    known = [(reward, getattr(reward, "alphabet", None)) for reward in rewards]
    letters = {tuple(alphabet): alphabet for _, alphabet in known if alphabet is not None}
    if len(letters) > 1:
        listed = ", ".join(
            f"{_name(reward)} reads {_some(letters)}" for reward, letters in known if letters is not None
        )
        raise ValueError(f"these rewards read different alphabets: {listed}")
    return next(iter(letters.values()), None)


def _some(alphabet: str | Sequence[str]) -> str:
    """An alphabet, cut where it is long."""
    if isinstance(alphabet, str):
        return alphabet
    return " ".join(alphabet[:6]) + (f" and {len(alphabet) - 6} more" if len(alphabet) > 6 else "")
