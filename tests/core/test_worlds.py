"""The ruler itself: what a world says it knows, against plain sums."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core.worlds import MaskedWorld

WORLD = MaskedWorld(3, 4, seed=2, alpha=0.7)


def test_states_and_their_numbers():
    assert torch.equal(WORLD.index(WORLD.states), torch.arange(5**3))
    assert torch.equal(WORLD.outcome(WORLD.sequences), torch.arange(4**3))
    assert torch.equal(WORLD.states[WORLD.full], WORLD.sequences)
    assert not bool((WORLD.sequences == 4).any())


def test_laws_are_laws():
    for law in (WORLD.p, WORLD.tilted, WORLD.base_law()):
        assert float(law.sum()) == pytest.approx(1, abs=1e-12)
        assert bool((law > 0).all())
    weights = WORLD.p * (WORLD.rewards / 0.7).exp()
    assert WORLD.log_z == pytest.approx(math.log(float(weights.sum())), abs=1e-12)
    torch.testing.assert_close(WORLD.tilted, weights / weights.sum(), rtol=0, atol=1e-12)
    assert float(WORLD.p.max() / WORLD.p.min()) > 30


def test_the_law_is_correlated():
    """Else every sampler would be exact and nothing would be measured."""
    one = torch.stack([WORLD.p[WORLD.sequences[:, 0] == k].sum() for k in range(4)])
    two = torch.stack([WORLD.p[WORLD.sequences[:, 1] == k].sum() for k in range(4)])
    both = torch.stack(
        [WORLD.p[(WORLD.sequences[:, :2] == torch.tensor([a, b])).all(1)].sum() for a in range(4) for b in range(4)]
    )
    assert float((both.reshape(4, 4) - one.outer(two)).abs().sum()) > 0.1


def test_the_posterior_by_enumeration():
    for state, found in zip(WORLD.states[::7], WORLD.posterior[::7].exp(), strict=True):
        agrees = ((WORLD.sequences == state) | (state == 4)).all(1)
        p = torch.where(agrees, WORLD.p, 0.0)
        for site in range(3):
            expected = torch.stack([p[WORLD.sequences[:, site] == k].sum() for k in range(4)]) / p.sum()
            torch.testing.assert_close(found[site], expected, rtol=0, atol=1e-12)


def test_kernels_have_rows_that_sum_to_one():
    diffusion = WORLD.diffusion
    times = diffusion.times.tolist()
    kernel = WORLD.kernel(diffusion, times[0], times[1])
    torch.testing.assert_close(kernel.sum(1), torch.ones(125).double(), rtol=0, atol=1e-12)


def test_worlds_differ_by_their_seed_and_are_the_same_again():
    assert torch.equal(MaskedWorld(3, 4, seed=2).p, WORLD.p)
    assert not torch.equal(MaskedWorld(3, 4, seed=3).p, WORLD.p)


@pytest.mark.parametrize(("length", "vocab"), [(1, 3), (9, 3), (4, 1), (4, 6), (8, 5 + 1)])
def test_worlds_that_cannot_be_enumerated(length, vocab):
    with pytest.raises(ValueError, match="not enumerable"):
        MaskedWorld(length, vocab)
