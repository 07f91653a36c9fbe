"""The same training run in one process or several; the first writes the tuned weights.

python ddp_job.py FILE PROCESSES [copy|shard] [PRECISION]

With `shard` the weights are spread over the processes. Every run is interrupted once and goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from tiltflow.core import Diffusion, Tilt
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.processes import Masked
from tiltflow.core.storage import save_tensors
from tiltflow.core.tuning import DRAKES, GRPO, RWR, GumbelSoftmax, LoRA, Reinforce, fit, merged
from torch import Tensor


class Reward:
    """The part of token 0, smooth."""

    takes, differentiable = "relaxed", True

    def __call__(self, x: Tensor) -> Tensor:
        relaxed = x if x.dtype.is_floating_point else torch.nn.functional.one_hot(x, 3).float()
        return relaxed[..., 0].mean(1)


METHODS = {
    "backprop": DRAKES(steps=5, batch=4, accumulate=4, learning_rate=0.01, estimator=GumbelSoftmax(1.0, 0.5, False)),
    "reinforce": DRAKES(steps=5, batch=8, accumulate=2, learning_rate=0.01, estimator=Reinforce(), average=0.8),
    "adapters": DRAKES(steps=5, batch=8, accumulate=2, learning_rate=0.01, average=0.8, adapter=LoRA(rank=2)),
    "old": RWR(steps=5, batch=8, accumulate=2, learning_rate=0.01, samples="theta", updates=2),
    "grpo": GRPO(steps=5, batch=8, accumulate=2, learning_rate=0.01, updates=2, adapter=LoRA(rank=2)),
}


class Interrupted(Exception):
    """What ends a run for a while."""


def work(fabric: Fabric, path: Path) -> None:
    """Tune by every method; the first process keeps what came out and what it was told on the way."""
    torch.set_num_threads(1)
    found: dict[str, Tensor] = {}
    for name, method in METHODS.items():
        torch.manual_seed(0)
        network = ConvDenoiser(3, 6, channels=8, kernel=3, dilations=(1,))
        tilt = Tilt(Diffusion(Masked(3), network, (6,), steps=4), Reward(), 0.1)
        rewards: list[float] = []
        options = {"fabric": fabric, "checkpoint": path.with_suffix(f".{name}"), "save_every": 1}

        def interrupt(progress, rounds=2 * method.updates + 1) -> None:
            if progress.step == rounds:
                raise Interrupted

        def observe(progress, rewards=rewards) -> bool:
            rewards.append(progress.facts["reward"])
            # One process alone wants to stop.
            return progress.step == 4 and fabric.global_rank == fabric.world_size - 1

        for watch in ([interrupt], [observe]):
            with contextlib.suppress(Interrupted):
                tuned = fit(method, tilt, generator=torch.Generator().manual_seed(0), observe=watch, **options)
            fabric.barrier()
        found |= {f"{name}.{key}": value for key, value in merged(tuned).denoiser.state_dict().items()}
        found[f"{name}.rewards"] = torch.tensor(rewards)
    if fabric.is_global_zero:
        save_tensors(path, found, {"kind": "ddp"})


def shard(network: torch.nn.Module, mesh: Any) -> torch.nn.Module:
    """Blocks one by one, and the rest."""
    from torch.distributed.fsdp import fully_shard

    for block in network.trunk.blocks:
        fully_shard(block, mesh=mesh["data_parallel"])
    return fully_shard(network, mesh=mesh["data_parallel"])


def main() -> None:
    path, processes = Path(sys.argv[1]), int(sys.argv[2])
    precision: Any = sys.argv[4] if len(sys.argv) > 4 else "32-true"
    if sys.argv[3:4] == ["shard"]:
        sharding = ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)
        fabric = Fabric(accelerator="cpu", devices=processes, strategy=sharding, precision=precision)
        fabric.launch()
        work(fabric, path)
        return
    strategy = "ddp_fork" if processes > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=processes, strategy=strategy, precision=precision)
    fabric.launch(work, path)


if __name__ == "__main__":
    main()
