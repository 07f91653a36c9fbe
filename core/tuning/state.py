"""What a training run carries from step to step, and what a checkpoint therefore holds."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cost import Cost, Meter
from ..denoiser import around, innermost
from ..diffusion import Diffusion
from ..storage import StorageError, load_tensors, save_tensors
from ..training import check_owner, fingerprint, follow, like, pack, unpack, whole
from .roles import Roles, Shared, frozen

KEPT = "kept"  # the average whose weights are returned, where there is one
#: Precisions in which the run's weights have fewer bits than the plain ones.
LOW = {"bf16-true": torch.bfloat16}


class State:
    """Roles, optimiser and position of a run. Random numbers follow from the seed and the position (`loop._generator`).

    The roles are there twice. `plain` ones are whole, in the precision of the pretrained model, and what is averaged, saved
    and returned; `roles` are what the run computes with. In a precision of 32 bits and without sharding they share their
    weights. In "bf16-true" the plain theta is what the optimiser moves, and its copy in 16 bits what gradients are taken of:
    a step that is smaller than 1/256 of a weight would be lost in it. Where theta is sharded, the plain one is gathered
    after every step.

    Attributes:
        step: optimiser steps done; stopped: an observer has ended the run.
        curve: the facts of every step so far; meter: what they cost this process.
    """

    def __init__(self, roles: Roles, learning_rate: float, fabric: Any, identity: dict[str, Any], path: Path | None):
        self.fabric, self.path, self.plain = fabric, path, roles
        self.identity = {**identity, "model": digest(roles.ref.denoiser)}
        self.seed: int = identity["seed"]
        self.step, self.stopped = 0, False
        self.curve: list[dict[str, float | None]] = []
        self.meter = Meter()
        self._low, self._sharded = LOW.get(fabric.strategy.precision.precision), is_sharded(fabric)
        running = lowered(roles, self._low) if self._low else roles
        if self._sharded:
            running = replace(roles, theta=replace(roles.theta, denoiser=copy.deepcopy(roles.theta.denoiser)))
        self.network = fabric.setup_module(innermost(running.theta.denoiser).network)
        self._trained = [p for p in self.network.parameters() if p.requires_grad]
        self._masters = [p for p in roles.theta.denoiser.parameters() if p.requires_grad]
        moved = self._masters if self._low else self._trained
        optimiser = torch.optim.AdamW(moved, lr=learning_rate, weight_decay=0.0)
        self.optimiser = fabric.setup_optimizers(optimiser)
        self._running = running
        self.roles = self._cast(running)

    def _cast(self, running: Roles) -> Roles:
        """The roles as the run's precision computes them, theta by way of Fabric."""
        precision = self.fabric.strategy.precision
        exact = precision.precision == "32-true"

        def within(model: Diffusion) -> Diffusion:
            network = innermost(model.denoiser).network
            return model if exact else replace(model, denoiser=around(model.denoiser, InPrecision(network, precision)))

        network = self.network if exact else InPrecision(self.network._forward_module, precision)
        theta = replace(running.theta, denoiser=around(running.theta.denoiser, network, steady=self._sharded))
        if self._sharded:
            theta.denoiser.time_invariant = False  # or estimates of rows that did not change would be taken again
        return Roles(theta, within(running.ref), {name: within(model) for name, model in running.averages.items()})

    @property
    def model(self) -> Diffusion:
        """What would be returned now, its weights still shared with the run."""
        return self.plain.averages.get(KEPT, self.plain.theta)

    def unsynchronised(self, enabled: bool) -> AbstractContextManager[Any]:
        """No exchange of gradients among processes until the last micro-batch of a step."""
        return self.fabric.no_backward_sync(self.network, enabled=enabled) if enabled else nullcontext()

    def attached(self, value: Tensor) -> Tensor:
        """A loss that reaches what is trained, also where nothing on its way depended on it."""
        return value if value.requires_grad else value + 0 * torch.stack([p.sum() for p in self._trained]).sum()

    def apply(self, rate: float, clip: float) -> float:
        """Clip, step, and forget the gradients; returns the norm before clipping.

        Raises:
            FloatingPointError: the norm is not finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if self._low:
            for master, p in zip(self._masters, self._trained, strict=True):
                master.grad, p.grad = None if p.grad is None else p.grad.to(master.dtype), None
        norm = self.fabric.clip_gradients(self.network, self.optimiser, max_norm=clip, error_if_nonfinite=False)
        found = float(whole(norm))
        check_finite("norm of the gradient", found, self.step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        self._exchange(into_run=self._low is not None)
        return found

    @torch.no_grad()
    def _exchange(self, *, into_run: bool) -> None:
        """Bring the plain theta and the one in the run together, where they are two."""
        if not self._low and not self._sharded:
            return
        for master, p in zip(self._masters, self._trained, strict=True):
            if into_run:
                p.copy_(like(master.to(p.dtype), p))
            else:
                master.copy_(whole(p))

    def follow(self, name: str, decay: float) -> None:
        """Let an average follow theta; the optimiser's step is done."""
        average = self.plain[name].denoiser
        follow(average, self.plain.theta.denoiser, decay)
        if self._low:
            self._lower(name)

    @torch.no_grad()
    def _lower(self, name: str) -> None:
        pairs = zip(self._running[name].denoiser.parameters(), self.plain[name].denoiser.parameters(), strict=True)
        for low, exact in pairs:
            if not isinstance(exact, Shared):
                low.copy_(exact)

    def mean(self, facts: list[dict[str, float]]) -> dict[str, float]:
        """Means over micro-batches and processes."""
        names = list(facts[0])
        table = torch.tensor([[row[name] for name in names] for row in facts], dtype=torch.float64).mean(0)
        if self.fabric.world_size > 1:
            table = self.fabric.all_reduce(table, reduce_op="mean")
        return dict(zip(names, table.tolist(), strict=True))

    def record(self, facts: Mapping[str, float]) -> None:
        """Add a row to the curve; what is not finite, which JSON cannot hold, becomes None."""
        row = {name: value if math.isfinite(value) else None for name, value in facts.items()}
        self.curve.append({"step": self.step, **row})

    def agree(self, stop: bool) -> bool:
        """Whether any process wants to stop; all must, or the others would wait for it for ever."""
        if self.fabric.world_size > 1:
            stop = bool(self.fabric.all_reduce(torch.tensor(float(stop)), reduce_op="sum") > 0)
        return stop

    def result(self) -> Diffusion:
        """The averaged weights where there are some, else theta; frozen."""
        return frozen(self.model)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        averages = {f"average.{name}": model.denoiser for name, model in self.plain.averages.items()}
        return {"theta": self.plain.theta.denoiser, **averages}

    @property
    def _left_out(self) -> dict[str, set[str]]:
        """What a checkpoint need not hold: weights that nothing trains, which are the pretrained model's."""
        theta = self.plain.theta.denoiser
        keys = {name for name, p in theta.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return dict.fromkeys(self._modules, keys)

    def save(self) -> None:
        """Write everything a resumed run needs to go on as if it had not stopped."""
        if self.path is None or not (self._sharded or self.fabric.is_global_zero):
            return
        position = {"step": self.step, "stopped": self.stopped, "curve": self.curve, "cost": asdict(self.meter.cost)}
        tensors = pack(self._modules, self.optimiser.optimizer, self._left_out)
        if self.fabric.is_global_zero:
            save_tensors(self.path, tensors, {**self.identity, **position})

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            StorageError: it is corrupt, or of a run with another seed, method, alpha or pretrained model.
        """
        if self.path is None or not self.path.exists():
            return
        tensors, metadata = load_tensors(self.path, "tuning")
        check_owner(self.path, metadata, self.identity)
        unpack(tensors, self._modules, self.optimiser.optimizer, self.path, self._left_out)
        self._exchange(into_run=True)
        for name in self.plain.averages if self._low else ():
            self._lower(name)
        try:
            self.step, self.stopped = int(metadata["step"]), bool(metadata["stopped"])
            self.curve, self.meter.cost = list(metadata["curve"]), Cost(**metadata["cost"])
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{self.path} lacks its position: {error}. Use another file.") from error


# --- precisions and processes --------------------------------------------------------------------------------------


class InPrecision(nn.Module):
    """A network as the run's precision computes it; what comes out has at least 32 bits.

    Unlike Fabric's own, a mixed precision leaves inputs alone: a time of bfloat16 has 8 bits, fewer than a grid has steps.
    In "bf16-true" the weights ask for inputs of their kind.
    """

    def __init__(self, network: Any, precision: Any):
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, *args: Any) -> Any:
        if not self.precision.precision.endswith("-mixed"):
            args = self.precision.convert_input(args)
        with self.precision.forward_context():
            output = self.network(*args)
        narrow = isinstance(output, Tensor) and output.dtype in LOW.values()
        return output.float() if narrow else output


def lowered(roles: Roles, dtype: torch.dtype) -> Roles:
    """Copies of the roles in another type. Weights that they share are converted once and shared again."""
    made: dict[tuple[int, torch.Size], Shared] = {}

    def lower(model: Diffusion) -> Diffusion:
        memo: dict[int, Any] = {}
        for p in model.denoiser.parameters():
            if isinstance(p, Shared):
                place = (p.data_ptr(), p.shape)
                made[place] = made[place] if place in made else Shared(p.detach().to(dtype), requires_grad=False)
                memo[id(p)] = made[place]
        return replace(model, denoiser=copy.deepcopy(model.denoiser, memo).to(dtype))

    return Roles(lower(roles.theta), lower(roles.ref), {name: lower(model) for name, model in roles.averages.items()})


def is_sharded(fabric: Any) -> bool:
    """Whether weights are spread over processes."""
    return type(fabric.strategy).__name__ == "ModelParallelStrategy"


def check_fabric(fabric: Any) -> None:
    """Raise ValueError for a precision or a way to use several processes in which a run would not be right."""
    strategy, precision = fabric.strategy, fabric.strategy.precision.precision
    if precision not in ("32-true", "bf16-mixed", "bf16-true"):
        raise ValueError(
            f"precision is {precision!r}; expected '32-true' (the model's own), 'bf16-mixed' or 'bf16-true'. Those with float16 "
            "scale the loss and skip steps, which checkpoints do not know of; for 64 bits give the model in float64."
        )
    known = ("SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy")
    if not any(kind.__name__ in known for kind in type(strategy).__mro__):
        raise ValueError(
            f"The strategy is {type(strategy).__name__}; expected a single device, DDPStrategy or, to shard weights, "
            "ModelParallelStrategy with torch's fully_shard."
        )
    if is_sharded(fabric) and precision in LOW:
        raise ValueError(
            f"precision is {precision!r} and weights are sharded: their small steps would be lost, since there are no master "
            "weights of 32 bits then. Use 'bf16-mixed'."
        )
    if is_sharded(fabric) and strategy.device_mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"tensor_parallel_size is {strategy.device_mesh['tensor_parallel'].size()}; expected 1: every process has "
            "micro-batches of its own. Use data_parallel_size for all processes."
        )


def check_finite(what: str, value: float, step: int) -> None:
    """Raise FloatingPointError unless `value` is finite."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The {what} is {value} at step {step}. Lower the learning rate or `clip`; a reward of -inf (or NaN under "
            "failures='exclude') cannot be learnt from either. The last checkpoint is whole."
        )


def digest(module: nn.Module) -> str:
    """A fingerprint of all weights and buffers: the same for the same bits."""
    return fingerprint(module.state_dict())
