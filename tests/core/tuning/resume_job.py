"""A training run in a process of its own, which can be killed; prints a fingerprint of the result.

    python resume_job.py FOLDER [--kill-at EVENT]

Events are counted over micro-batches, optimiser steps and the parts of every checkpoint's writing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from tiltflow.core import Diffusion, Tilt, storage
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.processes import Masked
from tiltflow.core.tuning import DRAKES, GumbelSoftmax, HeldOut, KeepBest
from tiltflow.core.tuning.state import digest
from torch import Tensor

METHOD = DRAKES(
    steps=8, batch=4, accumulate=2, learning_rate=0.01, average=0.9, estimator=GumbelSoftmax(1.0, 0.5, False)
)


class Reward:
    """The part of the first two tokens, smooth; every call is an event."""

    takes, differentiable = "relaxed", True

    def __init__(self, event):
        self.event = event

    def __call__(self, x: Tensor) -> Tensor:
        self.event()
        relaxed = x if x.dtype.is_floating_point else torch.nn.functional.one_hot(x, 3).float()
        return relaxed[..., 0].mean(1) - relaxed[..., 1].square().mean(1)


def tilt(event=lambda: None) -> Tilt:
    torch.manual_seed(0)
    network = ConvDenoiser(3, 6, channels=8, kernel=3, dilations=(1, 2))
    return Tilt(Diffusion(Masked(3), network, (6,), steps=4), Reward(event), 0.1)


def kill_in(count: int):
    """A function that ends the process, without any clean-up, when it is called for the count-th time."""
    left = [count]

    def event() -> None:
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)

    return event


def break_writing(event) -> None:
    """Make events of the moments before a file is written, when half of it is, and before and after it is put in place."""
    import safetensors.torch

    whole = safetensors.torch.save_file
    put = Path.replace

    def save_file(tensors, path, metadata=None):
        event()
        whole(tensors, path, metadata=metadata)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: len(content) // 2])
        event()
        Path(path).write_bytes(content)

    def replace(self, target):
        event()
        done = put(self, target)
        event()
        return done

    safetensors.torch.save_file = save_file
    Path.replace = replace


def run(folder: Path, event=lambda: None) -> str:
    keep = KeepBest(HeldOut(Reward(lambda: None), n=32), every=2, path=folder / "best")
    tuned = METHOD.fit(
        tilt(event), generator=torch.Generator().manual_seed(0), observe=[keep], checkpoint=folder / "c", save_every=2
    )
    tensors, facts = storage.load_tensors(folder / "c", "tuning")
    curve = [(row["step"], row["loss"], row["reward"]) for row in facts["curve"]]
    slots = [float(v.double().sum()) for k, v in sorted(tensors.items()) if k.startswith("optimiser")]
    return f"{digest(tuned.denoiser)} {keep.step} {digest(keep.model.denoiser)} {hash((tuple(curve), tuple(slots)))}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kill_at is None:
        print(run(options.folder))
        return
    event = kill_in(options.kill_at)
    break_writing(event)
    run(options.folder, event)
    sys.exit(f"there are fewer than {options.kill_at} events")


if __name__ == "__main__":
    main()
