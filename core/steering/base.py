"""The steering contract and the one driver that all stepwise methods share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..cost import Meter
from ..diffusion import check_count
from ..observers import Observer
from ..particles import Particles
from ..samplers import complete
from ..tilt import Samples, Tilt
from ..transitions import Transition


@dataclass(frozen=True)
class Steering:
    """A stepwise steering method: hyper-parameters only; the state goes in and comes out.

    A new method gives `step`, and `finish` if it returns something else than its particles. `group` is the number of
    particles it keeps for each returned sample.
    """

    @property
    def group(self) -> int:
        return 1

    def check(self, tilt: Tilt) -> None:
        """Raise ValueError for a tilt that this method cannot serve, before anything is computed."""

    def need_noise(self, tilt: Tilt) -> None:
        """Raise ValueError unless the sampler's steps are random: draws from a step without noise are all the same."""
        sampler = tilt.diffusion.sampler
        if not sampler.stochastic:
            raise ValueError(
                f"{type(self).__name__} chooses among draws of a step, and the steps of {sampler} have no noise. Use a "
                "stochastic sampler, such as Ancestral(), or a method that chooses at the end, such as ImportanceResampling."
            )

    def init(self, tilt: Tilt, n: int, *, generator: torch.Generator | None = None) -> Particles:
        """n groups of particles at the start of the grid."""
        x = tilt.diffusion.prior(n * self.group, generator=generator)
        zeros = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        times = tilt.diffusion.times
        return Particles(x, zeros, zeros, zeros, zeros[:n], t=float(times[0]), total=len(times) - 1)

    def step(
        self, tilt: Tilt, state: Particles, t: float, s: float, *, generator: torch.Generator | None = None
    ) -> Particles:
        """From time t to s < t."""
        raise NotImplementedError

    def finish(self, tilt: Tilt, state: Particles, *, generator: torch.Generator | None = None) -> Particles:
        """One particle a group, its log-weight that of the whole group (default: the particles are the samples)."""
        return state

    def sample(
        self, tilt: Tilt, n: int, *, generator: torch.Generator | None = None, observe: Sequence[Observer] = ()
    ) -> Samples:
        """n samples. See `tiltflow.core.steering.sample`."""
        return sample(self, tilt, n, generator=generator, observe=observe)


def forward(tilt: Tilt, state: Particles, t: float, s: float) -> tuple[Transition, Tensor]:
    """The base law's step from the particles, and the clean estimate it came from (reused where at hand)."""
    clean = tilt.diffusion.clean(state.x, t, tilt.cond, distinct=True) if state.clean is None else state.clean
    return tilt.diffusion.transition(state.x, t, s, tilt.cond, clean=clean), clean


def steps(
    method: Steering,
    tilt: Tilt,
    n: int,
    *,
    generator: torch.Generator | None = None,
    observe: Sequence[Observer] = (),
) -> Iterator[Particles]:
    """Run a method step by step, yielding the state after each, so that a caller can interleave code.

    When an observer asks to stop, the rest of the path runs unguided in one go and gets its exact terminal weight: the
    samples are then complete and properly weighted, only less steered.
    """
    check_count("n", n)
    sampler = tilt.diffusion.sampler
    if not sampler.single_step:
        raise ValueError(
            f"{type(sampler).__name__} takes several estimates a step and only samples. Steer with a single-step sampler of "
            "the same model, such as Ancestral() or DDIM(eta=1.0)."
        )
    method.check(tilt)
    meter = Meter()
    with meter, torch.no_grad():
        state = method.init(tilt, n, generator=generator)
    times = tilt.diffusion.times.tolist()
    try:
        for index, (t, s) in enumerate(pairwise(times), start=1):
            with meter, torch.no_grad():
                state = method.step(tilt, state, t, s, generator=generator)
            state = replace(state, t=s, index=index, cost=meter.cost)
            stop = [observer(state) for observer in observe]
            if any(stop) and s > times[-1]:
                with meter, torch.no_grad():
                    state = coast(tilt, state, generator)
                yield replace(state, cost=meter.cost)
                return
            yield state
    finally:
        for observer in observe:
            getattr(observer, "close", _nothing)()


def _nothing() -> None:
    """What an observer without `close` does at the end."""


def coast(tilt: Tilt, state: Particles, generator: torch.Generator | None) -> Particles:
    """Finish all particles with the unguided sampler and close the books with the reward."""
    times = tilt.diffusion.times
    rest = times[state.index :]
    x = complete(tilt.diffusion, state.x, rest, generator=generator, cond=tilt.cond, clean=state.clean)
    done = replace(state, x=x, clean=None, t=float(times[-1]), index=state.total, stopped=state.index)
    return settle(tilt, done)


def settle(tilt: Tilt, state: Particles) -> Particles:
    """Terminal correction: whatever potentials a path has met, its total becomes exactly r / alpha."""
    reward = tilt.reward(state.x)
    target = reward / tilt.alpha
    return replace(
        state,
        value=reward,
        log_weights=state.log_weights + target - state.log_potential,
        log_potential=target,
    )


def sample(
    method: Steering,
    tilt: Tilt,
    n: int,
    *,
    generator: torch.Generator | None = None,
    observe: Sequence[Observer] = (),
) -> Samples:
    """Run a method to the end.

    Args:
        n: number of samples to return.
        observe: called with the state after every step; see `observers`.

    Returns:
        `Samples`: x `[n, *shape]`, reward and log-weight float64 `[n]`, cost, and the trace if a `Trace` observed.

    Raises:
        ValueError: n is not a positive integer, or the method refuses the tilt.
        RewardError: the reward broke its contract.
    """
    state = deque(steps(method, tilt, n, generator=generator, observe=observe), maxlen=1).pop()
    meter = Meter()
    with meter, torch.no_grad():
        final = method.finish(tilt, state, generator=generator)
    return Samples(
        x=final.x,
        reward=final.value,
        log_weight=final.log_weights,
        cost=state.cost + meter.cost,
        trace=_trace(observe),
        stopped=state.stopped,
    )


def _trace(observe: Sequence[Any]) -> dict[str, Tensor] | None:
    tables = [observer.table for observer in observe if hasattr(observer, "table")]
    return tables[0]() if tables else None
