from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """File of an untrained model of molecules: as the shipped one, but small."""
    import torch
    from tiltflow.domains.molecules.prior import build, save_prior

    path = tmp_path_factory.mktemp("molecules") / "tiny.safetensors"
    torch.manual_seed(0)  # a session's fixture may be made before the first test's own seed
    save_prior(path, build(24, width=16, layers=1, heads=2), {"data": "none, untrained"})
    return path
