"""Descriptors against published values."""

from __future__ import annotations

from pathlib import Path

import pytest
from rdkit import RDConfig
from tiltflow.rewards.molecules import DESCRIPTORS, Descriptor, parse
from tiltflow.rewards.molecules.descriptors import _FUNCTIONS

ASPIRIN, MORPHINE = "CC(=O)Oc1ccccc1C(=O)O", "CN1CCC23C4C1CC5=C2C(=C(C=C5)O)OC3C(C=C4)O"


def value(name: str, smiles: str) -> float:
    return Descriptor(name)(parse(smiles))


# TPSA and weight of aspirin are those of PubChem (CID 2244); counts are by hand.
@pytest.mark.parametrize(
    ("name", "smiles", "expected"),
    [
        ("tpsa", ASPIRIN, 63.6),
        ("weight", ASPIRIN, 180.16),
        ("weight", MORPHINE, 285.34),
        ("donors", ASPIRIN, 1),
        ("acceptors", ASPIRIN, 3),
        ("rotatable", "CCCCCC", 3),
        ("rings", MORPHINE, 5),
        ("aromatic_rings", MORPHINE, 1),
        ("fsp3", ASPIRIN, 1 / 9),
        ("charge", "C[N+](C)(C)CC(=O)[O-]", 0),
        ("charge", "[NH3+]CC[NH3+]", 2),
        ("heavy_atoms", ASPIRIN, 13),
    ],
)
def test_values_known_from_elsewhere(name: str, smiles: str, expected: float) -> None:
    assert value(name, smiles) == pytest.approx(expected, abs=0.005)


def test_logp_is_the_sum_of_the_atom_contributions_of_wildman_and_crippen() -> None:
    # Methane is C1 (0.1441) and four hydrogens H1 (0.1230) of table 1 in their paper.
    assert value("logp", "C") == pytest.approx(0.1441 + 4 * 0.1230)


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        # The three examples of rdkit's implementation by Hans de Winter.
        ("N=C(CCSCc1csc(N=C(N)N)n1)NS(N)(=O)=O", 0.253),
        ("CNC(=NCCSCc1nc[nH]c1C)NC#N", 0.234),
        ("CCCCCNC(=N)NN=Cc1c[nH]c2ccc(CO)cc12", 0.234),
    ],
)
def test_qed(smiles: str, expected: float) -> None:
    assert value("qed", smiles) == pytest.approx(expected, abs=0.001)


def test_sa_of_the_reference_table() -> None:
    table = Path(RDConfig.RDContribDir) / "SA_Score" / "data" / "zim.100.txt"
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    assert len(rows) == 100
    for smiles, _, expected in rows:
        assert value("sa", smiles) == pytest.approx(float(expected), abs=0.001)
        assert value("sa_unit", smiles) == pytest.approx((10 - value("sa", smiles)) / 9)


def test_natural_products_score_above_synthetic_ones(capfd: pytest.CaptureFixture[str]) -> None:
    synthetic = "FC(F)(F)c1ccc(Cl)cc1NS(=O)(=O)CCl"
    assert value("np", MORPHINE) > 2
    assert 0.5 > value("np", ASPIRIN) > value("np", synthetic)
    assert capfd.readouterr().err == ""


def test_all_that_are_listed_can_be_computed() -> None:
    assert set(DESCRIPTORS) == set(_FUNCTIONS)
    for name in DESCRIPTORS:
        assert isinstance(value(name, "CCO"), float)
        assert Descriptor(name).meaning == DESCRIPTORS[name]


def test_unknown_descriptors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no descriptor 'log_p'; choose one of qed, .*did you mean logp"):
        Descriptor("log_p")
