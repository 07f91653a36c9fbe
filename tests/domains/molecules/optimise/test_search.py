"""A search in the place of a steering method: what it returns, what it counts, and that it stops when asked to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import Diffusion, Tilt
from tiltflow.core.observers import StopWhen, Trace
from tiltflow.core.processes import Masked
from tiltflow.domains.molecules import constrain, load
from tiltflow.domains.molecules.optimise import Evolution, Search
from tiltflow.molecules import MASK, PAD, decode
from tiltflow.rewards.molecules import pmo

EVOLUTION = Evolution(population=60, offspring=20, start=30, learning=None)


@pytest.fixture(scope="module")
def domain(tiny):
    return load(tiny, steps=8)


def test_it_returns_the_best_of_all_it_asked_for(domain, generator):
    asked: dict[str, float] = {}
    scorer = pmo("isomers_c7h8n2o2")

    def reward(x):
        values = scorer(x)
        asked.update(zip(decode(x), values.tolist(), strict=True))
        return values

    tilt = Tilt(domain.diffusion, reward, alpha=0.1)
    trace = Trace()
    samples = Search(EVOLUTION, calls=150).sample(tilt, 8, generator=generator(0), observe=[trace])
    assert len(asked) == samples.cost.reward_calls == 150
    assert samples.reward.tolist() == sorted(asked.values(), reverse=True)[:8]
    torch.testing.assert_close(tilt.reward(samples.x), samples.reward)
    assert not samples.log_weight.any()
    assert samples.cost.forward_rows > 0
    table = samples.trace
    assert table["reward_calls"].tolist() == sorted(table["reward_calls"].tolist())
    assert table["t"][-1] < table["t"][0]


def test_it_stops_when_asked_and_keeps_what_it_has(domain, generator):
    tilt = Tilt(domain.diffusion, pmo("isomers_c7h8n2o2"), alpha=0.1)
    stop = StopWhen(lambda state: state.index >= 60)
    samples = Search(EVOLUTION, calls=400).sample(tilt, 5, generator=generator(0), observe=[stop])
    assert 60 <= samples.stopped < 120
    assert len(samples.x) == 5


def test_rewards_that_fail_are_the_worst_and_counted(domain, generator):
    def reward(x):
        sizes = (x != PAD).sum(1).double()
        return torch.where(sizes > 6, torch.nan, sizes)

    tilt = Tilt(domain.diffusion, reward, alpha=0.1, failures="exclude")
    samples = Search(EVOLUTION, calls=120).sample(tilt, 4, generator=generator(0))
    assert samples.reward.tolist() == [6.0] * 4
    assert samples.cost.reward_failures > 0


def test_what_it_cannot_search_is_refused(domain):
    tilt = Tilt(domain.diffusion, pmo("qed"), alpha=0.1)
    with pytest.raises(ValueError, match="does not keep to a template or scaffold"):
        Search().check(replace(tilt, diffusion=constrain(domain, scaffold="*c1ccccc1").diffusion))
    other = Diffusion(Masked(4), lambda x, t: torch.zeros(*x.shape, 4), (6,))
    assert MASK != 4
    with pytest.raises(ValueError, match="needs a masked model of molecules"):
        Search().check(replace(tilt, diffusion=other))
    with pytest.raises(ValueError, match="9 molecules asked for within 5 calls"):
        Search(calls=5).sample(tilt, 9)
    with pytest.raises(ValueError, match="calls is 1"):
        Search(calls=1).check(tilt)
