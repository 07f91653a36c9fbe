"""The same training run in one process or several; the first writes the tuned weights.

python ddp_job.py FILE PROCESSES
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tiltflow.core import Diffusion, Tilt
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.processes import Masked
from tiltflow.core.storage import save_tensors
from tiltflow.core.tuning import DRAKES, GumbelSoftmax, Reinforce, fit
from torch import Tensor


class Reward:
    """The part of token 0, smooth."""

    takes, differentiable = "relaxed", True

    def __call__(self, x: Tensor) -> Tensor:
        relaxed = x if x.dtype.is_floating_point else torch.nn.functional.one_hot(x, 3).float()
        return relaxed[..., 0].mean(1)


METHODS = {
    "backprop": DRAKES(steps=5, batch=4, accumulate=4, learning_rate=0.01, estimator=GumbelSoftmax(1.0, 0.5, False)),
    "reinforce": DRAKES(steps=5, batch=8, accumulate=2, learning_rate=0.01, estimator=Reinforce()),
}


def work(fabric: Fabric, path: Path) -> None:
    """Tune by every method; the first process keeps what came out and what it was told on the way."""
    torch.set_num_threads(1)
    found: dict[str, Tensor] = {}
    for name, method in METHODS.items():
        torch.manual_seed(0)
        network = ConvDenoiser(3, 6, channels=8, kernel=3, dilations=(1,))
        tilt = Tilt(Diffusion(Masked(3), network, (6,), steps=4), Reward(), 0.1)
        rewards: list[float] = []

        def observe(progress, rewards=rewards) -> bool:
            rewards.append(progress.facts["reward"])
            return len(rewards) == 4 and fabric.global_rank == fabric.world_size - 1  # one process alone wants to stop

        tuned = fit(method, tilt, generator=torch.Generator().manual_seed(0), observe=[observe], fabric=fabric)
        found |= {f"{name}.{key}": value for key, value in tuned.denoiser.state_dict().items()}
        found[f"{name}.rewards"] = torch.tensor(rewards)
    if fabric.is_global_zero:
        save_tensors(path, found, {"kind": "ddp"})


if __name__ == "__main__":
    processes = int(sys.argv[2])
    fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp_fork" if processes > 1 else "auto")
    fabric.launch(work, Path(sys.argv[1]))
