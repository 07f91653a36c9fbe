"""Shared by the tests of the core: worlds, and a way to hand a sampler chosen uniforms instead of random ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiltflow.core import transitions
from torch import Tensor


@pytest.fixture(autouse=True)
def _float64_is_not_the_default():
    """The core must not depend on the default dtype that a test may have set."""
    yield
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture
def chosen_uniforms(monkeypatch) -> Callable[[Tensor], None]:
    """`chosen_uniforms(u)`: from then on a transition's uniforms are `u`, expanded to the shape that it asks for."""

    def choose(u: Tensor) -> None:
        monkeypatch.setattr(transitions, "uniform", lambda shape, like, generator: u.double().expand(shape).clone())

    return choose


@pytest.fixture
def midpoints() -> Callable[[int], Tensor]:
    """`midpoints(n)`: float64 `[n]`, an even comb over (0, 1): sums over it are integrals over u, without luck."""
    return lambda n: (torch.arange(n, dtype=torch.float64) + 0.5) / n
