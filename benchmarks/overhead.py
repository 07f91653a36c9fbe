"""How much the sampler adds to the network, and what SVDD gains over a loop. Ratios within one run; prints JSON.

    python benchmarks/overhead.py [--threads 1]

* ancestral: wall time of sampling over (network rows x time of a bare forward per row at the same batch), for networks of
  about 1 ms and 10 ms a forward (64 promoters, 80 sites, 64 steps). Targets: at most 1.5 and 1.10.
* svdd: throughput against a plain loop over candidates that denoises and scores every candidate by itself, at M = 10.
  Target: at least 2.
* memory: peak memory of SVDD over the state at 16, 64 and 256 steps. Target: flat.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from tiltflow.core import SVDD, Completions, Diffusion, Meter, Tilt, processes
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.transitions import categorical, uniform
from tiltflow.memory import keep_memory
from torch import Tensor, nn

LENGTH, VOCAB, BATCH, STEPS = 80, 4, 64, 64


class Matmul(nn.Module):
    """A stand-in network whose forward takes a chosen time: one wide hidden layer at every site."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.inside = nn.Embedding(VOCAB + 1, width)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)))
        self.out = nn.Linear(width, VOCAB)
        self.time_invariant = True

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.out(self.layers(self.inside(x)))


def clock() -> float:
    """Seconds: wall time, or on one thread processor time, which other processes disturb less."""
    return time.perf_counter() if torch.get_num_threads() > 1 else time.process_time()


def best_of(function: Callable[[], object], repeats: int) -> float:
    """Shortest time in seconds."""
    times = []
    for _ in range(repeats):
        started = clock()
        function()
        times.append(clock() - started)
    return min(times)


@torch.no_grad()
def ancestral(network: nn.Module, reuse: bool) -> dict[str, float]:
    """Overhead of `Diffusion.sample` around a network; `reuse`: let rows that did not change skip the network."""
    network.time_invariant = reuse
    model = Diffusion(processes.Masked(VOCAB), network, (LENGTH,), steps=STEPS)
    x, t = torch.full((BATCH, LENGTH), VOCAB), torch.full((BATCH,), 0.5)
    # Timed in blocks as long as a run: a single forward finds a quiet moment more easily than a whole run does.
    bare = best_of(lambda: [network(x, t) for _ in range(STEPS)], 10) / STEPS
    with Meter() as meter:
        model.sample(BATCH, generator=torch.Generator().manual_seed(0))
    wall = best_of(lambda: model.sample(BATCH, generator=torch.Generator().manual_seed(0)), 10)
    rows = meter.cost.forward_rows
    return {
        "bare_forward_ms": 1e3 * bare,
        "rows": rows,
        "rows_without_reuse": BATCH * STEPS,
        "overhead": wall / (rows * bare / BATCH),
        "wall_over_naive": wall / (STEPS * bare),
    }


@torch.no_grad()
def naive_svdd(model: Diffusion, reward: Callable[[Tensor], Tensor], alpha: float, candidates: int, n: int) -> Tensor:
    """The straightforward loop: each candidate denoised and scored in turn, the chosen one denoised again."""
    generator = torch.Generator().manual_seed(0)
    x = model.prior(n)
    times = model.times.tolist()
    for t, s in pairwise(times):
        transition = model.transition(x, t, s)
        proposals, scores = [], []
        for _ in range(candidates):
            proposal = transition.sample(generator=generator)
            clean = model.denoiser(proposal, s)
            completed = categorical(clean, uniform(tuple(proposal.shape), proposal, generator))
            proposals.append(proposal)
            scores.append(reward(completed).double() / alpha)
        pick = categorical(torch.stack(scores, 1), uniform((n,), x, generator))
        x = torch.stack(proposals, 1)[torch.arange(n), pick]
    return x


def svdd(n: int, candidates: int = 10) -> dict[str, float]:
    """SVDD against the loop, on the shipped promoter network's shape and a reward network of a third of its cost."""
    torch.manual_seed(0)
    network = ConvDenoiser(VOCAB, LENGTH, channels=64, kernel=9, dilations=(1, 2, 4, 8, 1, 4, 8)).eval()
    scorer = ConvDenoiser(VOCAB, LENGTH, channels=48, kernel=7, dilations=(1, 2)).eval()

    def reward(x: Tensor) -> Tensor:
        return scorer(x).mean((1, 2))

    model = Diffusion(processes.Masked(VOCAB), network, (LENGTH,), steps=STEPS)
    tilt = Tilt(model, reward, alpha=0.1, value=Completions(1))
    ours = SVDD(candidates=candidates)
    with Meter() as meter, torch.no_grad():
        ours.sample(tilt, n, generator=torch.Generator().manual_seed(0))
    fast = best_of(lambda: ours.sample(tilt, n, generator=torch.Generator().manual_seed(0)), 2)
    slow = best_of(lambda: naive_svdd(model, reward, 0.1, candidates, n), 2)
    return {
        "speed_up": slow / fast,
        "forward_rows_per_step_and_sample": meter.cost.forward_rows / n / STEPS,
        "reward_calls_per_step_and_sample": meter.cost.reward_calls / n / STEPS,
        "bound_rows": 1 + candidates,
        "bound_calls": candidates,
    }


def memory_at(steps: int) -> None:
    """Print the peak resident memory (MiB) of one SVDD run; called in a process of its own."""
    torch.manual_seed(0)
    model = Diffusion(processes.Masked(VOCAB), ConvDenoiser(VOCAB, LENGTH), (LENGTH,), steps=steps)
    tilt = Tilt(model, lambda x: (x == 1).double().mean(1), alpha=0.1)
    SVDD(candidates=8).sample(tilt, 64, generator=torch.Generator().manual_seed(0))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory() -> dict[str, float]:
    """Peak resident memory in MiB by number of steps."""
    command = [sys.executable, __file__, "--memory-at"]
    runs = {
        steps: subprocess.run([*command, str(steps)], check=True, capture_output=True, text=True)
        for steps in (16, 64, 256)
    }
    return {f"steps_{steps}_mib": round(float(run.stdout), 1) for steps, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-at", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as the command does
    if options.memory_at:
        memory_at(options.memory_at)
        return
    small, large = Matmul(48, 2), Matmul(160, 3)
    results = {
        "threads": options.threads,
        "ancestral_1ms": ancestral(small, False),
        "ancestral_1ms_reuse": ancestral(small, True),
        "ancestral_10ms": ancestral(large, False),
        "ancestral_10ms_reuse": ancestral(large, True),
        "svdd_4_samples": svdd(4),
        "svdd_32_samples": svdd(32),
        "memory": memory(),
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
