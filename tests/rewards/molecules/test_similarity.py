"""Tanimoto similarities: by hand, identities, and against rdkit's older functions."""

from __future__ import annotations

import pytest
from rdkit import rdBase
from rdkit.Chem import AllChem
from tiltflow.rewards.molecules import FINGERPRINTS, MoleculeError, Similarity, parse
from tiltflow.rewards.molecules.similarity import fingerprint

MOLECULES = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "C1CC1", "CCO"]


def test_counts_by_hand() -> None:
    # Of ethane and propane only the end carbon is an environment of both (radius 0): 2 of it, against 2 and others.
    ethane, propane = (fingerprint(parse(smiles), "ecfp4").GetNonzeroElements() for smiles in ("CC", "CCC"))
    keys = ethane.keys() | propane.keys()
    shared = sum(min(ethane.get(key, 0), propane.get(key, 0)) for key in keys)
    union = sum(max(ethane.get(key, 0), propane.get(key, 0)) for key in keys)
    assert shared == 2
    assert Similarity("CC")(parse("CCC")) == pytest.approx(shared / union)


@pytest.mark.parametrize("kind", sorted(FINGERPRINTS))
@pytest.mark.parametrize("counts", [True, False])
def test_similarity_to_itself_is_1_and_symmetric(kind: str, counts: bool) -> None:
    one, other = "CC(=O)Oc1ccccc1C(=O)O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"
    assert Similarity(one, kind, counts)(parse(one)) == 1  # type: ignore[arg-type]
    forth, back = (Similarity(a, kind, counts)(parse(b)) for a, b in ((one, other), (other, one)))  # type: ignore[arg-type]
    assert 0 < forth == back < 1


@pytest.mark.parametrize(
    ("kind", "older"),
    [
        ("ecfp4", lambda mol: AllChem.GetMorganFingerprint(mol, 2)),
        ("ecfp6", lambda mol: AllChem.GetMorganFingerprint(mol, 3)),
        ("fcfp4", lambda mol: AllChem.GetMorganFingerprint(mol, 2, useFeatures=True)),
        ("ap", lambda mol: AllChem.GetAtomPairFingerprint(mol, maxLength=10)),
    ],
)
def test_fingerprints_are_those_of_the_functions_that_the_benchmarks_call(kind: str, older: object) -> None:
    with rdBase.BlockLogs():  # they are deprecated, and say so
        for smiles in MOLECULES:
            mol = parse(smiles)
            assert fingerprint(mol, kind).GetNonzeroElements() == older(mol).GetNonzeroElements()  # type: ignore[operator]


@pytest.mark.parametrize(("reduce", "expected"), [("max", max), ("min", min), ("mean", lambda v: sum(v) / len(v))])
def test_several_leads(reduce: str, expected: object) -> None:
    mol = parse(MOLECULES[2])
    each = [Similarity(lead)(mol) for lead in MOLECULES[:2]]
    assert Similarity(MOLECULES[:2], reduce=reduce)(mol) == expected(each)  # type: ignore[arg-type, operator]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"leads": []}, ValueError, "no lead given"),
        ({"leads": "nope"}, MoleculeError, "reference molecule 'nope'"),
        ({"leads": "CCO", "fingerprint": "maccs"}, ValueError, "'maccs': choose one of ecfp4"),
        ({"leads": "CCO", "reduce": "sum"}, ValueError, "reduce 'sum'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Similarity(**arguments)
