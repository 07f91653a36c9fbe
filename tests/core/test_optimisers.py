"""Muon: directions that are orthogonal, AdamW for the rest, and that it learns matrices that gradients hardly see."""

from __future__ import annotations

import pytest
import torch
from tiltflow.core.networks import TransformerDenoiser
from tiltflow.core.optimisers import Muon, hidden_matrices, orthogonal
from torch import nn


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (3, 5, 5)])
def test_directions_keep_the_singular_vectors_and_even_out_the_values(shape, generator):
    x = torch.randn(shape, generator=generator(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    out = orthogonal(x)
    values = u.mT @ out @ v.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), atol=1e-9, rtol=0)
    assert bool((diagonal[s > 0.1 * s.amax(-1, keepdim=True)] > 0.65).all())
    assert bool((diagonal < 1.25).all())


def test_what_is_not_a_hidden_matrix_is_adamws(generator):
    x = torch.randn(5, 4, generator=generator(0))
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    inner = nn.Parameter(torch.eye(3))
    muon = Muon([inner], ours.parameters(), lr=0.1, weight_decay=0.1)
    adam = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.1, betas=(0.9, 0.99))
    for _ in range(3):
        (ours(x) @ inner.detach()).square().sum().backward()
        (theirs(x) @ torch.eye(3)).square().sum().backward()
        for optimiser in (muon, adam):
            optimiser.step()
            optimiser.zero_grad()
        inner.data.copy_(torch.eye(3))
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_a_step_moves_a_matrix_as_far_in_faint_directions_as_in_strong_ones(generator):
    weight = nn.Parameter(torch.zeros(12, 3, dtype=torch.float64))
    optimiser = Muon([weight], [nn.Parameter(torch.zeros(1))], lr=0.02, ratio=5, weight_decay=0.5)
    left, right = (torch.linalg.qr(torch.randn(n, 3, generator=generator(n), dtype=torch.float64))[0] for n in (12, 3))
    weight.grad = left @ torch.diag(torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)) @ right.mT
    optimiser.step()
    moved = torch.linalg.svdvals(weight.detach()) / (0.02 * 5 * 2)  # 2 = sqrt(12 / 3)
    assert bool(((moved > 0.65) & (moved < 1.25)).all())
    assert float((weight.detach() * (left @ right.mT)).sum()) < 0  # downhill


def test_matrices_are_asked_for_and_checked():
    network = TransformerDenoiser(5, 6, width=16, layers=2, heads=2)
    assert len(hidden_matrices(network)) == 2 * 4
    with pytest.raises(ValueError, match="Linear has no `hidden_matrices`"):
        hidden_matrices(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"\[\(3,\)\]"):
        Muon([nn.Parameter(torch.zeros(3))], [], lr=0.1)
