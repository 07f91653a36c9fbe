"""The figure of the README: how far steering methods are from p* on two measured landscapes, against what a sample costs.

    python benchmarks/convergence.py data            # the folder that holds dna/tfbind8 and proteins/gb1

Laws are exact where they can be computed (importance resampling, best-of-N, SVDD, Doob). SMC is sampled; points
within twice the noise of that are drawn open. Ten to fifteen minutes.
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from dataclasses import asdict
from pathlib import Path

import torch
from tiltflow.core import steps
from tiltflow.core.particles import usable
from tiltflow.core.worlds import total_variation
from tiltflow.domains.canvas import save
from tiltflow.verify import METHODS, WORLDS, refer
from tiltflow.verify.cases import VALUES, cases
from tiltflow.verify.figure import draw
from tiltflow.verify.measure import Point, distance, generator, locate, price, tilt_of
from tiltflow.verify.run import Plan, Result

HERE = Path(__file__).parent / "figures"
LAWS = ("best_of_n", "importance", "svdd", "svdd_argmax", "doob")
SAMPLED = {("smc", "exact"), ("smc", "plug-in"), ("twisted_smc", "plug-in")}
BUDGETS = (1, 4, 16, 64, 256)
DRAWS = {4: 100_000, 16: 30_000, 64: 6_000}
CHUNK = 2_000


def main(data: Path) -> None:
    names = ("tfbind8", "gb1")
    result = Result(Plan(names, tuple(METHODS)))
    for name in names:
        world = WORLDS[name](0, data)
        reference = refer(world, tilt_of(world))
        result.references[name] = reference
        result.reach[name] = total_variation(reference.tilted, world.tilted)
        for case in cases(world, LAWS, BUDGETS):
            if case.value in ("-", "exact", "plug-in"):
                note(result, locate(case.method, world, value=VALUES[case.value](world), names=case.names(name)))
        for case in cases(world, ("smc", "twisted_smc"), tuple(DRAWS)):
            if (case.key, case.value) in SAMPLED:
                note(result, sampled(case, name, world))
    save(draw(result), HERE / "convergence.png")
    (HERE / "convergence.json").write_text(json.dumps([asdict(point) for point in result.points], indent=1) + "\n")


def sampled(case, name, world) -> Point:
    """The law of the returned draw as the mean of the particles' weights: the same law, with a fraction of the noise."""
    tilt, n = tilt_of(world, VALUES[case.value](world)), DRAWS[case.method.particles]
    dice = generator(0, *case.names(name), n)
    total = square = torch.zeros(int(world.cells.max()) + 1, dtype=torch.float64)
    for start in range(0, n, CHUNK):
        state = deque(steps(case.method, tilt, min(CHUNK, n - start), generator=dice), maxlen=1).pop()
        weights = usable(state.grouped).softmax(-1)
        cells = world.cells[world.outcome(state.x)].reshape(weights.shape)
        mass = torch.zeros(len(weights), len(total), dtype=torch.float64).scatter_add_(1, cells, weights)
        total, square = total + mass.sum(0), square + (mass**2).sum(0)
    mean = total / n
    noise = float(((square / n - mean**2) / (2 * math.pi * n)).sqrt().sum())
    bill = price(case.method, tilt, dice)
    return Point(*case.names(name), case.method.particles, n, *distance(mean, world), noise, *bill)


def note(result: Result, point: Point) -> None:
    result.points.append(point)
    words = (point.world, point.method, point.value, point.budget)
    print(*words, f"{point.tv:.4f} ±{point.floor:.3f}", f"{point.reward_calls:.0f} calls")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
