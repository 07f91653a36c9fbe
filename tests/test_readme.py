"""The README's Python runs as it stands, only with fewer samples."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="only the repository has the README")


def test_the_python_blocks_run_in_order(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    script = tmp_path / "readme.py"
    code = "\n".join(blocks)
    for large, little in {
        "n=64": "n=2",
        "candidates=8": "candidates=2",
        "steps=64": "steps=6",
        "steps=100, batch=32": "steps=1, batch=4",
        "generator=generator)": "generator=generator, settings=ClassifierFit(steps=3))",
    }.items():
        assert large in code
        code = code.replace(large, little)
    script.write_text(f"from tiltflow.core import ClassifierFit\n{code}", encoding="utf-8")
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "designs.fasta").read_text().count(">") == 2
    assert done.stdout.count("network rows") == 64  # the loop over steps saw each of them


def test_pictures_and_files_it_names_are_there():
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"`((?:tutorials|benchmarks)/[\w./]+|[A-Z]+\.md)`", text)
    assert len(named) >= 5
    assert [name for name in named if not (README.parent / name).exists()] == []
