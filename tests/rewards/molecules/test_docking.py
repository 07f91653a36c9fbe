"""Docking: the checks everywhere, and the real path where vina and meeko are installed."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
from tiltflow.rewards.molecules import Docking, DockingError, Molecular, parse
from tiltflow.rewards.molecules import docking as module

BOX: dict[str, Any] = {
    "center": (26.413, 11.282, 27.238),
    "size": (18.521, 17.479, 19.995),
}  # of PARP1, around its ligand
NIRAPARIB_CORE, HEXANE = "NC(=O)c1cccc2cn(-c3ccccc3)nc12", "CCCCCC"

installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in module._PACKAGES),
    reason="needs vina and meeko: pip install 'tiltflow[docking]'",
)


def test_the_extra_is_named_where_packages_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"docking needs vina, meeko, scipy: pip install 'tiltflow\[docking\]'"):
        Docking(tmp_path / "receptor.pdbqt", **BOX)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"center": (1, 2)}, "center .* expected three finite lengths"),
        ({"size": (1, 2, math.nan)}, "size .* expected three finite lengths"),
        ({"size": (1, 2, 0)}, "expected lengths above 0, in angstrom"),
        ({"exhaustiveness": 0}, "exhaustiveness 0"),
        ({"cpus": 1.5}, "cpus 1.5"),
    ],
)
def test_impossible_boxes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Docking("receptor.pdbqt", **{**BOX, **arguments})


@installed
def test_a_missing_receptor_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no receptor .*nothing.pdbqt; expected a PDBQT file"):
        Docking(tmp_path / "nothing.pdbqt", **BOX)


@installed
@pytest.mark.filterwarnings("ignore")  # of meeko's own imports
def test_ligands_are_written_with_types_and_torsions() -> None:
    text = module.ligand(parse("CCOC"), seed=1)
    assert text == module.ligand(parse("CCOC"), seed=1)
    atoms = [line.split()[-1] for line in text.splitlines() if line.startswith("ATOM")]
    assert sorted(atoms) == ["C", "C", "C", "OA"]
    assert "TORSDOF 1" in text


@installed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_binder_of_parp1_docks_better_than_hexane(data_dir: Path) -> None:
    docking = Docking(data_dir / "molecules" / "parp1.pdbqt", **BOX, exhaustiveness=1)
    with Molecular(docking, "minimize", workers=2, timeout=300) as reward:
        binder, oil, impossible = reward.score([NIRAPARIB_CORE, HEXANE, "C1#CC#CC#C1"]).tolist()
    assert binder > 8
    assert 2 < oil < 6
    assert math.isnan(impossible) or impossible > 0
    assert docking(parse(HEXANE)) == pytest.approx(-oil)
    with pytest.raises(DockingError):
        docking(parse("[U]"))
