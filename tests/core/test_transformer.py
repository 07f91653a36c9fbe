from __future__ import annotations

import pytest
import torch
from tiltflow.core.networks import TransformerDenoiser
from tiltflow.core.states import one_hot

X = torch.randint(6, (5, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    made = TransformerDenoiser(5, 10, width=16, layers=2, heads=2).eval()
    with torch.no_grad():
        made.head.weight.normal_()  # an untrained one says nothing
    return made


def test_relaxed_one_hot_input_is_the_tokens(network, dtype):
    network = network.to(dtype)
    logits = network(X)
    assert logits.dtype == dtype
    assert logits.shape == (5, 10, 5)
    torch.testing.assert_close(network(one_hot(X, 6, dtype)), logits)


def test_rows_do_not_see_each_other(network):
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(network(X[order]), network(X)[order])
    torch.testing.assert_close(torch.cat([network(X[i : i + 1]) for i in range(5)]), network(X))


def test_it_does_not_look_at_the_time(network):
    assert network.time_invariant
    assert torch.equal(network(X, torch.full((5,), 0.1)), network(X, torch.full((5,), 0.9)))


def test_every_site_sees_every_site(network):
    changed = X.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 6
    assert bool(((network(X) - network(changed)).abs().amax(-1) > 1e-6).all())


def test_order_matters_and_absolute_place_does_not(network):
    """Rotary positions: turned queries and keys meet at their distance, so equal distances give equal products."""
    attention = network.layers[0].attention
    q, k = torch.randn(2, 1, 2, 1, 8, generator=torch.Generator().manual_seed(0)).expand(2, 1, 2, 10, 8)
    products = attention._turned(q) @ attention._turned(k).transpose(-1, -2)  # [1, heads, L, L] of one q and one k
    for distance in (-3, 0, 4):
        diagonal = products.diagonal(distance, -2, -1)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal))
    assert float((products.diagonal(1, -2, -1) - products.diagonal(-1, -2, -1)).abs().max()) > 1e-3


def test_an_untrained_network_says_nothing():
    logits = TransformerDenoiser(5, 10, width=16, layers=2, heads=2)(X)
    assert float(logits.detach().abs().max()) == 0.0


def test_settings_rebuild_the_network(network):
    again = TransformerDenoiser(**network.settings)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(X), network(X))


def test_bad_networks():
    with pytest.raises(ValueError, match="width=10 and heads=4"):
        TransformerDenoiser(5, 10, width=10, heads=4)
    with pytest.raises(ValueError, match="length 9; this network was built for 10"):
        TransformerDenoiser(5, 10, width=16)(X[:, :9])
