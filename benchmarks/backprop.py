"""What reward backpropagation costs: memory for each step of the trajectory, and time. Prints JSON.

    python benchmarks/backprop.py [--threads 1] [--peak]

* memory: the bytes that autograd holds when a trajectory of 16, 64 and 256 steps is done, counted tensor by tensor, and the
  growth per step over the bytes of one relaxed state. Target: at most 1.2 with `save_memory`.
* peak (with --peak): the highest resident memory of forward and backward together, each in a process of its own.
* time: forward and backward of a trajectory that recomputes its steps, over the same one that stores them. Target: at
  most 2.2. With and without the divergence from the reference, and against one bare forward and backward a step.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from tiltflow.core import Diffusion, processes
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.tuning import GumbelSoftmax
from tiltflow.core.tuning.roles import frozen, trainable
from tiltflow.core.tuning.rollouts import backprop
from tiltflow.memory import keep_memory
from torch import Tensor

LENGTH, VOCAB, BATCH = 80, 4, 32
STEPS = (16, 64, 256)
STATE = BATCH * LENGTH * (VOCAB + 1) * 4  # bytes of a relaxed state in float32


def model(steps: int, channels: int = 16) -> Diffusion:
    """The shape of the shipped promoter network, untrained; narrower where only states are counted."""
    torch.manual_seed(0)
    network = ConvDenoiser(VOCAB, LENGTH, channels=channels, kernel=9, dilations=(1, 2, 4, 8, 1, 4, 8))
    return Diffusion(processes.Masked(VOCAB), network, (LENGTH,), steps=steps)


def rollout(theta: Diffusion, ref: Diffusion | None, save_memory: bool) -> Tensor:
    """What is minimised, with a linear reward, so that the reward itself costs nothing."""
    generator = torch.Generator().manual_seed(0)
    path = backprop(theta, ref, BATCH, GumbelSoftmax(), generator=generator, save_memory=save_memory)
    return 0.1 * path.kl.mean() - path.x0[..., 0].mean()


def held(keep: object) -> int:
    """Bytes of all tensors alive, each storage once, while `keep` holds the graph."""
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    del keep
    return sum(sizes.values())


class Saved:
    """Counts the bytes that autograd saves itself, in storages that no Python object may hold."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.kept: list[Tensor] = []

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.sizes[storage.data_ptr()] = storage.nbytes()
        self.kept.append(tensor)  # so that no address is used twice
        return tensor


def memory(save_memory: bool) -> dict[str, float]:
    """Bytes alive after the forward pass by number of steps, and their growth per step in states."""
    found = {}
    for steps in STEPS if save_memory else STEPS[:1]:
        theta, ref = trainable(model(steps)), frozen(model(steps))
        before, saved = held(None), Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            loss = rollout(theta, ref, save_memory)
        alive = held(loss) - before
        found[steps] = max(alive, sum(saved.sizes.values()))
        del loss
    growth = {f"growth_{a}_to_{b}_states": (found[b] - found[a]) / (b - a) / STATE for a, b in pairwise(found)}
    return {f"steps_{steps}_mib": size / 2**20 for steps, size in found.items()} | growth


def peak_at(steps: int, save_memory: bool) -> None:
    """Print the peak resident memory (MiB) of one forward and backward; called in a process of its own."""
    theta, ref = trainable(model(steps)), frozen(model(steps))
    rollout(trainable(model(1)), frozen(model(1)), save_memory).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rollout(theta, ref, save_memory).backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def peak() -> dict[str, float]:
    """Peak resident memory above that of one step, MiB."""
    command = [sys.executable, __file__, "--peak-at"]
    found = {}
    for steps in STEPS:
        run = subprocess.run([*command, str(steps)], check=True, capture_output=True, text=True)
        found[f"steps_{steps}_mib"] = round(float(run.stdout), 1)
    plain = subprocess.run([*command, "16", "--plain"], check=True, capture_output=True, text=True)
    span = (found["steps_256_mib"] - found["steps_64_mib"]) / 192 * 2**20 / STATE
    return found | {"growth_64_to_256_states": span, "plain_steps_16_mib": round(float(plain.stdout), 1)}


def best_of(function: Callable[[], object], repeats: int = 3) -> float:
    """Shortest processor time in seconds."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


def times(steps: int = 8) -> dict[str, float]:
    """Seconds a step, and ratios."""
    theta, ref = trainable(model(steps, 64)), frozen(model(steps, 64))
    x = torch.rand(BATCH, LENGTH, VOCAB + 1)
    bare = best_of(lambda: theta.denoiser.network(x).sum().backward(), 30)
    found = {"bare_forward_backward_ms": 1e3 * bare}
    for name, against in (("with_kl", ref), ("without_kl", None)):
        stored, again = (
            best_of(lambda memory=memory, against=against: rollout(theta, against, memory).backward()) / steps
            for memory in (False, True)
        )
        found |= {f"{name}_stored_ms": 1e3 * stored, f"{name}_recomputed_ms": 1e3 * again}
        found |= {f"{name}_recomputed_over_stored": again / stored, f"{name}_recomputed_over_bare": again / bare}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak-at", type=int)
    parser.add_argument("--peak", action="store_true", help="measure resident memory too, which takes minutes")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_at:
        peak_at(options.peak_at, not options.plain)
        return
    keep_memory()  # as the command does
    results = {
        "state_bytes": STATE,
        "memory_recomputed": memory(True),
        "memory_stored": memory(False),
        "time": times(),
    }
    if options.peak:
        results["peak"] = peak()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
