"""Oracles of measured properties: the kernel by hand, an exact fit, the shipped files and how they are made."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from tiltflow.cli import main
from tiltflow.core.storage import save_tensors
from tiltflow.rewards.molecules import Property, canonical, parse, train_properties
from tiltflow.rewards.molecules import properties as module
from tiltflow.rewards.molecules import property_training as training

ASSETS = [(name, held) for name in module.PROPERTIES for held in (False, True)]
# Hydrocarbons, alcohols and rings whose "logD" is a plain rule, so that a fit can learn it from few.
LETTERS = ("C", "CC", "CCC", "CO", "CCO", "OCC(O)", "CN", "c1ccccc1", "C1CCCCC1", "C(F)", "CS", "C(=O)C")


def rule(smiles: str) -> float:
    return 0.5 * smiles.upper().count("C") - smiles.count("O")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    rows = sorted({canonical(f"{a}{b}{c}") for a in LETTERS for b in LETTERS for c in LETTERS[:4]} - {""})
    kept = rows[::2][:150]
    with (folder / "lipo.csv").open("w") as file:
        file.write(
            "CMPD_CHEMBLID,exp,smiles\n" + "".join(f"X,{rule(smiles)},{smiles}\n" for smiles in [*kept, kept[0]])
        )
    with (folder / "solubility_aqsoldb.tab").open("w") as file:
        file.write(
            "Drug_ID\tDrug\tY\n" + "".join(f"X\t{smiles}\t{-rule(smiles)}\n" for smiles in [*kept, "no molecule"])
        )
    return folder


def test_minmax_by_hand() -> None:
    one = np.array([[2, 0, 1], [0, 0, 0]], dtype=np.uint8)
    other = np.array([[1, 3, 1], [2, 0, 1], [0, 0, 0]], dtype=np.uint8)
    assert module.minmax(one, other).tolist() == [[2 / 6, 1, 0], [0, 0, 0]]


def test_the_kernel_by_hand() -> None:
    counts = np.array([[2, 0, 1]], dtype=np.uint8)
    landmark = np.array([[1, 3, 1]], dtype=np.uint8)
    near, far = np.array([[1.0, 2.0]]), np.array([[1.0, 5.0]])
    value = module.kernel(counts, near, landmark, far, 0.25, 1.5)
    assert value.tolist() == [[pytest.approx(0.25 / 3 + 0.75 * np.exp(-9 / 4.5))]]
    assert module.kernel(counts, near, landmark, far, 1, 1.5).tolist() == [[pytest.approx(1 / 3)]]


def test_weights_solve_the_normal_equations() -> None:
    draw = np.random.default_rng(0)
    table, values = draw.normal(size=(20, 5)), draw.normal(size=20)
    own = np.eye(5)
    weights, offset = training._solve(table, own, values, 0.3)
    gradient = table.T @ (table @ weights + offset - values) + 0.3 * weights + 1e-6 * weights
    assert np.abs(gradient).max() < 1e-9


def test_scaffolds_stay_together_and_shares_are_as_said() -> None:
    folds = [training.fold_of(f"scaffold {n}") for n in range(4000)]
    assert folds == [training.fold_of(f"scaffold {n}") for n in range(4000)]
    for name, share in training.FOLDS.items():
        assert folds.count(name) / 4000 == pytest.approx(share, abs=0.03)


def test_training_writes_oracles_judges_and_cards(tables: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    figures = train_properties(tables, tmp_path, progress=lines.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{module.asset_name(name, held)}{ending}" for name, held in ASSETS for ending in (".safetensors", ".md")
    )
    assert len(lines) == 4
    assert figures["logd"]["unread"] == figures["logs"]["unread"] == 1
    assert figures["logd"]["r"] > 0.9
    assert sum(figures["logd"]["folds"].values()) > 100
    model = module.read_model(tmp_path / "logd.safetensors")
    assert model.facts == {**figures["logd"], "format": module.FORMAT}
    assert model(parse("CCCCCCO")) == pytest.approx(rule("CCCCCCO"), abs=0.7)
    assert f"{figures['logd']['r']:.3f}" in (tmp_path / "logd.md").read_text()
    opposite = module.read_model(tmp_path / "logs.safetensors")
    assert opposite(parse("CCCCCCO")) == pytest.approx(-model(parse("CCCCCCO")), abs=0.01)


def test_the_command_makes_the_same_files(tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_properties(tables, tmp_path / "python")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "molecules").symlink_to(tables)
    command = [
        "pretrain",
        "domain=molecules",
        "part=properties",
        f"data_dir={tmp_path / 'data'}",
        f"out={tmp_path / 'cli'}",
    ]
    assert main(command) == 0
    assert "logs_heldout: R" in capsys.readouterr().out
    for path in (tmp_path / "python").iterdir():
        assert (tmp_path / "cli" / path.name).read_bytes() == path.read_bytes()
    assert main(command) == 2  # nothing is overwritten
    assert "holds logd.safetensors and" in capsys.readouterr().err


def test_the_command_needs_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = ["pretrain", "domain=molecules", "part=properties"], f"out={tmp_path / 'out'}"
    assert main([*start, out, "held_out=0.3"]) == 2
    told = capsys.readouterr().err
    assert "data_dir: nothing given; expected the folder of the public tables. lipo.csv: 4 200 compounds" in told
    assert "held_out: unknown key" in told
    assert main([*start, out, f"data_dir={tmp_path}"]) == 2
    assert "lipo.csv; it is published" in capsys.readouterr().err
    assert main(["pretrain", "domain=molecules", "part=oracles", out]) == 2
    assert "part: 'oracles'; expected prior or properties" in capsys.readouterr().err


def test_tables_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*lipo.csv; it is published: 4 200 compounds of ChEMBL"):
        train_properties(tmp_path, tmp_path)
    (tmp_path / "lipo.csv").write_text("smiles,exp\nCCO,0.5\nCC,high\n")
    with pytest.raises(ValueError, match=r"lipo.csv:3: expected columns smiles and exp \(could not convert"):
        train_properties(tmp_path, tmp_path)
    (tmp_path / "lipo.csv").write_text("smiles,exp\nCCO,0.5\n")
    with pytest.raises(ValueError, match="molecules to fit: expected at least 10"):
        train_properties(tmp_path, tmp_path)


# the shipped ones


@pytest.mark.parametrize(("name", "heldout"), ASSETS)
def test_shipped_oracles_are_small_and_their_cards_quote_them(name: str, heldout: bool) -> None:
    folder = files("tiltflow.rewards.molecules") / "assets"
    model, stem = Property(name, heldout).model, module.asset_name(name, heldout)
    assert len((folder / f"{stem}.safetensors").read_bytes()) <= 300_000
    assert (folder / f"{stem}.md").read_text(encoding="utf-8") == training.card(model)
    assert 0.85 <= model.facts["coverage"] <= 0.95
    assert model.facts["rmse"] < model.facts["spread"]


@pytest.mark.parametrize("heldout", [False, True])
def test_known_molecules_are_in_the_right_order(heldout: bool) -> None:
    # Measured at pH 7.4 or in water, from textbooks: fat against acid, sugar against wax.
    logd, logs = Property("logd", heldout), Property("logs", heldout)
    ibuprofen, amiodarone = (
        parse("CC(C)Cc1ccc(cc1)C(C)C(=O)O"),
        parse("CCCCc1oc2ccccc2c1C(=O)c1cc(I)c(OCCN(CC)CC)c(I)c1"),
    )
    assert logd(amiodarone) > logd(ibuprofen)
    glucose, anthracene = parse("OCC1OC(O)C(O)C(O)C1O"), parse("c1ccc2cc3ccccc3cc2c1")
    assert logs(glucose) > -2 > logs(anthracene)


def test_intervals_lie_around_the_value() -> None:
    prop, mol = Property("logd"), parse("CC(=O)Nc1ccc(O)cc1")
    low, high = prop.interval(mol)
    assert (low + high) / 2 == pytest.approx(prop(mol))
    assert high - low == pytest.approx(2 * prop.model.facts["half_width"])


@pytest.mark.slow
def test_shipped_figures_hold_on_the_data(data_dir: Path) -> None:
    measured = training.read_measured("logd", data_dir / "molecules")
    for heldout in (False, True):
        model = Property("logd", heldout).model
        test = measured.fold == "test"
        predicted = training._predicted(model, measured, test)
        assert np.corrcoef(predicted, measured.values[test])[0, 1] == pytest.approx(model.facts["r"], abs=0.005)
        missed = np.abs(predicted - measured.values[test])
        assert (missed <= model.facts["half_width"]).mean() == pytest.approx(model.facts["coverage"], abs=0.01)


def test_other_files_and_names_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "something"})
    with pytest.raises(
        ValueError, match=r"x.safetensors: not an oracle of a molecular property \(written by something else"
    ):
        module.read_model(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"y\.safetensors: not an oracle"):
        module.read_model(tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=r"no measured property 'logP'; choose one of logd, logs"):
        Property("logP")
