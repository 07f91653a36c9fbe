"""The one training loop that all objectives share, on Lightning Fabric."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from ..denoiser import innermost
from ..diffusion import Diffusion, check_count
from ..states import match_rows
from ..tilt import Tilt
from ..training import warm
from .base import Progress, Tuning
from .roles import Adapter, Decay, Roles, cast_roles, guided
from .state import KEPT, State, check_fabric, check_finite, is_sharded


def fit(
    method: Tuning,
    tilt: Tilt,
    *,
    generator: torch.Generator | None = None,
    observe: Sequence[Callable[[Progress], Any]] = (),
    checkpoint: str | Path | None = None,
    save_every: int = 50,
    fabric: Any = None,
) -> Diffusion:
    """Train to the end and return the tuned model, frozen: again a `Diffusion`, to be sampled, steered or tuned.

    With an adapter it holds the adapters beside the pretrained weights, whose memory it shares with the given model;
    `merged` makes a plain model of it, `save_adapter` keeps the adapters alone.

    Args:
        generator: gives the run its seed.
        observe: called with a `Progress` after every step; a true answer ends the training, for good: a run that was
            stopped and is called again with its checkpoint gives the same model.
        checkpoint: file to resume from if it is there, and to save to.
        save_every: rounds between checkpoints. It does not change the result.
        fabric: a `lightning_fabric.Fabric` for other devices, precisions or several processes, launched (default: where
            the model is, one process, the model's own precision).

    Raises:
        ValueError: the method refuses the tilt, there is nothing to train, or the condition does not fit the batch.
        FloatingPointError: the loss or its gradient is not finite.
        StorageError: the checkpoint is corrupt or of another run.
        ModuleNotFoundError: lightning_fabric is missing; the message names the extra.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    state, tilt = _start(method, tilt, seed, checkpoint, fabric)
    for progress in _run(state, method, tilt, save_every):
        if state.agree(any([observer(progress) for observer in observe])):
            state.stopped = True
            state.save()
            break
    return state.result()


def train(
    method: Tuning,
    tilt: Tilt,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
    fabric: Any = None,
) -> Iterator[Progress]:
    """The loop step by step, so that a caller can interleave code; arguments and errors as in `fit`.

    A run whose checkpoint is finished yields nothing. A loop that is left early goes on from its last checkpoint.
    """
    state, tilt = _start(method, tilt, seed, checkpoint, fabric)
    yield from _run(state, method, tilt, save_every)


def _start(method: Tuning, tilt: Tilt, seed: int, checkpoint: str | Path | None, fabric: Any) -> tuple[State, Tilt]:
    """The state at the run's beginning or last checkpoint, and the tilt with its law and condition on the run's device."""
    check_run(method, _conditioned(tilt, method, torch.Generator().manual_seed(0)))
    fabric = _fabric(tilt.diffusion) if fabric is None else fabric
    if method.accumulate % fabric.world_size:
        raise ValueError(f"accumulate={method.accumulate} micro-batches cannot be shared among {fabric.world_size}.")
    check_fabric(fabric)
    if is_sharded(fabric) and not method.even:
        raise ValueError(
            f"{type(method).__name__} draws anew for every micro-batch how often it asks the network, and processes that share "
            "its weights must ask together. Use DDP, or stride=1, random_last=False."
        )
    diffusion = tilt.diffusion if tilt.diffusion.device == fabric.device else tilt.diffusion.to(fabric.device)
    roles = cast_roles(diffusion, _averages(method), method.adapter, seed)
    _enough_bits(roles)
    # A function's address is another one in every process.
    identity = {"kind": "tuning", "seed": seed, "method": re.sub(r" at 0x[0-9a-f]+", "", repr(method))}
    identity["alpha"] = tilt.alpha
    state = State(roles, method.learning_rate, fabric, identity, None if checkpoint is None else Path(checkpoint))
    state.resume()
    cond = apply_to_collection(tilt.cond, Tensor, lambda leaf: leaf.to(fabric.device))
    return state, replace(tilt, diffusion=state.roles.ref, cond=cond)


def check_run(method: Tuning, tilt: Tilt) -> None:
    """Whether the method can serve the tilt, its objective has the roles that it needs, and the adapter fits the network.

    Raises:
        ValueError: one of these does not hold.
        ModuleNotFoundError: the adapter's package is missing.
    """
    name, averages = type(method).__name__, _averages(method)
    if type(method).loss is Tuning.loss:
        raise ValueError(f"{name} has no loss. Take one of the methods in tiltflow.core.tuning, or give it one.")
    clashes = {"theta", "ref"} & averages.keys() | ({KEPT} & method.averages.keys())
    if clashes:
        raise ValueError(f"{name} calls an average {' and '.join(sorted(clashes))}, which is taken. Use another name.")
    asked = [*method.needs, *(v for v in (getattr(method, key, None) for key in ("source", "samples")) if v)]
    missing = [role for role in asked if role not in {"theta", "ref", *averages}]
    if missing:
        raise ValueError(
            f"{name} needs the role {missing[0]!r}, and there are only {', '.join(['theta', 'ref', *averages])}. Give its "
            "decay in `averages`."
        )
    unguided = method.guidance.keys() - {"theta", "ref", *averages}
    if unguided:
        there = ", ".join(["theta", "ref", *averages])
        raise ValueError(f"{name} has no role {min(unguided)!r} that could be guided; there are {there}.")
    method.check(tilt)
    match_rows(tilt.cond, method.batch)
    if method.adapter is not None:
        adapter: Adapter = method.adapter
        network = innermost(tilt.diffusion.denoiser).network
        if isinstance(network, nn.Module):  # if not, there is nothing to train, which is told for all methods alike
            adapter.check(network)


def _enough_bits(roles: Roles) -> None:
    few = {p.dtype for p in roles.theta.denoiser.parameters() if p.requires_grad and p.dtype.itemsize < 4}
    if few:
        raise ValueError(
            f"The weights to be trained are {', '.join(map(str, few))}, in which small steps and averages are lost. Give the "
            "model in float32 (and Fabric precision='bf16-true' to compute in bfloat16), or train an adapter."
        )


def _averages(method: Tuning) -> dict[str, Decay]:
    kept: dict[str, Decay] = {KEPT: lambda step: warm(method.average, step)} if method.average else {}
    return method.averages | kept


def _fabric(diffusion: Diffusion) -> Any:
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Tuning needs lightning-fabric: pip install 'tiltflow[tune]'.") from error
    device = diffusion.device
    return Fabric(accelerator=device.type, devices=1 if device.index is None else [device.index])


def _run(state: State, method: Tuning, tilt: Tilt, save_every: int) -> Iterator[Progress]:
    """Rounds: every micro-batch is collected, then learnt from `updates` times.

    Checkpoints are made between rounds, since what was collected is not kept, and after observers have seen the round.
    """
    check_count("save_every", save_every)
    total = method.steps * method.updates
    mine = range(state.fabric.global_rank, method.accumulate, state.fabric.world_size)
    while state.step < total and not state.stopped:
        number = state.step // method.updates
        with state.meter, torch.no_grad():
            tilts = {j: _conditioned(tilt, method, _generator(state.seed, number, j, -1)) for j in mine}
            roles = guided(state.roles, method.guidance)
            batches = {j: method.collect(tilts[j], roles, _generator(state.seed, number, j, 0)) for j in mine}
        for update in range(method.updates):
            with state.meter:
                facts = _update(state, method, roles, tilts, batches, number, update, total)
            state.record(facts)
            yield Progress(state.step, total, facts, state.meter.cost, state.model, state.curve)
        if (number + 1) % save_every == 0 or state.step == total:
            state.save()


def _conditioned(tilt: Tilt, method: Tuning, generator: torch.Generator) -> Tilt:
    """The tilt under the conditions that a micro-batch draws."""
    if method.conditions is None:
        return tilt
    return replace(tilt, cond=method.conditions.draw(method.batch, tilt.cond, tilt.diffusion.device, generator))


def _update(
    state: State,
    method: Tuning,
    roles: Roles,
    tilts: Mapping[int, Tilt],
    batches: Mapping[int, Any],
    number: int,
    update: int,
    total: int,
) -> dict[str, float]:
    """One optimiser step over all micro-batches of this process."""
    progress = state.step / max(1, total - 1)
    facts: list[dict[str, float]] = []
    for place, (j, batch) in enumerate(batches.items(), start=1):
        with state.unsynchronised(place < len(batches)):
            generator = _generator(state.seed, number, j, 1 + update)
            loss = method.loss(tilts[j], roles, batch, generator, progress)
            value = float(loss.value.detach())
            check_finite("loss", value, state.step)
            state.fabric.backward(state.attached(loss.value) / len(batches))
        facts.append({"loss": value, **loss.facts})
    norm = state.apply(method.rate(state.step), method.clip)
    for name, decay in _averages(method).items():
        state.follow(name, decay(state.step))
    return state.mean(facts) | {"gradient": norm}


def _generator(seed: int, number: int, micro: int, use: int) -> torch.Generator:
    """Random numbers of one use of one micro-batch: nothing else decides them, so nothing about them need be saved."""
    digest = hashlib.blake2b(f"{seed},{number},{micro},{use}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 2)
