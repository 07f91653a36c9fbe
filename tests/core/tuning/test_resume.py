"""A run that is killed at any moment continues to the same result, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiltflow.core.denoiser import innermost
from tiltflow.core.storage import StorageError, load_tensors, save_tensors
from tiltflow.core.tuning import LoRA, fit, train
from tiltflow.core.tuning.state import digest

from . import resume_job
from .resume_job import METHOD, run, tilt

JOB = Path(resume_job.__file__)
EVENTS = 36  # of a whole run: calls of the reward, and moments of writing


class Killed(BaseException):
    """What no handler catches."""


def killed_at(count: int):
    left = [count]

    def event():
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return event


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """The result of a run that nothing disturbs."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("moments", [[4], [11], [3, 7]])
def test_an_interrupted_run_ends_where_it_would_have(moments, tmp_path, whole):
    for moment in moments:
        with pytest.raises(Killed):
            run(tmp_path, killed_at(moment))
    assert run(tmp_path) == whole


def job(folder: Path, *options: str, **settings) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(JOB), str(folder), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=environment, **settings
    )


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path, whole):
    """Killed with half a checkpoint written: only the temporary file is torn."""
    died = job(tmp_path, "--kill-at", "15")
    assert died.returncode == 9, died.stderr
    for path in tmp_path.glob("[!.]*"):
        load_tensors(path)
    assert run(tmp_path) == whole


@pytest.mark.slow
def test_fifty_kills_and_fifty_resumes(tmp_path, whole):
    """At random moments, among them the middle of writing, and again while resuming."""
    moments = random.Random(0)
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        died = job(folder, "--kill-at", str(moments.randint(1, EVENTS)))
        assert died.returncode == 9, died.stderr
        assert run(folder) == whole, number


@pytest.mark.slow
def test_kill_nine_from_outside(tmp_path, whole):
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            [sys.executable, str(JOB), str(folder)], env=environment, stdout=subprocess.PIPE
        ) as process:
            deadline = time.monotonic() + 120
            while not (folder / "c").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(0.02 * number)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        assert run(folder) == whole


def test_a_checkpoint_does_not_change_the_result(tmp_path):
    one = METHOD.fit(tilt(), generator=torch.Generator().manual_seed(0))
    for every in (1, 3):
        two = METHOD.fit(
            tilt(), generator=torch.Generator().manual_seed(0), checkpoint=tmp_path / str(every), save_every=every
        )
        pairs = zip(one.denoiser.parameters(), two.denoiser.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)


def test_a_loop_that_is_left_goes_on_from_its_checkpoint(tmp_path):
    """Cost and curve are those of the whole run."""
    for progress in train(METHOD, tilt(), checkpoint=tmp_path / "c", save_every=1):
        if progress.step == 5:
            break
    rest = list(train(METHOD, tilt(), checkpoint=tmp_path / "c", save_every=1))
    assert [progress.step for progress in rest] == [5, 6, 7, 8]  # the fifth was not saved when the loop was left
    uninterrupted = list(train(METHOD, tilt()))
    assert rest[-1].curve == uninterrupted[-1].curve
    costs = [replace(progress.cost, seconds=0.0) for progress in (rest[-1], uninterrupted[-1])]
    assert costs[0] == costs[1]
    assert not list(train(METHOD, tilt(), checkpoint=tmp_path / "c"))


@pytest.mark.parametrize("moment", [2, 6, 11])
def test_a_run_of_adapters_goes_on_bit_by_bit(moment, tmp_path):
    """Its checkpoint holds what is trained, once for theta and once for the average, and no pretrained weight."""
    pytest.importorskip("peft")
    method = replace(METHOD, adapter=LoRA(rank=2))
    uninterrupted = method.fit(tilt(), generator=torch.Generator().manual_seed(0))
    options = {"checkpoint": tmp_path / "c", "save_every": 1}
    with pytest.raises(Killed):
        method.fit(tilt(killed_at(moment)), generator=torch.Generator().manual_seed(0), **options)
    torch.manual_seed(moment)
    again = method.fit(tilt(), generator=torch.Generator().manual_seed(0), **options)
    assert digest(again.denoiser) == digest(uninterrupted.denoiser)
    trained = [name for name in load_tensors(tmp_path / "c")[0] if not name.startswith("optimiser.")]
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 2 * len(LoRA().choose(innermost(tilt().diffusion.denoiser).network))
    changed = replace(method, adapter=LoRA(rank=2, scale=2.0))
    with pytest.raises(StorageError, match="other method"):
        changed.fit(tilt(), generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("other", ["seed", "method", "alpha", "model"])
def test_the_checkpoint_of_another_run_is_refused(other, tmp_path):
    fit(METHOD, tilt(), generator=torch.Generator().manual_seed(0), checkpoint=tmp_path / "c")
    method = replace(METHOD, clip=2.0) if other == "method" else METHOD
    problem = replace(tilt(), alpha=0.2) if other == "alpha" else tilt()
    if other == "model":
        next(problem.diffusion.denoiser.parameters()).data[0] += 1
    generator = torch.Generator().manual_seed(int(other == "seed"))
    with pytest.raises(StorageError, match=f"another run|other {other}"):
        fit(method, problem, generator=generator, checkpoint=tmp_path / "c")


@pytest.mark.parametrize("fault", ["cut short", "another kind", "a weight missing", "no position"])
def test_a_checkpoint_that_is_no_checkpoint_is_refused(fault, tmp_path):
    path = tmp_path / "c"
    fit(METHOD, tilt(), generator=torch.Generator().manual_seed(0), checkpoint=path)
    tensors, facts = load_tensors(path)
    if fault == "cut short":
        path.write_bytes(path.read_bytes()[:-7])
    elif fault == "another kind":
        save_tensors(path, tensors, {**facts, "kind": "prior"})
    elif fault == "no position":
        save_tensors(path, tensors, {k: v for k, v in facts.items() if k != "step"})
    else:
        gone = next(name for name in tensors if name.startswith("theta."))
        save_tensors(path, {k: v for k, v in tensors.items() if k != gone}, facts)
    with pytest.raises(StorageError, match="c"):
        fit(METHOD, tilt(), generator=torch.Generator().manual_seed(0), checkpoint=path)
