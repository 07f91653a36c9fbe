"""Patterns, scaffolds, alerts and formulas of molecules that everyone knows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from tiltflow.rewards.molecules import Alerts, Formula, HasPattern, MoleculeError, ScaffoldLock, Smarts, parse, scaffold


def test_patterns_are_found_or_not() -> None:
    acid = HasPattern("C(=O)[OX2H1]")
    assert (acid(parse("CC(=O)O")), acid(parse("CC(=O)OC"))) == (1, 0)


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [("Nc1ccccc1", 0), ("Nc1ccc(Br)cc1", -math.inf), ("NC1CCCCC1", -math.inf), ("Brc1ccccc1", -math.inf)],
)
def test_what_must_and_must_not_be_there(smiles: str, expected: float) -> None:
    assert Smarts(must=["c1ccccc1", "[NH2]"], forbid="[Br]")(parse(smiles)) == expected


def test_the_scaffold_of_a_lead_is_kept() -> None:
    lock = ScaffoldLock("CC(=O)Oc1ccc2ccccc2c1")
    assert lock(parse("Nc1ccc2cc(Cl)ccc2c1")) == 0
    assert lock(parse("c1ccccc1")) == lock(parse("c1ccc2ncccc2c1")) == lock(parse("CCC")) == -math.inf
    assert ScaffoldLock("c1ccc2ccccc2c1", generic=True)(parse("OC1CCC2NCCCC2C1")) == 0
    assert scaffold(parse("C[C@H](O)c1ccccc1")) == "c1ccccc1"
    assert scaffold(parse("CCO")) == ""


def test_alerts_are_named_and_counted() -> None:
    rhodanine = parse("O=C1CSC(=S)N1c1ccccc1")
    assert Alerts("PAINS").names(rhodanine) == ["PAINS_B: rhod_sat_A(33)"]
    assert Alerts(["PAINS", "BRENK"])(rhodanine) == 2
    assert (Alerts("BRENK")(parse("CC=O")), Alerts("NIH")(parse("CC(=O)Cl")), Alerts()(parse("CCO"))) == (1, 1, 0)
    assert (Alerts(hard=True)(parse("CC=O")), Alerts(hard=True)(parse("CCO"))) == (-math.inf, 0)


def test_formulas_count_all_hydrogens() -> None:
    counts = {element: Formula(element)(parse("[H]OCC(Cl)[NH3+]")) for element in ("C", "H", "N", "O", "Cl", "F", "*")}
    assert counts == {"C": 2, "H": 7, "N": 1, "O": 1, "Cl": 1, "F": 0, "*": 12}


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: HasPattern("[#6"), MoleculeError, "is not a SMARTS"),
        (lambda: Smarts(must=["c1ccc"]), MoleculeError, "is not a SMARTS"),
        (Smarts, ValueError, "no pattern given"),
        (lambda: ScaffoldLock("CCO"), MoleculeError, "'CCO' has no ring"),
        (lambda: Alerts(["PAIN"]), ValueError, "catalogs PAIN: choose of PAINS, BRENK, NIH"),
        (lambda: Alerts([]), ValueError, "catalogs none"),
    ],
)
def test_impossible_rules_are_refused(build: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
