"""The Frechet ChemNet distance: Gaussians by hand, and where fcd-torch is installed, its own numbers."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from tiltflow.domains.molecules import Reference, fcd
from tiltflow.domains.molecules.metrics import evaluate
from tiltflow.molecules import encode

SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CCO",
    "c1ccc2[nH]ccc2c1",
    "CN1CCN(C)CC1",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "CCBr",
    "CCN",
]


def gaussian(mean, covariance):
    return fcd.Moments(torch.tensor(mean).double(), torch.tensor(covariance).double(), 9)


def test_the_distance_of_gaussians_by_hand():
    one = gaussian([0.0, 1.0], [[4.0, 0.0], [0.0, 9.0]])
    other = gaussian([3.0, 1.0], [[1.0, 0.0], [0.0, 16.0]])
    assert fcd.frechet(one, other) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 4) ** 2)
    assert fcd.frechet(one, one) == pytest.approx(0, abs=1e-12)
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double())[0]
    turned = [fcd.Moments(turn @ each.mean, turn @ each.covariance @ turn.T, 9) for each in (one, other)]
    assert fcd.frechet(*turned) == pytest.approx(11)
    assert math.isnan(fcd.frechet(one, other._replace(molecules=1)))


def test_without_the_extra_it_says_what_to_install_and_metrics_leave_it_out(monkeypatch):
    fcd._chemnet.cache_clear()
    monkeypatch.setitem(sys.modules, "fcd_torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tiltflow\[fcd\]'"):
        fcd.distance(SMILES, SMILES)
    monkeypatch.setattr(fcd, "available", lambda: False)
    assert "fcd" not in evaluate(encode(SMILES), Reference.build(encode(SMILES)))


def test_equal_sets_are_at_no_distance_and_others_are():
    pytest.importorskip("fcd_torch")
    assert fcd.distance(SMILES, SMILES[::-1]) == pytest.approx(0, abs=1e-6)
    assert fcd.distance(SMILES, SMILES[:4]) > 1
    assert math.isnan(fcd.distance(SMILES[:1], SMILES))
    reference = Reference.build(encode(SMILES))
    assert evaluate(encode(SMILES), reference)["fcd"] == pytest.approx(0, abs=1e-6)
    assert evaluate(encode(SMILES[:1]), reference)["fcd"] is None
    again = fcd.distance([*SMILES, "CCO"], SMILES)  # a copy counts twice
    assert 0 < again < fcd.distance(SMILES, SMILES[:4])


def test_the_numbers_are_those_of_the_package():
    """Its activations, by its own reading of SMILES; its distance takes a matrix root that newer scipy does not offer."""
    package = pytest.importorskip("fcd_torch.utils")
    network, _ = fcd._chemnet()
    data = package.SmilesDataset(SMILES)
    rows = torch.from_numpy(np.stack([data[i] for i in range(len(SMILES))])).float()
    with torch.no_grad():
        expected = network(rows.transpose(1, 2))
    torch.testing.assert_close(fcd.activations(SMILES), expected, rtol=1e-5, atol=1e-6)
    linalg = pytest.importorskip("scipy.linalg")
    first, second = (fcd.moments(part) for part in (SMILES, SMILES[:5]))
    root = np.real(linalg.sqrtm((first.covariance @ second.covariance).numpy() + 1e-12 * np.eye(512)))
    apart = float((first.mean - second.mean).square().sum() + first.covariance.trace() + second.covariance.trace())
    assert fcd.frechet(first, second) == pytest.approx(apart - 2 * float(np.trace(root)), rel=1e-3)
