"""Bfloat16: the loop trains in it, log-probabilities and divergences do not, and averages do not stand still."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from lightning_fabric import Fabric
from tiltflow.core import Denoiser, Diffusion, Tilt
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.parameterisations import Logits, Subs
from tiltflow.core.parameterisations.gaussian import Prediction
from tiltflow.core.processes import Masked
from tiltflow.core.samplers import Ancestral
from tiltflow.core.training import warm
from tiltflow.core.tuning import (
    DRAKES,
    GRPO,
    RWR,
    AlignProp,
    Bounds,
    LoRA,
    Loss,
    PolicyGradient,
    Progress,
    Reinforce,
    Tuning,
    fit,
    train,
)
from tiltflow.core.tuning.state import InPrecision
from tiltflow.core.worlds import MaskedWorld, MixtureWorld, UniformWorld
from torch import Tensor, nn

from .tables import TableReward, spread

PRECISIONS = ["bf16-mixed", "bf16-true"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Corrected(nn.Module):
    """Logits or means that are exact at the start, in float32, plus a network that begins at zero.

    What is exact is a function of the state and the time, no weight, so that only the correction has few bits.
    """

    def __init__(self, exact, sites: int, symbols: int, out: int):
        super().__init__()
        self.exact, self.symbols = exact, symbols
        wide = sites * max(symbols, 1) + 1
        self.layers = nn.Sequential(nn.Linear(wide, 64), nn.Tanh(), nn.Linear(64, sites * out))
        with torch.no_grad():
            self.layers[0].weight.normal_(generator=seeded())
            self.layers[2].weight.zero_()
            self.layers[2].bias.zero_()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = x
        if self.symbols and not x.dtype.is_floating_point:
            h = nn.functional.one_hot(x, self.symbols)
        kind = self.layers[0].weight.dtype
        moved = self.layers(torch.cat([h.flatten(1).to(kind), t.to(kind).unsqueeze(1)], 1)).float()
        start = self.exact(x, t).float()
        return start + moved.reshape(start.shape)


def mixed(x: Tensor, table: Tensor, index) -> Tensor:
    """Rows of a table at states, multilinear between them."""
    if not x.dtype.is_floating_point:
        return table[index(x)]
    return (spread(x.double()) @ table.flatten(1)).reshape(len(x), *table.shape[1:])


def world_of(kind: str):
    """A world and its tilt with a correction to be trained."""
    if kind == "masked":
        world = MaskedWorld(3, 3, seed=3, alpha=0.5)
        table = world.posterior.clamp(min=-30)
        network = Corrected(lambda x, t: mixed(x, table, world.index), 3, 4, 3)
        model = replace(world.diffusion, denoiser=Denoiser(network, Subs(3)), sampler=Ancestral(), steps=4)
        return world, Tilt(model, TableReward(world), 0.5)
    if kind == "uniform":
        world = UniformWorld(2, 3, seed=3)
        base = replace(world.diffusion, steps=4)

        def exact(x: Tensor, t: Tensor) -> Tensor:
            nearest = base.times[(base.times - float(t[0])).abs().argmin()]
            return mixed(x, world.posterior(float(nearest)).clamp(min=-30), world.index)

        network = Corrected(exact, 2, 3, 3)
        return world, Tilt(replace(base, denoiser=Denoiser(network, Logits(3))), TableReward(world), world.alpha)
    world = MixtureWorld(1, seed=1)
    tilt = world.tilt(steps=8)
    network = Corrected(lambda x, t: world.posterior_mean(x.double(), t.double()), world.size, 0, 1)
    denoiser = Denoiser(network, Prediction(world.path, "x0"))
    return world, replace(tilt, diffusion=replace(tilt.diffusion, denoiser=denoiser), value=None)


def run_in(precision: str) -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision)


FAST = {"steps": 16, "batch": 32, "learning_rate": 0.04, "clip": 10.0}
CASES = {
    "masked": DRAKES(**FAST),
    "masked by adapters": DRAKES(**FAST, estimator=Reinforce(), adapter=LoRA(rank=4)),
    "uniform": PolicyGradient(**FAST, updates=2),
    "mixture": AlignProp(**FAST),
    "mixture forward": RWR(**FAST, bounds=Bounds(draws=4)),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_worlds_are_tuned_in_bfloat16(case, precision):
    """The balance J = E[r] - alpha KL is known exactly on worlds of tokens; figures of a run in 32 bits are near."""
    method = CASES[case]
    world, tilt = world_of(case.split()[0])
    rows: list[Progress] = []
    tuned = fit(method, tilt, generator=seeded(), fabric=run_in(precision), observe=[rows.append])
    curve = rows[-1].curve
    assert all(value is not None for row in curve for value in row.values())
    assert curve[0].get("kl", 0.0) == 0.0  # theta and the reference compute in the same precision
    assert {p.dtype for p in tuned.denoiser.parameters()} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in tuned.denoiser.parameters())
    if world.__class__ is not MixtureWorld:
        assert world.gap(tuned, tilt) < 0.4 * world.gap(tilt.diffusion, tilt)
        return
    exact = list(train(method, tilt, seed=int(torch.randint(2**62, (), generator=seeded()))))[-1].curve
    assert [row["reward"] for row in curve] == pytest.approx([row["reward"] for row in exact], abs=0.05)


@dataclass(frozen=True)
class Watching(GRPO):
    """Records the types of what the loop works with."""

    log: tuple[dict, ...] = ({},)

    @property
    def averages(self):
        return {"old": lambda step: 0.0}

    def collect(self, tilt, roles, generator):
        path = super().collect(tilt, roles, generator)
        clean = {roles[name].clean(path.x[0], 1.0).dtype for name in ("theta", "ref", "old")}
        weights = {name: {p.dtype for p in roles[name].denoiser.parameters()} for name in ("theta", "ref", "old")}
        found = {"log_prob": path.log_prob.dtype, "kl": path.kl.dtype, "clean": clean, "weights": weights}
        self.log[0].update(found)
        return path


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_computed_from_the_network_has_32_bits_or_more(precision):
    method = Watching(steps=1, batch=8, log=({},))
    fit(method, world_of("uniform")[1], generator=seeded(), fabric=run_in(precision))
    found = method.log[0]
    assert (found["log_prob"], found["kl"], found["clean"]) == (torch.float64, torch.float64, {torch.float32})
    kind = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert found["weights"] == {name: {kind} for name in ("theta", "ref", "old")}


class Probe(nn.Module):
    """Keeps the types of what it is given and of what a layer makes of it."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out = self.line(x)
        self.seen = (x.dtype, t.dtype, out.dtype)
        return out


def test_a_mixed_precision_leaves_the_time_its_bits():
    """Fabric alone rounds inputs: 0.998 would be 1."""
    for precision, inputs in (("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)):
        network = Probe().to(torch.bfloat16 if precision == "bf16-true" else torch.float32)
        out = InPrecision(network, run_in(precision).strategy.precision)(torch.ones(2, 3), torch.full((2,), 0.998))
        assert network.seen == (inputs, inputs, torch.bfloat16)
        assert out.dtype == torch.float32


@dataclass(frozen=True)
class Pull(Tuning):
    """A constant gradient: AdamW then moves every weight by the learning rate."""

    def loss(self, tilt, roles, batch, generator, progress):
        roles.theta.clean(torch.zeros(2, 6, dtype=torch.long), 0.5)
        return Loss(sum(p.float().sum() for p in roles.theta.denoiser.parameters()))


@pytest.mark.parametrize("precision", ["32-true", *PRECISIONS])
def test_small_steps_and_slow_averages_are_not_lost(precision):
    """Steps of 1e-4 at weights of 1, whose neighbours in bfloat16 are 4e-3 and 8e-3 away; an average that follows by 1e-3."""
    network = ConvDenoiser(3, 6, channels=4, kernel=3, dilations=(1,))
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(1.0)
    tilt = Tilt(Diffusion(Masked(3), network, (6,), steps=2), lambda x: x.double().mean(1), 0.5)
    method = Pull(steps=30, learning_rate=1e-4, clip=math.inf, average=0.999)
    last = list(train(method, tilt, fabric=run_in(precision)))[-1]
    theta = kept = 1.0
    for k in range(30):
        theta -= 1e-4
        kept += (1 - warm(0.999, k + 1)) * (theta - kept)
    assert theta < kept < 1
    for p in last.model.denoiser.parameters():
        assert p.dtype == torch.float32
        assert torch.allclose(p, torch.full_like(p, kept), atol=2e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_in_bfloat16_goes_on_from_its_checkpoint(precision, tmp_path):
    _, tilt = world_of("masked")
    method = DRAKES(steps=6, batch=8, learning_rate=0.01, average=0.9, estimator=Reinforce())
    whole = fit(method, tilt, generator=seeded(), fabric=run_in(precision))
    options = {"checkpoint": tmp_path / "c", "save_every": 2, "fabric": run_in(precision)}

    def interrupt(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(method, tilt, generator=seeded(), observe=[interrupt], **options)
    again = fit(method, tilt, generator=seeded(), **options)
    pairs = zip(whole.denoiser.parameters(), again.denoiser.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("precision", ["16-true", "64-true"])
def test_precisions_that_would_not_be_right_are_refused(precision):
    with pytest.raises(ValueError, match=f"precision is '{precision}'; expected '32-true'"):
        fit(DRAKES(steps=1), world_of("masked")[1], fabric=run_in(precision))


def test_weights_of_16_bits_are_refused_unless_adapters_are_trained():
    _, tilt = world_of("uniform")
    few = replace(tilt, diffusion=replace(tilt.diffusion, denoiser=copy.deepcopy(tilt.diffusion.denoiser).bfloat16()))
    with pytest.raises(ValueError, match=r"torch\.bfloat16, in which small steps and averages are lost"):
        PolicyGradient(steps=1, batch=8).fit(few)
    tuned = PolicyGradient(steps=1, batch=8, learning_rate=0.01, adapter=LoRA(rank=2)).fit(few, generator=seeded())
    kinds = {name.split(".")[-2]: p.dtype for name, p in tuned.denoiser.named_parameters()}
    assert kinds == {"base_layer": torch.bfloat16, "default": torch.float32}
