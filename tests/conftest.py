"""What every test shares: one thread, no display, fixed seeds, and the folder of public data where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

# Read when torch and matplotlib are first imported, and inherited by the processes that tests start. One thread,
# because OpenMP's spinning makes small networks many times slower as soon as another test worker has the core.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="Agg")

# A deadline is a timing assert, and a fresh random seed in each run is a test that fails for somebody else.
settings.register_profile("tiltflow", deadline=None, derandomize=True, database=None)
settings.load_profile("tiltflow")


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from one thread and one global seed, whatever ran before it in the same process.

    Layers draw their first weights from the global generator: without the seed a test of an untrained network would
    depend on which tests share its worker.
    """
    import torch

    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def generator() -> Callable[..., torch.Generator]:
    """`generator(seed, device="cpu")` -> a fresh generator."""
    import torch

    def make(seed: int = 0, device: str = "cpu") -> torch.Generator:
        return torch.Generator(device).manual_seed(seed)

    return make


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """A test that asks for `dtype` runs once in each precision."""
    import torch

    return getattr(torch, request.param)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of public data files, named by TILTFLOW_DATA; without it the test is skipped."""
    named = os.environ.get("TILTFLOW_DATA")
    if not named:
        pytest.skip("needs public data files: set TILTFLOW_DATA to the folder that holds them")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"TILTFLOW_DATA is {named!r}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of an untrained model of 80-bp promoters: as the shipped one, but small."""
    import torch
    from tiltflow.domains.dna.prior import build, save_prior

    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    torch.manual_seed(0)  # a session's fixture may be made before the first test's own seed
    save_prior(path, build(80, channels=8, dilations=(1, 4)), {"data": "none, untrained"})
    return path
