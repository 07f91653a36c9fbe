"""Guards on what no other test would notice: what goes into the wheel, who may import whom, and what stays quick.

The guards on files read the source tree; they are skipped where the suite runs on an installed wheel without one.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiltflow

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "core": "tiltflow.core",
    "domains": "tiltflow.domains",
    "rewards": "tiltflow.rewards",
    "configs": "tiltflow.configs",
}
MAX_ASSET, MAX_ASSETS, MAX_TRACKED = 2_000_000, 12_000_000, 2 * 1024**2  # bytes

needs_sources = pytest.mark.skipif(not (ROOT / "core").is_dir(), reason="needs the source tree")


def setuptools_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def source_files(folder: str) -> Iterator[Path]:
    """Files that git would keep: no caches, nothing hidden."""
    for path in sorted((ROOT / folder).rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield path


def module_name(path: Path) -> str:
    """core/_root/runs.py -> tiltflow.runs; core/samplers/__init__.py -> tiltflow.core.samplers."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = ["tiltflow", *rest[1:]] if (folder, *rest[:1]) == ("core", "_root") else [FOLDERS[folder], *rest]
    return ".".join(parts).removesuffix(".__init__")


def package_folder(package: str, package_dir: dict[str, str]) -> Path:
    """Where setuptools takes `package` from: its own entry, or a subfolder of its parent's."""
    if package in package_dir:
        return ROOT / package_dir[package]
    parent, _, name = package.rpartition(".")
    return package_folder(parent, package_dir) / name


# --- what goes into the wheel -------------------------------------------------------------------------------------


@needs_sources
def test_the_package_list_is_the_folders_with_an_init() -> None:
    folders = {module_name(path) for folder in FOLDERS for path in source_files(folder) if path.name == "__init__.py"}
    assert set(setuptools_table()["packages"]) == folders


@needs_sources
def test_every_module_lies_in_a_package() -> None:
    modules = [path for folder in FOLDERS for path in source_files(folder) if path.suffix == ".py"]
    assert [str(path) for path in modules if not (path.parent / "__init__.py").exists()] == []


@needs_sources
def test_every_data_file_is_packaged() -> None:
    table = setuptools_table()
    packaged = {
        path
        for package, patterns in table["package-data"].items()
        for pattern in patterns
        for path in package_folder(package, table["package-dir"]).glob(pattern)
    }
    data = {path for folder in FOLDERS for path in source_files(folder) if path.suffix != ".py"}
    assert sorted(map(str, data - packaged)) == []


@needs_sources
def test_shipped_files_are_small() -> None:
    sizes = {
        str(path): path.stat().st_size for folder in FOLDERS for path in source_files(folder) if "assets" in path.parts
    }
    assert {path: size for path, size in sizes.items() if size > MAX_ASSET} == {}
    assert sum(sizes.values()) <= MAX_ASSETS


@needs_sources
def test_no_tracked_file_is_large() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert [str(path) for path in paths if path.is_file() and path.stat().st_size > MAX_TRACKED] == []


@needs_sources
def test_one_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == tiltflow.__version__


# --- who may import whom ------------------------------------------------------------------------------------------

# package -> packages that it must not import; tiltflow.core imports nothing else of tiltflow at all
FORBIDDEN = {
    "tiltflow.rewards": {"tiltflow.domains", "tiltflow.configs"},
    "tiltflow.domains": {"tiltflow.rewards", "tiltflow.configs"},
}
HYDRA_ALLOWED_IN = "tiltflow.cli"
# Weights inside of another package, in torch's format; tensors and plain containers only
WEIGHTS_ALLOWED_IN = "tiltflow.domains.molecules.fcd"
# Functions on their way to worker processes; nothing is read from a file
PICKLE_ALLOWED_IN = "tiltflow.rewards._worker"
EXECUTES_ON_LOAD = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
# Loading must never execute code, and no global random state is touched. Each is (object, attribute).
FORBIDDEN_CALLS = {
    ("torch", "load"): "use safetensors",
    ("torch", "save"): "use safetensors",
    ("joblib", "load"): "reads pickle",
    ("joblib", "dump"): "writes pickle",
    ("torch", "manual_seed"): "take a torch.Generator",
    ("random", "seed"): "take a torch.Generator",
    ("builtins", "eval"): "parse it",
    ("builtins", "exec"): "parse it",
}


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def imported_names(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names of all that `tree` imports, at any depth; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def calls(tree: ast.AST) -> set[ast.Call]:
    return {node for node in ast.walk(tree) if isinstance(node, ast.Call)}


def called_names(tree: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """(object, attribute) of the calls in `tree`, but for seeds set inside a `with ...fork_rng()`, which undoes them, and for
    reading weights only, where that is allowed."""
    forks = [node for node in ast.walk(tree) if isinstance(node, ast.With) and "fork_rng" in ast.unparse(node.items[0])]
    undone = {call for fork in forks for call in calls(fork) if ast.unparse(call.func) == "torch.manual_seed"}
    if module == WEIGHTS_ALLOWED_IN:
        undone |= {call for call in calls(tree) if _reads_weights_only(call)}
    for call in calls(tree) - undone:
        owner, _, name = ast.unparse(call.func).rpartition(".")
        yield owner or "builtins", name


def _reads_weights_only(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "torch.load" and any(
        ast.unparse(key) == "weights_only=True" for key in call.keywords
    )


def import_offence(name: str, module: str) -> str | None:
    top = name.partition(".")[0]
    if top in FOLDERS:
        return f"{name}: the folder name is not a package; import it relatively"
    if top in EXECUTES_ON_LOAD and module != PICKLE_ALLOWED_IN:
        return f"{name}: loading it executes code"
    if top == "hydra" and module != HYDRA_ALLOWED_IN:
        return f"{name}: only {HYDRA_ALLOWED_IN} imports hydra"
    if within(module, "tiltflow.core") and within(name, "tiltflow") and not within(name, "tiltflow.core"):
        return f"{name}: tiltflow.core imports nothing else of tiltflow"
    for package, others in FORBIDDEN.items():
        if within(module, package) and any(within(name, other) for other in others):
            return f"{name}: {package} imports nothing from there"
    return None


def offences(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `source`, as module `module`, does against the rules."""
    tree = ast.parse(source)
    found = [import_offence(name, module) for name in imported_names(tree, module, is_package)]
    called = [
        f"{call[0]}.{call[1]}(): {FORBIDDEN_CALLS[call]}"
        for call in called_names(tree, module)
        if call in FORBIDDEN_CALLS
    ]
    return [offence for offence in found if offence] + called


@needs_sources
def test_the_import_rules_hold() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {offence}"
        for folder in FOLDERS
        for path in source_files(folder)
        if path.suffix == ".py"
        for offence in offences(path.read_text(), module_name(path), path.name == "__init__.py")
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from ..domains import dna", "tiltflow.core.tilt"),
        ("from ... import rewards", "tiltflow.core.samplers.ancestral"),
        ("from ..dna import ALPHABET", "tiltflow.core.tilt"),
        ("def f():\n    import tiltflow.rewards.gc", "tiltflow.core.tilt"),
        ("from ..rewards.gc import GC", "tiltflow.domains.base"),
        ("from ..domains.dna.codec import Codec", "tiltflow.rewards.gc"),
        ("from core.tilt import Tilt", "tiltflow.domains.base"),
        ("from hydra import compose", "tiltflow.runs"),
        ("import pickle", "tiltflow.core.tilt"),
        ("import torch\ntorch.load('x', weights_only=False)", "tiltflow.core.tilt"),
        ("import torch\ntorch.load('x', weights_only=True)", "tiltflow.core.tilt"),
        ("import torch\ntorch.load('x', weights_only=False)", "tiltflow.domains.molecules.fcd"),
        ("import torch\ntorch.manual_seed(0)", "tiltflow.core.tilt"),
        ("eval('1')", "tiltflow.rewards.expressions"),
    ],
)
def test_each_rule_catches_its_offence(source: str, module: str) -> None:
    assert len(offences(source, module)) == 1


@pytest.mark.parametrize(
    ("source", "module", "is_package"),
    [
        ("from ...core.tilt import Tilt", "tiltflow.domains.dna.domain", False),
        ("from ..core.tilt import Tilt", "tiltflow.rewards", True),
        ("from . import gc\nfrom .compose import Sum", "tiltflow.rewards", True),
        ("from hydra import compose", "tiltflow.cli", False),
        ("from .domains import dna\nfrom .rewards import gc", "tiltflow.runs", False),
        ("network.eval()", "tiltflow.core.denoiser", False),
        ("import torch\ntorch.load('x', weights_only=True)", "tiltflow.domains.molecules.fcd", False),
        ("with torch.random.fork_rng(devices=[]):\n    torch.manual_seed(0)", "tiltflow.domains.dna.pretrain", False),
    ],
)
def test_the_rules_let_honest_code_pass(source: str, module: str, is_package: bool) -> None:
    assert offences(source, module, is_package) == []


# --- what a user imports and calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("package", setuptools_table()["packages"])
def test_public_names_exist_once(package: str) -> None:
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", []))
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(names) == len(set(names))


def modules_after(code: str, cwd: Path) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    code += "\nimport json, sys\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {
    "torch",
    "hydra",
    "omegaconf",
    "numpy",
    "matplotlib",
    "rdkit",
    "Bio",
    "joblib",
    "rich",
    "einops",
    "safetensors",
}


def test_importing_tiltflow_is_light(tmp_path: Path) -> None:
    loaded = modules_after("import tiltflow", tmp_path)
    assert "tiltflow" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_asking_for_the_version_is_light(flag: str, tmp_path: Path) -> None:
    loaded = modules_after(f"from tiltflow.__main__ import main\nassert main([{flag!r}]) == 0", tmp_path)
    assert "tiltflow" in loaded
    assert loaded & HEAVY == set()


def test_importing_the_core_loads_no_optional_or_slow_package(tmp_path: Path) -> None:
    assert (
        modules_after("import tiltflow.core", tmp_path) & (HEAVY - {"torch", "numpy", "einops", "safetensors"}) == set()
    )


def test_version_of_the_module_and_of_the_installed_command(tmp_path: Path) -> None:
    for command in ([sys.executable, "-m", "tiltflow"], [str(Path(sys.executable).with_name("tiltflow"))]):
        done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"tiltflow {tiltflow.__version__}\n"


def test_installed_metadata() -> None:
    metadata = importlib.metadata.metadata("tiltflow")
    assert metadata["Version"] == tiltflow.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


def test_ctrl_c_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tiltflow.__main__ import main

    def interrupted(argv: list[str]) -> int:
        assert argv == ["n=4"]
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "tiltflow.cli", SimpleNamespace(main=interrupted))
    assert main(["n=4"]) == 130
    assert "interrupted" in capsys.readouterr().err
