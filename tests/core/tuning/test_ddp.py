"""Several processes compute what one does with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiltflow.core.storage import load_tensors

from . import ddp_job

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}


def run(path: Path, *arguments: str) -> dict[str, torch.Tensor]:
    """What the job found."""
    command = [sys.executable, str(Path(ddp_job.__file__)), str(path), *arguments]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return load_tensors(path, "ddp")[0]


@pytest.mark.slow
def test_two_processes_give_what_one_does(tmp_path):
    """To float32 tolerance: the micro-batches are the same, and only the order of sums differs. With weights on every
    process and with sharded ones, all weights and adapters alone, interrupted once; all stop when one wants to."""
    one = run(tmp_path / "one", "1")
    for name in ddp_job.METHODS:
        assert len(one[f"{name}.rewards"]) >= 2
    for arguments in (("2",), ("2", "shard")):
        two = run(tmp_path / "-".join(arguments), *arguments)
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            assert torch.allclose(tensor, two[name], rtol=1e-4, atol=2e-5), (name, arguments)
