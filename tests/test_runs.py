"""Run folders: never overwritten, never torn, loaded without trust."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import tiltflow
import torch
import yaml
from tiltflow import runs
from tiltflow.core.cost import Cost
from tiltflow.core.storage import StorageError
from tiltflow.core.tilt import Samples
from tiltflow.schema import ConfigError

NAMES = {"domain": "dna", "reward": "gc content / high", "method": "svdd"}


def some_samples(n: int, stopped: int | None = None) -> Samples:
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(4, (n, 5), generator=generator)
    reward = torch.rand(n, generator=generator, dtype=torch.float64)
    reward[0] = -torch.inf
    trace = {"t": torch.tensor([0.5, 0.0]).double(), "ess": torch.tensor([1.0, n]).double()}
    return Samples(x, reward, -reward, Cost(forward_rows=n, seconds=1.5), trace, stopped)


@pytest.fixture
def folder(tmp_path: Path, tiny_prior: Path) -> Path:
    """A run folder as a job writes it."""
    from tiltflow.cli import compose

    made = runs.create(tmp_path, NAMES, 0)
    config = compose(["reward=gc", "natural=0", f"domain.prior={tiny_prior}", "steps=3"]).config
    runs.write_config(made, config)
    runs.save_samples(made, some_samples(4), {"heldout": torch.arange(4).double()})
    (made / runs.INFO).write_text(json.dumps({"status": "running"}))
    return made


# --- making them --------------------------------------------------------------------------------------------------


def test_names_say_what_was_run(tmp_path: Path) -> None:
    folder = runs.create(tmp_path / "a" / "b", NAMES, 7)
    assert folder.name.endswith("-dna-gc_content_high-svdd-s7")
    assert folder.parent == tmp_path / "a" / "b"


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    folders = [runs.claim(tmp_path / "run") for _ in range(3)]
    assert [folder.name for folder in folders] == ["run", "run-2", "run-3"]


def test_two_at_a_time_never_get_the_same_folder(tmp_path: Path) -> None:
    claimed: list[Path] = []
    barrier = threading.Barrier(8)

    def claim() -> None:
        barrier.wait()
        claimed.extend(runs.claim(tmp_path / "run") for _ in range(5))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(claimed)) == 40


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Choose another folder with out="):
        runs.create(tmp_path / "file", NAMES, 0)


# --- what they hold -----------------------------------------------------------------------------------------------


def test_everything_comes_back_exactly(folder: Path, tiny_prior: Path) -> None:
    run, samples = tiltflow.load(folder), some_samples(4)
    for name in ("x", "reward", "log_weight"):
        assert torch.equal(getattr(run.samples, name), getattr(samples, name))
    assert run.samples.cost == samples.cost
    assert run.samples.trace is not None
    assert samples.trace is not None
    assert all(torch.equal(run.samples.trace[name], column) for name, column in samples.trace.items())
    assert torch.equal(run.columns["heldout"], torch.arange(4).double())
    assert run.config["domain"]["prior"] == str(tiny_prior)
    assert run.info == {"status": "running"}
    assert run.metrics == {}


def test_domain_and_tilt_are_built_again(folder: Path) -> None:
    run = tiltflow.load(str(folder))
    tilt = run.tilt()
    assert tilt.alpha == run.config["alpha"]
    tokens = torch.tensor([[1] * 80, [0] * 40 + [1] * 40])
    assert tilt.reward(tokens).tolist() == pytest.approx([-0.45, 0.0])
    assert run.domain().diffusion.steps == 3
    assert run.domain().codec.decode(tokens)[0] == "C" * 80


def test_a_stopped_run_says_at_which_step(folder: Path) -> None:
    runs.save_samples(folder, some_samples(4, stopped=1), {})
    assert tiltflow.load(folder).samples.stopped == 1


def test_batches_become_one() -> None:
    first, second = some_samples(3), some_samples(2, stopped=1)
    merged = runs.merge([first, second])
    assert torch.equal(merged.x, torch.cat([first.x, second.x]))
    assert merged.cost.forward_rows == 5
    assert merged.cost.seconds == 3.0
    assert merged.stopped == 1
    assert merged.trace is not None
    assert merged.trace["batch"].tolist() == [0, 0, 1, 1]
    assert merged.trace["ess"].tolist() == [1, 3, 1, 2]


def test_a_folder_of_runs_stands_for_its_latest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By when they began, whatever their names and ages say; a run without samples is passed over."""
    import shutil

    for name, started in (("z", "2026-05-01T10:00:00+00:00"), ("a", "2026-05-01T10:30:00+02:00"), ("m", None)):
        copy = Path(shutil.copytree(folder, tmp_path / "all" / name))
        (copy / runs.INFO).write_text(json.dumps({"name": name} | ({"started": started} if started else {})))
        os.utime(copy / runs.CONFIG, (0, 0))
    (tmp_path / "all" / "b").mkdir()
    shutil.copy(folder / runs.CONFIG, tmp_path / "all" / "b")  # a run that has just begun
    run = tiltflow.load(str(tmp_path / "all"))
    assert run.folder == tmp_path / "all" / "z"
    assert run.info["name"] == "z"
    assert capsys.readouterr().out == f"tiltflow.load: z, the latest of 3 runs in {tmp_path / 'all'}\n"
    tiltflow.load(run.folder)
    assert capsys.readouterr().out == ""


# --- what is not one ----------------------------------------------------------------------------------------------


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no folder"):
        tiltflow.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        tiltflow.load(tmp_path)


def test_a_run_that_ended_before_its_first_samples(folder: Path) -> None:
    (folder / runs.SAMPLES).unlink()
    with pytest.raises(FileNotFoundError, match="holds no samples"):
        tiltflow.load(folder)


@pytest.mark.parametrize("name", [runs.CONFIG, runs.INFO])
@pytest.mark.parametrize(
    "content",
    [b"", b"- 1\n- 2\n", b"\xff\xfe\x00", b"{", b"3", b"!!python/object/apply:os.system ['true']", b'{"a": ', b"1: 2"],
)
def test_torn_and_foreign_texts(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(StorageError, match=name):
        tiltflow.load(folder)


def test_torn_and_foreign_samples(folder: Path, tiny_prior: Path) -> None:
    whole = (folder / runs.SAMPLES).read_bytes()
    for content in (whole[:-5], b"", b"\x80\x04K.", tiny_prior.read_bytes()):
        (folder / runs.SAMPLES).write_bytes(content)
        with pytest.raises(StorageError, match=r"samples\.safetensors"):
            tiltflow.load(folder)


def test_samples_that_lack_a_part(folder: Path) -> None:
    from tiltflow.core.storage import save_tensors

    path = folder / runs.SAMPLES
    save_tensors(path, {"x": torch.zeros(2, 3)}, {"kind": runs.KIND, "cost": {}, "stopped": None})
    with pytest.raises(StorageError, match="incomplete"):
        tiltflow.load(folder)
    runs.save_samples(folder, some_samples(3), {"short": torch.zeros(2)})
    with pytest.raises(StorageError, match="different lengths"):
        tiltflow.load(folder)


def test_a_missing_text_is_named(folder: Path) -> None:
    (folder / runs.INFO).unlink()
    with pytest.raises(StorageError, match=r"run\.json is missing"):
        tiltflow.load(folder)


# --- trust ---------------------------------------------------------------------------------------------------------


def poisoned(folder: Path, **changes: object) -> None:
    config = yaml.safe_load((folder / runs.CONFIG).read_text())
    runs.write_config(folder, config | changes)


@pytest.mark.parametrize("target", ["os.system", "usercode_of_a_stranger.Reward", "builtins.print", "subprocess.run"])
def test_a_folder_cannot_name_what_is_run(folder: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a target nor by declaring it a plugin: only the reader names plugins."""
    package = target.partition(".")[0]
    (folder / "usercode_of_a_stranger.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.chdir(folder)
    node = {"_target_": target, "args": "touch executed"}
    poisoned(folder, reward=node, plugins=[package])
    run = tiltflow.load(folder)  # loading looks at nothing of it
    with pytest.raises(ConfigError, match="is not part of tiltflow"):
        run.tilt()
    assert not (folder / "executed").exists()


def test_a_folder_cannot_choose_where_files_go_or_what_it_runs_on(folder: Path, tmp_path: Path) -> None:
    poisoned(folder, out=str(tmp_path / "elsewhere"), compute={"threads": 99, "device": "abacus"})
    threads = torch.get_num_threads()
    tiltflow.load(folder).tilt()
    assert torch.get_num_threads() == threads
    assert not (tmp_path / "elsewhere").exists()


def test_the_reader_may_trust_a_package(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usercode_trusted.py").write_text("import torch\n\ndef zero(x):\n    return torch.zeros(len(x))\n")
    monkeypatch.syspath_prepend(tmp_path)
    poisoned(folder, reward={"_target_": "usercode_trusted.zero", "_partial_": True}, plugins=["usercode_trusted"])
    run = tiltflow.load(folder)
    assert run.tilt(plugins=["usercode_trusted"]).reward(torch.zeros(2, 80, dtype=torch.int64)).tolist() == [0, 0]
