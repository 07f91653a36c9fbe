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


@pytest.mark.slow
def test_two_processes_give_what_one_does(tmp_path):
    """To float32 tolerance: the micro-batches are the same, and only the order of sums differs. Both stop when one wants to."""
    results = []
    for processes in (1, 2):
        path = tmp_path / str(processes)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(Path(ddp_job.__file__)), str(path), str(processes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        results.append(load_tensors(path, "ddp")[0])
    one, two = results
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-5), name
    assert len(one["backprop.rewards"]) == 4
