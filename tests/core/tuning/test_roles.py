"""Who is trained, who is not, and what cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion, Subs, Tilt
from tiltflow.core.denoiser import Estimator, around, innermost
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.processes import Masked
from tiltflow.core.training import follow
from tiltflow.core.tuning import DRAKES, LoRA, Reinforce
from tiltflow.core.tuning.roles import cast_roles, frozen, trainable
from tiltflow.core.worlds import MaskedWorld

from .tables import masked

METHOD = DRAKES(steps=2, batch=4, estimator=Reinforce())


def test_roles_share_no_weights():
    _, tilt = masked()
    roles = cast_roles(tilt.diffusion, {"old": lambda step: 0.0})
    pointers = {
        p.data_ptr()
        for model in (tilt.diffusion, roles.theta, roles.ref, roles["old"])
        for p in model.denoiser.parameters()
    }
    assert len(pointers) == 4
    assert roles["theta"] is roles.theta
    assert roles["ref"] is roles.ref
    assert [any(p.requires_grad for p in roles[n].denoiser.parameters()) for n in ("theta", "ref", "old")] == [1, 0, 0]


def partly(rank: int = 0) -> tuple[Diffusion, LoRA | None]:
    """A model of which adapters are trained, or of which the user froze all but the last layer."""
    network = ConvDenoiser(3, 4, channels=32, kernel=3, dilations=(1, 2))
    if not rank:
        network.requires_grad_(False)
        network.head[-1].requires_grad_(True)
    return Diffusion(Masked(3), network, (4,)), LoRA(rank=rank) if rank else None


@pytest.mark.parametrize("rank", [0, 2])
def test_what_nothing_trains_is_held_once(rank):
    """By theta, the reference, averages, copies of them and the given model; what is trained is not shared."""
    if rank:
        pytest.importorskip("peft")
    model, adapter = partly(rank)
    roles = cast_roles(model, {"old": lambda step: 0.0, "ema": lambda step: 0.9}, adapter, seed=1)
    every = [model, roles.theta, roles.ref, roles["old"], roles["ema"], frozen(roles.theta), frozen(roles["ema"])]
    memory = {p.data_ptr(): p.nbytes for own in every for p in own.denoiser.parameters()}
    trained = [p for p in roles.theta.denoiser.parameters() if p.requires_grad]
    base = sum(p.nbytes for p in model.denoiser.parameters())
    holders = 5 if rank else 7  # the given model and the reference have no adapters
    untrained = base if rank else base - sum(p.nbytes for p in trained)
    assert sum(memory.values()) == untrained + holders * sum(p.nbytes for p in trained)
    assert sum(p.nbytes for p in trained) < base / 4
    assert not any(p.data_ptr() == q.data_ptr() for p in trained for q in roles["ema"].denoiser.parameters())
    moved = frozen(roles.theta).denoiser.to(torch.float64)
    assert {p.dtype for p in moved.parameters()} == {torch.float64}
    assert {p.dtype for own in every for p in own.denoiser.parameters()} == {torch.float32}  # nobody else moved


def test_averages_follow_what_is_trained():
    model, _ = partly()
    roles = cast_roles(model, {"ema": lambda step: 0.9})
    with torch.no_grad():
        for p in roles.theta.denoiser.parameters():
            if p.requires_grad:
                p.add_(1.0)
    before = [p.clone() for p in roles["ema"].denoiser.parameters()]
    follow(roles["ema"].denoiser, roles.theta.denoiser, 0.75)
    for p, old, new in zip(roles["ema"].denoiser.parameters(), before, roles.theta.denoiser.parameters(), strict=True):
        assert torch.allclose(p, old + 0.25 * new.requires_grad)


def test_a_part_that_was_frozen_stays_so_when_a_tuned_model_is_tuned_again():
    model, _ = partly()
    tilt = Tilt(replace(model, steps=4), lambda x: x.double().mean(1), 0.1)
    once = METHOD.fit(tilt, generator=torch.Generator().manual_seed(0))
    twice = METHOD.fit(replace(tilt, diffusion=once), generator=torch.Generator().manual_seed(1))
    for name, p in innermost(twice.denoiser).network.named_parameters():
        q = innermost(once.denoiser).network.get_parameter(name)
        assert (p.data_ptr() == q.data_ptr()) == (not name.startswith("head.2"))
        assert torch.equal(p, q) == (not name.startswith("head.2"))


def test_a_steady_denoiser_asks_for_every_row_and_gives_the_same():
    calls = []

    class Network(ConvDenoiser):
        def forward(self, x, t=None):
            calls.append(len(x))
            return super().forward(x, t)

    model = Diffusion(Masked(3), Network(3, 4, channels=8, kernel=3, dilations=(1,)), (4,))
    steady = around(model.denoiser, innermost(model.denoiser).network, steady=True)
    for x in ([[3, 1, 0, 3], [0, 1, 2, 0], [3, 3, 3, 3]], [[0, 1, 2, 0]], [[3, 3, 3, 3]]):
        states = torch.tensor(x)
        assert torch.allclose(steady(states, 0.5), model.denoiser(states, 0.5))
    assert calls == [3, 2, 1, 1, 1]  # the settled row is asked for too, also where it is the only one


def test_training_leaves_the_pretrained_model_alone():
    _, tilt = masked()
    before = [p.clone() for p in tilt.diffusion.denoiser.parameters()]
    tuned = METHOD.fit(tilt, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(p, q) for p, q in zip(before, tilt.diffusion.denoiser.parameters(), strict=True))
    assert all(p.requires_grad for p in tilt.diffusion.denoiser.parameters())
    assert not any(p.requires_grad for p in tuned.denoiser.parameters())
    assert not torch.equal(before[0], next(tuned.denoiser.parameters()))


def test_a_tuned_model_can_be_tuned_again():
    _, tilt = masked()
    once = METHOD.fit(tilt, generator=torch.Generator().manual_seed(0))
    twice = METHOD.fit(replace(tilt, diffusion=once), generator=torch.Generator().manual_seed(1))
    assert not torch.equal(*(next(m.denoiser.parameters()) for m in (once, twice)))


def test_only_adapters_are_trained_where_there_are_some():
    torch.manual_seed(0)
    network = ConvDenoiser(3, 4, channels=8, kernel=3, dilations=(1,))
    network.requires_grad_(False)
    network.head[-1].requires_grad_(True)
    tilt = Tilt(Diffusion(Masked(3), network, (4,), steps=4), lambda x: x.double().mean(1), 0.1)
    tuned = METHOD.fit(tilt, generator=torch.Generator().manual_seed(0))
    found = innermost(tuned.denoiser).network
    changed = {
        name for (name, p), q in zip(found.named_parameters(), network.parameters(), strict=True) if not p.equal(q)
    }
    assert changed == {"head.2.weight", "head.2.bias"}


class Opaque(Estimator):
    """An estimator in which no Denoiser is to be found."""

    time_invariant = True

    def forward(self, x, t, cond=None):
        return torch.zeros(*x.shape, 3)


@pytest.mark.parametrize("kind", ["function", "no parameters", "opaque"])
def test_what_cannot_be_trained_is_refused_before_anything_runs(kind):
    calls = []

    def network(x, t):
        calls.append(len(x))
        return torch.zeros(*x.shape, 3)

    denoiser = {"function": Denoiser(network, Subs(3)), "no parameters": Denoiser(torch.nn.Identity(), Subs(3))}
    tilt = Tilt(Diffusion(Masked(3), denoiser.get(kind, Opaque()), (4,)), lambda x: calls.append(1), 0.1)
    with pytest.raises(ValueError, match="nothing to train"):
        METHOD.fit(tilt)
    assert not calls


def test_the_exact_denoiser_of_a_world_is_refused():
    world = MaskedWorld(3, 3)
    with pytest.raises(ValueError, match=r"nothing to train: the network is a function"):
        METHOD.fit(world.tilt())


def test_another_network_inside_shares_the_rest():
    _, tilt = masked()
    restricted = tilt.diffusion.restrict(torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool())
    network = torch.nn.Linear(1, 1)
    shell = around(restricted.denoiser, network)
    assert innermost(shell).network is network
    assert innermost(restricted.denoiser).network is not network
    assert shell.log_allowed is restricted.denoiser.log_allowed


@pytest.mark.parametrize("estimator", [{}, {"estimator": Reinforce()}])
def test_a_restricted_model_is_trained_within_its_limits(estimator):
    world, tilt = masked()
    allowed = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1]]).bool()
    model = tilt.diffusion.restrict(allowed).infill(torch.tensor([3, 1, 3]))
    own = replace(tilt, diffusion=model)
    method = DRAKES(steps=60, batch=64, learning_rate=0.1, clip=10.0, **estimator)
    tuned = method.fit(own, generator=torch.Generator().manual_seed(0))
    x = tuned.sample(256, generator=torch.Generator().manual_seed(1))
    assert bool((x[:, 1] == 1).all())
    assert bool((x[:, 2] == 2).all())
    assert bool((x[:, 0] < 2).all())
    assert world.gap(tuned, own) < 0.2 * world.gap(model, own)


def test_frozen_models_are_in_evaluation_mode():
    network = ConvDenoiser(3, 4, channels=8, kernel=3, dilations=(1,), dropout=0.5)
    model = Diffusion(Masked(3), network, (4,))
    assert model.denoiser.training
    assert not frozen(model).denoiser.training
    assert not trainable(model).denoiser.training
