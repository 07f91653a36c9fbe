"""Metrics of molecules against numbers that are known by hand or by another implementation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Descriptors
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from tiltflow.core.storage import StorageError, save_tensors
from tiltflow.domains.molecules import Reference
from tiltflow.domains.molecules.metrics import METRICS, circles, diversity, evaluate, wasserstein
from tiltflow.domains.molecules.properties import DESCRIPTORS, properties, similarities
from tiltflow.molecules import LENGTH, encode

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CCO", "c1ccc2[nH]ccc2c1", "CN1CCN(C)CC1", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"]


@pytest.fixture(scope="module")
def reference():
    return Reference.build(encode(SMILES), [*SMILES[:2], "CCN"], {"data": "five molecules"})


def test_descriptors_are_those_of_rdkit():
    for smiles in SMILES:
        found, ours = Chem.MolFromSmiles(smiles), dict(zip(DESCRIPTORS, properties(smiles).descriptors, strict=True))
        assert ours["qed"] == pytest.approx(QED.qed(found))
        assert ours["logp"] == pytest.approx(Descriptors.MolLogP(found))
        assert ours["weight"] == pytest.approx(Descriptors.MolWt(found))
        assert ours["tpsa"] == pytest.approx(Descriptors.TPSA(found))
        assert ours["rings"] == Descriptors.RingCount(found)


def test_similarities_are_tanimoto_of_morgan_fingerprints():
    make = GetMorganGenerator(radius=2, fpSize=2048)
    prints = [make.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in SMILES]
    expected = np.array([DataStructs.BulkTanimotoSimilarity(each, prints) for each in prints])
    found = [properties(smiles) for smiles in SMILES]
    np.testing.assert_allclose(similarities(found, found), expected, atol=1e-12)
    pairs = expected[np.triu_indices(5, 1)]
    assert diversity(found) == pytest.approx(1 - pairs.mean())
    assert np.isnan(diversity(found[:1]))


def test_circles_count_molecules_that_keep_apart():
    found = [properties(smiles) for smiles in ("CCCCCCO", "CCCCCCCO", "c1ccc2[nH]ccc2c1", "CCCCCCO")]
    assert circles(found) == 2
    assert circles(found, apart=0.0) == 4
    assert circles([]) == 0


def test_wasserstein_is_the_area_between_distribution_functions():
    generator = np.random.Generator(np.random.PCG64(0))
    a, b = generator.normal(size=40), generator.normal(1, 2, size=40)
    assert wasserstein(a, b) == pytest.approx(np.abs(np.sort(a) - np.sort(b)).mean())
    assert wasserstein(a, a + 3) == pytest.approx(3)
    assert wasserstein(np.array([0.0]), np.array([0.0, 1.0, 2.0, 3.0])) == pytest.approx(1.5)


def test_alerts():
    assert properties("CCO").alerts == ()
    assert "BRENK" in properties("CC(=O)C=C").alerts  # a Michael acceptor
    assert "PAINS" in properties("O=C1CSC(=S)N1").alerts or properties("S=C1NC(=O)C(=Cc2ccccc2)S1").alerts


def test_figures_of_a_set(reference):
    x = torch.cat([encode(["CCO", "OCC", "CCN", "CCCl"]), torch.zeros(1, LENGTH, dtype=torch.int64)])
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0, float("nan")])
    report = evaluate(x, reference, reward=reward, nelbo=torch.full((5,), 0.5))
    assert (report["n"], report["unique"], report["validity"]) == (5, 4, 0.8)
    assert report["uniqueness"] == 0.75
    assert report["novelty"] == pytest.approx(1 / 3)  # CCO and CCN are known
    assert (report["scaffolds"], report["words_median"]) == (0, 1)
    assert (report["reward_median"], report["reward_excluded"]) == (2.5, 1)
    assert report["nelbo_median"] == 0.5
    assert report["rings_median"] == 0
    assert set(report) <= set(METRICS)
    json.dumps(report, allow_nan=False)


def test_natural_molecules_are_at_no_distance_from_themselves(reference):
    report = evaluate(reference.tokens, reference)
    assert report["descriptor_distance"] == pytest.approx(0, abs=1e-6)
    assert report["novelty"] == pytest.approx(3 / 5)
    assert reference.alert_free["BRENK"] == report["brenk_free"]


def test_nothing_valid_gives_no_numbers_and_no_crash(reference):
    report = evaluate(torch.zeros(2, LENGTH, dtype=torch.int64), reference)
    assert report["validity"] == 0
    assert report["uniqueness"] is report["novelty"] is report["diversity"] is None
    assert "qed_median" not in report


def test_a_reference_comes_back_from_its_file(reference, tmp_path):
    reference.save(tmp_path / "r.safetensors")
    again = Reference.load(tmp_path / "r.safetensors")
    assert torch.equal(again.tokens, reference.tokens)
    assert torch.equal(again.descriptors, reference.descriptors)
    assert (again.alert_free, again.info) == (reference.alert_free, reference.info)
    assert "CCN" in again.known
    assert "CCCCCC" not in again.known
    save_tensors(tmp_path / "s.safetensors", {}, {"kind": "molecule reference", "names": list(DESCRIPTORS)})
    with pytest.raises(StorageError, match="not a whole reference"):
        Reference.load(tmp_path / "s.safetensors")


def test_the_shipped_reference_holds_molecules_that_the_prior_has_not_seen():
    shipped = Reference.load()
    assert shipped.tokens.shape == (2000, LENGTH)
    from tiltflow.molecules import decode

    smiles = decode(shipped.tokens[:500])
    assert all(smiles)
    assert sum(text in shipped.known for text in smiles) <= 8  # the errors of the Bloom filter
    assert shipped.known.count == 238_005
    assert float(shipped.descriptors[:, 0].mean()) == pytest.approx(0.733, abs=0.002)
