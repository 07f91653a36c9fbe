from __future__ import annotations

import pytest
import torch
from tiltflow.core.networks import ConvDenoiser, ConvValue
from tiltflow.core.states import one_hot

X = torch.randint(5, (6, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def networks():
    torch.manual_seed(0)
    denoiser = ConvDenoiser(4, 10, channels=8, kernel=3, dilations=(1, 2))
    value = ConvValue(4, 10, channels=8, kernel=3, dilations=(1,), offset=3.0, scale=0.5)
    with torch.no_grad():
        denoiser.trunk.position.normal_()
        value.trunk.position.normal_()
    return denoiser.eval(), value.eval()


def test_relaxed_one_hot_input_is_the_tokens(networks):
    denoiser, value = networks
    t = torch.linspace(0.1, 0.9, 6)
    torch.testing.assert_close(denoiser(one_hot(X, 5), t), denoiser(X, t))
    torch.testing.assert_close(value(one_hot(X, 5), t), value(X, t))


def test_the_denoiser_does_not_look_at_the_time_and_the_value_does(networks):
    denoiser, value = networks
    early, late = torch.full((6,), 0.1), torch.full((6,), 0.9)
    assert denoiser.time_invariant
    assert torch.equal(denoiser(X, early), denoiser(X, late))
    assert float((value(X, early) - value(X, late)).detach().abs().max()) > 0


def test_rows_do_not_see_each_other(networks):
    for network in networks:
        t = torch.full((6,), 0.5)
        torch.testing.assert_close(torch.cat([network(X[i : i + 1], t[:1]) for i in range(6)]), network(X, t))


def test_positions_are_told_apart(networks):
    denoiser, _ = networks
    logits = denoiser(torch.full((1, 10), 4), None)[0].detach()
    assert len({tuple(row.tolist()) for row in logits}) == 10
    assert logits.shape == (10, 4)


def test_a_change_is_seen_as_far_as_the_kernel_reaches(networks):
    """Kernel 3, then dilations 1 and 2: 1 + 1 + 2 sites to each side; normalisation sees all, so it is left out."""
    denoiser, _ = networks
    trunk = denoiser.trunk
    for block in trunk.blocks:
        block.norm = torch.nn.Identity()
    changed = X[:1].clone()
    changed[0, 4] = (changed[0, 4] + 1) % 5
    moved = (trunk(X[:1]) - trunk(changed)).abs().sum(1)[0] > 0
    assert moved.nonzero().flatten().tolist() == list(range(0, 9))


def test_bad_networks():
    with pytest.raises(ValueError, match="odd"):
        ConvDenoiser(4, 10, kernel=4)
    with pytest.raises(ValueError, match="length 9"):
        ConvDenoiser(4, 10)(X[:, :9])


def test_settings_rebuild_the_network(networks):
    denoiser, _ = networks
    again = ConvDenoiser(**denoiser.settings)
    again.load_state_dict(denoiser.state_dict())
    assert torch.equal(again.eval()(X), denoiser(X))
