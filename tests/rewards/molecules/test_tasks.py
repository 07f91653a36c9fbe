"""The PMO objectives: published values, targets, and their parts by hand.

The published values were computed with TDC's implementation and stand in data sets that others made with it: MolGen's ZINC
table (first row), DemoDiff's downstream tasks, and TDC's issue 244.
"""

from __future__ import annotations

import math

import pytest
from rdkit.Chem import Crippen, rdMolDescriptors
from tiltflow.rewards.molecules import PMO, Similarity, isomer, parse, pmo, pmo_scorer
from tiltflow.rewards.molecules import tasks as module

ZINC = "CC[C@@H]1CCCC[C@H]1c1noc(-c2cn3c(n2)COCC3)n1"
TDC = "CC(C)(C)[C@H]1CCc2c(sc(NC(=O)COc3ccc(Cl)cc3)c2C(N)=O)C1"
PUBLISHED = [
    ("albuterol_similarity", ZINC, 0.194444, 1e-6),
    ("amlodipine_mpo", ZINC, 0.095698, 1e-6),
    ("celecoxib_rediscovery", ZINC, 0.0625, 1e-6),
    ("deco_hop", ZINC, 0.524572, 1e-6),
    (
        "perindopril_mpo",
        "CCOC(=O)[C@H](CSCc1ccc2ccccc2c1)N[C@@H](C)C(=O)N1[C@@H]2CCCC[C@@H]2C[C@H]1C(=O)O",
        0.7662610281769212,
        1e-12,
    ),
    ("perindopril_mpo", "CCOC(=O)C(Cc1c[nH]c2ccccc12)N[C@@H](C)C(=O)N1C(C(=O)O)CC2CCCCC21", 0.7897862851668316, 1e-12),
    ("zaleplon_mpo", "Nc1nc(N)c2c(n1)CCC(c1ccccc1)C2", 0.0441147402612192, 1e-12),
    ("zaleplon_mpo", "Nc1nc2ccccc2c2nc(-c3ccco3)nn12", 0.0002908148131978, 1e-12),
    ("zaleplon_mpo", "Cc1ccc(NC(=O)c2cccc(Oc3ncccn3)c2)c(C)c1", 0.5023310149673528, 1e-12),
    ("scaffold_hop", "CCCC(C)Oc1ccc(C(=O)Nc2ccc3nc(SCC(=O)N[C@@H](C)c4ccccc4)sc3c2)cc1", 0.7727063162747809, 1e-12),
    ("scaffold_hop", "CC(C)Sc1ccc(CC2CCN(C3CCN(C(=O)c4ccc(Cl)cc4Cl)CC3)CC2)cc1", 0.3694790225910558, 1e-12),
    ("scaffold_hop", "CN(CCCl)CCCl", 1 / 3, 1e-12),
    ("scaffold_hop", "COc1ncc(Nc2ncc([C@@H](C)O)cc2-c2nc(C)nc(N)n2)cc1F", 0.5007215007215007, 1e-12),
    ("sitagliptin_mpo", TDC, 3.34970667598234e-12, 1e-24),
    ("zaleplon_mpo", TDC, 0.0019017991803329235, 1e-12),
    ("isomers_c7h8n2o2", TDC, 2.1987591132394053e-34, 1e-46),
    ("isomers_c9h10n2o2pf2cl", TDC, 1.713908431542013e-15, 1e-27),
]
TARGETS = [
    ("albuterol_similarity", module._ALBUTEROL),
    ("celecoxib_rediscovery", module._CELECOXIB),
    ("mestranol_similarity", module._MESTRANOL),
    ("thiothixene_rediscovery", module._THIOTHIXENE),
    ("troglitazone_rediscovery", module._TROGLITAZONE),
]


def score(task: str, smiles: str) -> float:
    return pmo_scorer(task)(parse(smiles))


def gauss(x: float, mu: float, sigma: float) -> float:
    return math.exp(-(((x - mu) / sigma) ** 2) / 2)


@pytest.mark.parametrize(("task", "smiles", "expected", "tolerance"), PUBLISHED)
def test_published_values(task: str, smiles: str, expected: float, tolerance: float) -> None:
    assert score(task, smiles) == pytest.approx(expected, rel=0, abs=tolerance)


@pytest.mark.parametrize(("task", "target"), TARGETS)
def test_targets_of_similarity_tasks_score_1(task: str, target: str) -> None:
    assert score(task, target) == 1
    assert 0 < score(task, "CCOC(=O)c1ccccc1") < 0.5


@pytest.mark.parametrize(
    ("task", "smiles"),
    [
        ("isomers_c7h8n2o2", "COc1ccc(C(N)=O)cn1"),
        ("isomers_c7h8n2o2", "Nc1ccc(N)c(C(=O)O)c1"),
        ("isomers_c7h8n2o2", "Cc1cc([N+](=O)[O-])ccc1N"),
        ("isomers_c9h10n2o2pf2cl", "O=C(NCCP(F)F)Nc1ccc(O)c(Cl)c1"),
        ("isomers_c9h10n2o2pf2cl", "OP(F)NC(=O)Nc1ccc(CCF)cc1Cl"),
    ],
)
def test_isomers_score_1(task: str, smiles: str) -> None:
    assert rdMolDescriptors.CalcMolFormula(parse(smiles)).lower() in (task[8:], "c9h10clf2n2o2p")  # Hill order
    assert score(task, smiles) == 1
    assert score(task, f"C.{smiles}") < 0.5


def test_a_formula_that_is_missed_by_hand() -> None:
    # Ethane C2H6 against C3H8: one C, two H and three atoms too few.
    expected = (gauss(2, 3, 1) * gauss(6, 8, 1) * gauss(8, 11, 2)) ** (1 / 3)
    assert isomer("C3H8")(parse("CC")) == pytest.approx(expected)
    with pytest.raises(ValueError, match="'c3h8' is not a formula"):
        isomer("c3h8")


def test_medians_are_geometric_means_of_two_similarities() -> None:
    for task, one, other, kind in (
        ("median1", module._CAMPHOR, module._MENTHOL, "ecfp4"),
        ("median2", module._TADALAFIL, module._SILDENAFIL, "ecfp6"),
    ):
        first, second = (Similarity(smiles, kind)(parse(ZINC)) for smiles in (one, other))  # type: ignore[arg-type]
        assert score(task, ZINC) == pytest.approx(math.sqrt(first * second))
        between = Similarity(one, kind)(parse(other))  # type: ignore[arg-type]
        assert score(task, one) == score(task, other) == pytest.approx(math.sqrt(between))


def test_osimertinib_by_hand() -> None:
    mol = parse(module._OSIMERTINIB)
    tpsa, logp = rdMolDescriptors.CalcTPSA(mol), Crippen.MolLogP(mol)
    assert (tpsa < 100, logp > 1) == (True, True)
    expected = (gauss(tpsa, 100, 10) * gauss(logp, 1, 1) * 1 * gauss(1, 0.85, 0.1)) ** 0.25
    assert score("osimertinib_mpo", module._OSIMERTINIB) == pytest.approx(expected)


def test_fexofenadine_by_hand() -> None:
    mol = parse(module._FEXOFENADINE)
    tpsa, logp = rdMolDescriptors.CalcTPSA(mol), Crippen.MolLogP(mol)
    assert (tpsa < 90, logp > 4) == (True, True)
    expected = (gauss(tpsa, 90, 10) * gauss(logp, 4, 1)) ** (1 / 3)
    assert score("fexofenadine_mpo", module._FEXOFENADINE) == pytest.approx(expected)


def test_ranolazine_by_hand() -> None:
    mol = parse(module._RANOLAZINE)
    tpsa, logp = rdMolDescriptors.CalcTPSA(mol), Crippen.MolLogP(mol)
    assert (tpsa < 95, logp < 7) == (True, True)
    expected = (gauss(tpsa, 95, 20) * gauss(logp, 7, 1) * gauss(0, 1, 1)) ** 0.25
    assert score("ranolazine_mpo", module._RANOLAZINE) == pytest.approx(expected)


def test_valsartan_needs_the_pattern() -> None:
    mol = parse("CCCCC(=O)N(Cc1ccc(-c2ccccc2)cc1)C")
    sitagliptin = parse(module._SITAGLIPTIN)
    assert score("valsartan_smarts", module._SITAGLIPTIN) == 0
    near = [gauss(Crippen.MolLogP(mol), Crippen.MolLogP(sitagliptin), 0.2)]
    near += [gauss(rdMolDescriptors.CalcTPSA(mol), rdMolDescriptors.CalcTPSA(sitagliptin), 5)]
    from rdkit.Chem.GraphDescriptors import BertzCT

    near += [gauss(BertzCT(mol), BertzCT(sitagliptin), 30)]
    assert score("valsartan_smarts", "CCCCC(=O)N(Cc1ccc(-c2ccccc2)cc1)C") == pytest.approx(
        math.prod(near) ** 0.25, rel=1e-9
    )


@pytest.mark.parametrize("task", PMO)
def test_every_task_is_between_0_and_1(task: str) -> None:
    assert all(0 <= score(task, smiles) <= 1 for smiles in (ZINC, "C", module._HOP))


def test_the_benchmark_as_rewards() -> None:
    assert len(PMO) == 20
    reward = pmo("celecoxib_rediscovery")
    assert reward.name == "celecoxib_rediscovery"
    assert reward.score([module._CELECOXIB, "no molecule"]).tolist() == [1, 0]
    with pytest.raises(
        ValueError, match=r"no PMO task 'perindopril'; choose one of albuterol.*did you mean perindopril_mpo"
    ):
        pmo("perindopril")
