"""One method on one world: how far its law is from p*, whether its draws follow that law, and whether its weights are true."""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.cost import spend
from ..core.states import is_discrete, unique_rows
from ..core.steering import BestOfN, Steering
from ..core.steering.svdd import softmax
from ..core.tilt import Tilt
from ..core.values import Given
from ..core.worlds import World, relative_entropy, total_variation
from ..core.worlds.statistics import ALARM, Outcome, sample_size
from .checks import NO_LAW, NO_WEIGHTS, check_law, check_weights, weighs_enough
from .reference import Reference, refer

FEWEST = 1000  # draws
ROWS = 200_000  # that go through a method at a time
WORK = 4_000_000  # forward rows and reward calls, counted as for one sample alone
CHEAP = 5  # times as much where there is an exact law to compare with
ALONE = 4  # runs of one sample from which the cost is read: in a batch, equal sequences are paid for once


@dataclass(frozen=True)
class Point:
    """Where the law of a method lies, and what a draw costs.

    Attributes:
        world, method, value: names. budget: candidates or particles, None where there are none.
        n: draws; 0 where only the exact law was looked at.
        tv, kl: total variation to p* and KL(law || p*) in nats, on the world's cells; kl is None where infinite.
        floor: the tv that n draws of p* itself would show on average; 0 where the law is exact, not sampled.
        reward_calls: for one sample drawn alone, looks at a known value included. forward_rows: of the network.
    """

    world: str
    method: str
    value: str
    budget: int | None
    n: int
    tv: float
    kl: float | None
    floor: float
    reward_calls: float
    forward_rows: float


@dataclass(frozen=True)
class Row(Point):
    """A `Point` with the draws put to the test.

    Attributes:
        law: do the draws follow the method's own law (chi-square)? None where that is not computable.
        p_value, tv_law: of that test; total variation of the draws to that law.
        weights: are E[Z_hat] = Z and E[Z_hat W(f)] = Z E*[f]? None for methods without weights.
        log_z, z: the estimate of log Z_T, and its score: standard errors from the true Z_T, freed of skewness; None where the
            weights are too skewed to be judged.
        log_z_true, reward_true: of a perfect method on this sampler.
        reward: mean of the draws.
        claim: for a method whose law should be p* to rounding: is it?
        seconds: to draw.
    """

    law: Outcome | None
    p_value: float | None
    tv_law: float | None
    weights: Outcome | None
    log_z: float | None
    log_z_true: float
    z: float | None
    reward: float
    reward_true: float
    claim: Outcome | None
    seconds: float

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the tests that were made."""
        return [found for found in (self.law, self.weights, self.claim) if found is not None]

    @property
    def failed(self) -> bool:
        """Whether any test failed."""
        return "fail" in self.outcomes


def measure(
    method: Steering,
    world: World,
    *,
    value: Any = None,
    law: Tensor | None = None,
    weighted: bool | None = None,
    exact: bool = False,
    draws: int = 20_000,
    work: float = WORK,
    seed: int = 0,
    alarm: float = ALARM,
    names: tuple[str, str, str] | None = None,
    reference: Reference | None = None,
) -> Row:
    """Put a method to the test on a world.

    Args:
        value: soft value for the tilt; None for the world's exact one.
        law: float64 `[S]`, the method's own law over the world's outcomes. None: what `world.law` computes for methods of
            the library (and their subclasses); where it cannot, only the weights are tested.
        weighted: whether the log-weights claim to be those of p*. None: yes, but for best-of-N and argmax picks.
        exact: the law claims to be p* itself, to 1e-9.
        draws: at the most. Fewer are taken where fewer show the seeded faults: an alpha that is 10 % off, and 5 % of
            uniform draws, or those that `reference` was made for.
        work: at the most, in forward rows and reward calls; fewer draws of costly methods are taken.
        alarm: probability with which each test fails right code.
        names: world, method and value, as shown.
        reference: of the world, where it is at hand.

    Raises:
        ValueError: the method refuses the world's tilt, or a law of another size.
    """
    tilt = tilt_of(world, value)
    method.check(tilt)
    reference = reference or refer(world, tilt, seed)
    own = _own_law(method, world, tilt) if law is None else _checked(law, world)
    names = names or (type(world).__name__, type(method).__name__, "exact" if value is None else str(value))
    claims = has_weights(method) if weighted is None else weighted
    cells = None if own is None else world.pool(own)
    faults = [] if own is None else reference.faults(own, world, claims)
    bill = price(method, tilt, generator(seed, "alone", *names, budget(method)))
    most = min(draws, max(FEWEST, int(work * (1 if cells is None else CHEAP) / sum(bill))))
    size = most if cells is None else max(min(FEWEST, most), sample_size(cells, faults, alarm, most))

    def enough(number: Tensor, log_weight: Tensor) -> bool:
        return len(number) >= most or not claims or weighs_enough(log_weight, reference, number, alarm)

    start, dice = time.perf_counter(), generator(seed, *names, budget(method))
    number, log_weight, reward = draw(method, world, tilt, size, dice)
    while not enough(number, log_weight):
        more = draw(method, world, tilt, min(len(number), most - len(number)), dice)
        number, log_weight, reward = (torch.cat(pair) for pair in zip((number, log_weight, reward), more, strict=True))
    seconds, n = time.perf_counter() - start, len(number)
    counts = world.pool(number.bincount(minlength=len(world.p)).double())
    tv, kl = distance(counts / n if cells is None else cells, world)
    floor = noise_floor(world.pool(world.tilted), n) if cells is None else 0.0
    return Row(
        **vars(Point(*names, budget(method), n, tv, kl, floor, *bill)),
        **(NO_LAW if cells is None else check_law(counts, cells, faults, alarm)),
        **(check_weights(log_weight, reference, number, alarm) if claims else NO_WEIGHTS),
        log_z_true=reference.log_z,
        reward=float(reward.mean()),
        reward_true=reference.reward,
        claim=("pass" if tv < 1e-9 else "fail") if exact and cells is not None else None,
        seconds=seconds,
    )


def locate(
    method: Steering, world: World, *, value: Any = None, names: tuple[str, str, str], seed: int = 0
) -> Point | None:
    """Where the exact law lies, without a draw; None where it is not computable."""
    tilt = tilt_of(world, value)
    own = _own_law(method, world, tilt)
    if own is None:
        return None
    bill = price(method, tilt, generator(seed, "alone", *names, budget(method)))
    return Point(*names, budget(method), 0, *distance(world.pool(own), world), 0.0, *bill)


def price(method: Steering, tilt: Tilt, dice: torch.Generator) -> tuple[float, float]:
    """Reward calls and forward rows of a sample drawn alone."""
    runs = ALONE if tilt.diffusion.is_tokens else 1
    bills = [method.sample(tilt, 1, generator=dice).cost for _ in range(runs)]
    return sum(bill.reward_calls for bill in bills) / runs, sum(bill.forward_rows for bill in bills) / runs


def distance(cells: Tensor, world: World) -> tuple[float, float | None]:
    """Total variation and KL from p* of a law on the cells; None for an infinite KL."""
    target = world.pool(world.tilted)
    kl = relative_entropy(cells, target)
    return total_variation(cells, target), max(kl, 0.0) if math.isfinite(kl) else None


def tilt_of(world: World, value: Any = None) -> Tilt:
    """The world's tilt; a look at its exact value is paid for like a reward."""

    def known(x: Tensor, t: float) -> Tensor:
        spend(reward_calls=len(unique_rows(x)[0]) if is_discrete(x) else len(x))
        return world.value(x, t)

    return world.tilt(value=Given(known) if value is None else value)


def budget(method: Steering) -> int | None:
    """Candidates or particles of each returned sample."""
    return getattr(method, "candidates", getattr(method, "particles", None))


def has_weights(method: Steering) -> bool:
    """Whether a method of the library says that its log-weights are those of p*."""
    return not isinstance(method, BestOfN) and getattr(method, "selection", "softmax") in ("softmax", softmax)


def generator(seed: int, *names: object) -> torch.Generator:
    """Random numbers that depend on what is measured and on the seed, not on what was measured before."""
    return torch.Generator().manual_seed(zlib.crc32(repr((seed, *names)).encode()))


def draw(
    method: Steering, world: World, tilt: Tilt, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Outcomes int64 `[n]`, log-weights and rewards float64 `[n]`, drawn in chunks."""
    chunk = max(1, ROWS // (budget(method) or 1))
    parts = [method.sample(tilt, min(chunk, n - i), generator=generator) for i in range(0, n, chunk)]
    outcome = torch.cat([world.outcome(part.x) for part in parts])
    return outcome, torch.cat([part.log_weight for part in parts]), torch.cat([part.reward for part in parts])


def noise_floor(law: Tensor, n: int) -> float:
    """Mean total variation between `law` `[C]` and n draws from it, about."""
    return float((law * (1 - law) / (2 * math.pi * n)).sqrt().sum())


def _own_law(method: Steering, world: World, tilt: Tilt) -> Tensor | None:
    try:
        return world.law(method, tilt)
    except NotImplementedError:
        return None


def _checked(law: Tensor, world: World) -> Tensor:
    if law.shape != world.p.shape:
        raise ValueError(
            f"law has shape {tuple(law.shape)}; expected {tuple(world.p.shape)}, one mass for each outcome."
        )
    if bool((law < 0).any()) or abs(float(law.sum()) - 1) > 1e-6:
        raise ValueError(f"law sums to {float(law.sum()):g}, or has negative masses; expected probabilities.")
    return law.double()
