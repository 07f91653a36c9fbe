"""`tiltflow domain=molecules`: a whole job by one's own score of SMILES, and a reward for other molecules refused."""

from __future__ import annotations

import csv
import json

import pytest
from rdkit import Chem
from tiltflow.cli import main

SCORE = """\
def carbons(smiles):
    return [text.lower().count("c") / 10 for text in smiles]
"""


@pytest.fixture
def job(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    name = "score_" + tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SCORE)
    own = ["reward=blackbox", f"reward.function={name}.carbons", f"plugins=[{name}]", "reward.alphabet=null"]
    numbers = [
        "n=4",
        "pretrained=4",
        "natural=4",
        "steps=4",
        "compute.threads=1",
        "method=best_of_n",
        "method.candidates=2",
    ]
    return ["domain=molecules", f"domain.prior={tiny}", *own, "reward.decode=tiltflow.molecules.decode", *numbers]


def test_a_job_writes_structures_a_table_pictures_and_a_report(job, tmp_path, capsys):
    assert main([*job, 'domain.scaffold="*c1ccccc1"']) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    found = [molecule for molecule in Chem.SDMolSupplier(str(folder / "samples.sdf")) if molecule is not None]
    assert len(found) == 4
    assert all(molecule.HasSubstructMatch(Chem.MolFromSmiles("c1ccccc1")) for molecule in found)
    rows = list(csv.DictReader((folder / "samples.csv").read_text().splitlines()))
    assert [row["smiles"] for row in rows] == [molecule.GetProp("smiles") for molecule in found]
    assert [float(row["reward"]) for row in rows] == [row["smiles"].lower().count("c") / 10 for row in rows]
    assert {"qed", "logp", "weight", "alerts", "nearest", "nearest_similarity", "in_training"} <= rows[0].keys()
    assert all(0 <= float(row["qed"]) <= 1 and 0 <= float(row["nearest_similarity"]) <= 1 for row in rows)
    assert {"molecules.png", "descriptors.png", "reward.png"} <= {each.name for each in (folder / "figures").iterdir()}
    page = (folder / "report.html").read_text()
    for words in ("samples.sdf", "each molecule x a probability", "scaffold *c1ccccc1, growing at *", "QED, median"):
        assert words in page
    assert "both strands" not in page
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steered"]["validity"] == 1
    assert metrics["natural"]["n"] == 4
    assert "NELBO, median (nats per token)" in capsys.readouterr().out


def test_a_reward_for_dna_is_refused(tiny, capsys):
    assert main(["domain=molecules", f"domain.prior={tiny}", "reward=gc"]) == 2
    assert "takes tokens of 'ACGT', and domain molecules gives [nop]" in capsys.readouterr().err


def test_wrong_constraints_are_told_before_anything_runs(job, capsys):
    assert main([*job, "domain.scaffold=CCO"]) == 2
    assert "domain.scaffold: scaffold: 'CCO' has 0 '*'; expected one" in capsys.readouterr().err


def test_the_parts_of_a_reward_are_columns_and_drawn_against_each_other(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    numbers = [
        "n=6",
        "pretrained=4",
        "natural=0",
        "steps=4",
        "compute.threads=1",
        "method=best_of_n",
        "method.candidates=2",
    ]
    assert main(["domain=molecules", f"domain.prior={tiny}", "reward=multi", "heldout=null", *numbers]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    rows = list(csv.DictReader((folder / "samples.csv").read_text().splitlines()))
    assert {"part_qed", "part_sa_unit", "part_logd", "part_ecfp4 similarity"} <= rows[0].keys()
    assert all(float(row["part_qed"]) == pytest.approx(float(row["qed"])) for row in rows if row["smiles"])
    assert (folder / "figures" / "pareto.png").stat().st_size > 20_000
    assert "no other design beats" in (folder / "report.html").read_text()


def test_several_points_of_growth_are_left_to_python(job, capsys):
    assert main([*job, 'domain.scaffold="*c1ccc(*)cc1"']) == 2
    assert "several points grow one after another: tiltflow.domains.molecules.grow" in capsys.readouterr().err
