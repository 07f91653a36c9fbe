"""The tutorials run from top to bottom, write what they promise, and are notebooks too."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import tiltflow
import torch
from tiltflow.domains import dna
from tiltflow.rewards import ForbiddenSites, GcWindow, expression, fitted

TUTORIALS = Path(__file__).parents[2] / "tutorials"
NAMES = ("first_promoters", "your_own_sequences", "molecules_with_several_aims", "your_own_method")

pytestmark = pytest.mark.skipif(not TUTORIALS.is_dir(), reason="needs the tutorials of the source tree")


def run(name: str, folder: Path) -> tuple[Path, str]:
    """Run a tutorial in small sizes from `folder`, warnings being errors: the folder that it wrote, what it printed."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(TUTORIALS / f"{name}.py")],
        cwd=folder,
        env={**os.environ, "SMOKE_TEST": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}"
    assert [path.name for path in folder.iterdir()] == [name]  # nothing is written anywhere else
    return folder / name, finished.stdout


def is_figure(path: Path) -> bool:
    """A PNG that shows something."""
    from matplotlib.image import imread

    return float(imread(path).std()) > 0


def test_first_promoters(tmp_path: Path) -> None:
    folder, said = run("first_promoters", tmp_path)
    codec = dna.DnaCodec(80)
    table = codec.read_csv(folder / "promoters.csv", labels=["oracle", "heldout"])
    chosen = table.tokens
    assert torch.equal(codec.read_fasta(folder / "promoters.fasta").tokens, chosen)
    torch.testing.assert_close(table.labels["oracle"], expression("YPD")(chosen), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(table.labels["heldout"], expression("YPD", heldout=True)(chosen), rtol=1e-5, atol=1e-5)
    assert table.labels["oracle"].diff().le(0).all()  # the best first
    assert all(int((a != b).sum()) >= 30 for a, b in combinations(chosen, 2))

    (made,) = (folder / "runs").iterdir()
    assert tiltflow.load(made).info["status"] == "finished"
    assert (made / "report.html").exists()
    assert f"figure: {Path('first_promoters', '8_alpha.png')}" in said
    assert sum(is_figure(path) for path in folder.glob("*.png")) == 8


def test_your_own_sequences(tmp_path: Path) -> None:
    folder, said = run("your_own_sequences", tmp_path)
    table = dna.DnaCodec(80).read_csv(folder / "designs.csv", labels=["oracle", "judge", "truth"])
    designs = table.tokens
    assert dna.Template.parse({55: "TATAAA"}).fits(designs).all()
    assert ForbiddenSites(["EcoRI", "BsaI"])(designs).eq(0).all()
    assert GcWindow(0.30, 0.55)(designs).eq(0).all()
    for column in ("oracle", "judge"):
        again = fitted(folder / f"{column}.safetensors")(designs)
        torch.testing.assert_close(table.labels[column], again, rtol=1e-5, atol=1e-5)
    assert table.labels["truth"].le(7).all()

    # The errors that it shows on purpose
    for what in ("112 letters, expected 80", "'N' is ambiguous", "did you mean 'expression'?", "contradicts forbidden"):
        assert what in said
    (made,) = (folder / "runs").iterdir()
    again = tiltflow.load(made)
    assert again.info["status"] == "finished"
    assert dna.Template.parse({55: "TATAAA"}).fits(again.samples.x).all()
    assert sum(is_figure(path) for path in folder.glob("*.png")) == 5


def test_molecules_with_several_aims(tmp_path: Path) -> None:
    chem = pytest.importorskip("rdkit.Chem")
    folder, said = run("molecules_with_several_aims", tmp_path)
    table = [row.split(",") for row in (folder / "samples.csv").read_text().splitlines()]
    rewards = [float(row[table[0].index("reward")]) for row in table[1:]]
    assert rewards == sorted(rewards, reverse=True)
    assert len(chem.SDMolSupplier(str(folder / "samples.sdf"))) == len(rewards) == 4
    scaffold, linker = (said[said.index(word) :].splitlines()[1:5] for word in ("scaffold *c1", "fragments *c1"))
    ends = [chem.MolFromSmiles(text) for text in ("c1ccc(S(N)(=O)=O)cc1", "c1ccc(C)cc1")]
    assert all(chem.MolFromSmiles(text).HasSubstructMatch(ends[0]) for text in (*scaffold, *linker))
    assert all(chem.MolFromSmiles(text).HasSubstructMatch(ends[1]) for text in linker)
    assert is_figure(folder / "pareto.png")
    assert is_figure(folder / "best.png")
    assert "nothing is docked" in said


def test_your_own_method(tmp_path: Path) -> None:
    folder, said = run("your_own_method", tmp_path)
    assert is_figure(folder / "budget.png")
    assert "TooMild          draws follow the law: fail; weights are unbiased: pass" in said
    assert "WrongGain        draws follow the law: pass; weights are unbiased: fail" in said
    assert "NeverSubtracted  draws follow the law: pass; weights are unbiased: fail" in said


@pytest.mark.parametrize("name", NAMES)
def test_each_becomes_a_notebook(name: str, tmp_path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    import nbformat

    script, notebook = TUTORIALS / f"{name}.py", tmp_path / f"{name}.ipynb"
    command = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--output", str(notebook), str(script)]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    cells = nbformat.read(notebook, as_version=4).cells
    nbformat.validate(nbformat.read(notebook, as_version=4))
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    for cell in cells:
        if cell.cell_type == "code":
            compile(cell.source, name, "exec")
    # Nothing is lost or moved on the way: back to a script, it is the same but for the header.
    text, back = script.read_text(), jupytext.writes(nbformat.read(notebook, as_version=4), fmt="py:percent")
    assert back[back.index("# %%") :] == text[text.index("# %%") :]


def test_all_are_tested_and_listed() -> None:
    assert sorted(path.stem for path in TUTORIALS.glob("*.py")) == sorted(NAMES)
    listed = (TUTORIALS / "README.md").read_text()
    assert [name for name in NAMES if f"`{name}.py`" not in listed] == []
