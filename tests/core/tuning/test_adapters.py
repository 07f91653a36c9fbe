"""Low-rank adapters: where they go, what they compute, that they fold into the weights, and files of them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion, Subs, Tilt
from tiltflow.core.denoiser import innermost
from tiltflow.core.networks import ConvDenoiser
from tiltflow.core.processes import Masked
from tiltflow.core.storage import StorageError, load_tensors, save_tensors
from tiltflow.core.tuning import (
    DRAKES,
    GRPO,
    RWR,
    AlignProp,
    DiffusionDPO,
    LoRA,
    load_adapter,
    merged,
    save_adapter,
)
from tiltflow.core.tuning.adapters import adapters
from tiltflow.core.tuning.roles import cast_roles, frozen
from torch import Tensor, nn

from .policies import small
from .tables import masked

pytest.importorskip("peft")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conv(dtype: torch.dtype = torch.float64, **options) -> Diffusion:
    network = ConvDenoiser(3, 6, channels=8, kernel=3, dilations=(1, 2), **options).to(dtype)
    return Diffusion(Masked(3), network, (6,), steps=4)


def network_of(diffusion: Diffusion) -> nn.Module:
    return innermost(diffusion.denoiser).network


def disturbed(diffusion: Diffusion, adapter: LoRA | None = None) -> Diffusion:
    """The diffusion with adapters away from zero, as after some training."""
    theta = cast_roles(diffusion, {}, adapter or LoRA(rank=2, scale=0.7), 1).theta
    for layer in adapters(network_of(theta)).values():
        for name, p in layer.named_parameters():
            if not name.startswith("base_layer."):
                p.data.normal_(generator=seeded(3))
    return theta


class Every(nn.Module):
    """All kinds of layers that can have an adapter, and some that cannot, on states `[B, 4]` of 4 kinds; logits `[B, 4, 3]`."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 8)
        self.line = nn.Conv1d(8, 8, 3, padding=4, dilation=4, padding_mode="circular")
        self.plane = nn.Conv2d(2, 2, 3, padding="same", dilation=2)
        self.space = nn.Conv3d(1, 1, (1, 3, 1), padding=(0, 1, 0))
        self.groups = nn.Conv1d(8, 8, 1, groups=2)
        self.normal = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.line(self.embed(x).mT).mT
        h = h + self.plane(h.unflatten(2, (2, 4)).movedim(2, 1)).movedim(1, 2).flatten(2)
        h = h + self.space(h[:, None, None]).squeeze(2).squeeze(1)
        h = h + self.groups(h.mT).mT + self.normal(h)
        return self.out(h + self.attention(h, h, h, need_weights=False)[0])


def every() -> Diffusion:
    return Diffusion(Masked(3), Every().double(), (4,), steps=3)


STATES = torch.tensor([[0, 3, 2, 1], [3, 3, 3, 3], [3, 1, 3, 0]])


# --- what they compute ---------------------------------------------------------------------------------------------


def test_adapters_go_to_every_layer_that_can_have_one():
    assert LoRA().choose(Every()) == ["embed", "line", "plane", "space", "out"]
    assert LoRA().choose(network_of(conv())) == [
        *(
            "trunk.embed",
            "trunk.blocks.0.mix",
            "trunk.blocks.0.out",
            "trunk.blocks.1.mix",
            "trunk.blocks.1.out",
            "head.2",
        )
    ]
    assert LoRA(targets=["mix"]).choose(network_of(conv())) == ["trunk.blocks.0.mix", "trunk.blocks.1.mix"]
    assert LoRA(targets=["blocks.1.out", "head.2"]).choose(network_of(conv())) == ["trunk.blocks.1.out", "head.2"]


@pytest.mark.parametrize("build", [conv, every])
def test_an_adapted_model_begins_as_the_pretrained_one(build):
    model = build()
    roles = cast_roles(model, {"old": lambda step: 0.0}, LoRA(rank=2), 5)
    x = torch.randint(0, 4, (5, *model.shape), generator=seeded())
    with torch.no_grad():  # with gradients torch has another kernel of attention
        for own in (roles.theta, roles["old"], roles.ref):
            assert torch.equal(own.clean(x, 0.5), frozen(model).clean(x, 0.5))
    assert adapters(network_of(roles.theta)).keys() == adapters(network_of(roles["old"])).keys()
    assert not adapters(network_of(roles.ref))
    assert not adapters(network_of(model))


def test_an_adapted_linear_layer_is_w_plus_scale_b_a():
    theta = network_of(disturbed(every()))
    h = torch.randn(5, 8, generator=seeded(), dtype=torch.float64)
    a, b = theta.out.lora_A["default"].weight, theta.out.lora_B["default"].weight
    assert (a.shape, b.shape) == ((2, 8), (3, 2))
    wanted = h @ (theta.out.base_layer.weight + 0.7 * b @ a).mT + theta.out.base_layer.bias
    assert torch.allclose(theta.out(h), wanted, atol=1e-12)


@pytest.mark.parametrize("build", [conv, every])
def test_a_merged_model_is_the_same_law_with_the_plain_architecture(build):
    """Dilated and circular convolutions too, of which peft by itself makes another function."""
    model = build()
    own = disturbed(model)
    x = torch.randint(0, 4, (5, *model.shape), generator=seeded())
    assert not torch.allclose(own.clean(x, 0.5), model.clean(x, 0.5), atol=1e-3)
    before = {name: p.clone() for name, p in network_of(own).state_dict().items()}
    plain = merged(own)
    assert torch.allclose(plain.clean(x, 0.5), own.clean(x, 0.5), atol=1e-12)
    assert plain.denoiser.state_dict().keys() == model.denoiser.state_dict().keys()
    assert type(network_of(plain)) is type(network_of(model))
    assert not any(p.requires_grad for p in plain.denoiser.parameters())
    assert all(torch.equal(before[name], p) for name, p in network_of(own).state_dict().items())
    assert merged(plain) is plain


def test_class_call_and_attributes_of_the_network_stay():
    model = conv()
    theta = disturbed(model)
    assert type(network_of(theta)) is ConvDenoiser
    assert network_of(theta).settings == network_of(model).settings
    assert theta.denoiser.time_invariant
    relaxed = torch.rand(2, 6, 4, generator=seeded(), dtype=torch.float64).softmax(-1)
    assert theta.clean(relaxed, 0.5).shape == (2, 6, 3)


def test_the_fused_kernel_of_a_transformer_layer_is_kept_off():
    """Without gradient torch would read the weights of linear1 and linear2 past their adapters."""

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(4, 8), nn.Linear(8, 3)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x, t):
            return self.out(self.body(self.embed(x)))

    model = Diffusion(Masked(3), Transformer().double(), (4,), steps=3)
    own = disturbed(model, LoRA(rank=2, targets=["linear1", "linear2"]))
    with torch.no_grad():
        fused = own.clean(STATES, 0.5)
        original = model.clean(STATES, 0.5)
    assert torch.allclose(fused, own.clean(STATES, 0.5).detach(), atol=1e-12)
    assert torch.allclose(fused, merged(own).clean(STATES, 0.5), atol=1e-12)
    assert not torch.allclose(fused, original, atol=1e-3)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"rank": 0}, {"scale": 0.0}, {"targets": "mix"}, {"targets": []}, {"targets": [1]}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LoRA(**bad)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("groups", "grouped convolution"),
        ("normal", "weight is computed"),
        ("out_proj", "reads the weight past"),
        ("attention", "MultiheadAttention, and adapters fit Linear"),
        ("mix", "no layer is called 'mix'. Layers that can have an adapter: embed, line"),
    ],
)
def test_layers_that_cannot_have_an_adapter_are_refused(target, reason):
    with pytest.raises(ValueError, match=reason):
        LoRA(targets=[target]).check(Every())


def test_tied_weights_are_left_out_or_refused():
    network = Every()
    network.out = nn.Linear(8, 4)
    network.out.weight = network.embed.weight
    assert "out" not in LoRA().choose(network)
    with pytest.raises(ValueError, match="out cannot have an adapter: it shares its weight with embed"):
        LoRA(targets=["out"]).choose(network)


def test_a_network_without_such_layers_is_refused_before_anything_runs():
    tilt = masked()[1]
    calls = []
    with pytest.raises(ValueError, match=r"No layer of the LogitTable.*it holds LogitTable"):
        GRPO(adapter=LoRA()).fit(replace(tilt, reward_function=lambda x: calls.append(1)))
    assert not calls
    with pytest.raises(ValueError, match="adapter is 8; expected None"):
        DRAKES(adapter=8)


def test_adapters_on_adapters_are_refused():
    own = disturbed(conv())
    with pytest.raises(ValueError, match="merge them first"):
        cast_roles(own, {}, LoRA(), 0)
    cast_roles(merged(own), {}, LoRA(), 0)


def test_a_missing_peft_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"tiltflow\[lora\]"):
        LoRA().check(Every())


# --- tuning with them ----------------------------------------------------------------------------------------------


class First:
    """The part of token 0, smooth."""

    takes, differentiable = "relaxed", True

    def __call__(self, x: Tensor) -> Tensor:
        return (x if x.dtype.is_floating_point else nn.functional.one_hot(x, 3).double())[..., 0].mean(1)


METHOD = DRAKES(steps=12, batch=16, learning_rate=0.03, adapter=LoRA(rank=2))


@pytest.fixture(scope="module")
def tuned() -> tuple[Tilt, Diffusion]:
    torch.manual_seed(0)
    tilt = Tilt(conv(), First(), 0.05)
    return tilt, METHOD.fit(tilt, generator=seeded())


def test_tuning_moves_the_adapters_alone(tuned):
    tilt, model = tuned
    rewards = [float(tilt.reward(m.sample(256, generator=seeded(1))).mean()) for m in (tilt.diffusion, model)]
    assert rewards[1] > rewards[0] + 0.2
    base = dict(network_of(tilt.diffusion).named_parameters())
    for name, p in network_of(model).named_parameters():
        if "lora_" not in name:
            assert p.data_ptr() == base[name.replace(".base_layer", "")].data_ptr()
    assert all(p.requires_grad for p in base.values())
    assert not any(p.requires_grad for p in model.denoiser.parameters())


def test_runs_are_repeated_and_leave_the_global_generator_alone(tuned):
    tilt, model = tuned
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = METHOD.fit(tilt, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(model.denoiser.parameters(), again.denoiser.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("masked", GRPO),
        ("masked", RWR),
        ("uniform", DiffusionDPO),
        ("uniform", RWR),
        ("vp", AlignProp),
        ("flow", GRPO),
    ],
)
def test_every_family_takes_an_adapter(kind, method):
    tilt = small(kind)
    if method is AlignProp:
        tilt = replace(tilt, reward_function=Near())
    model = method(steps=2, batch=8, learning_rate=0.01, adapter=LoRA(rank=2)).fit(tilt, generator=seeded())
    own = network_of(model)
    assert list(adapters(own)) == ["layers.0", "layers.2"]
    assert all(float(layer.lora_B["default"].weight.abs().max()) > 1e-3 for layer in adapters(own).values())


class Near:
    """Minus the squared distance from 1."""

    takes, differentiable = "samples", True

    def __call__(self, x: Tensor) -> Tensor:
        return -((x - 1) ** 2).sum(1)


def test_a_loss_that_reaches_nothing_does_no_harm():
    """A masked policy with every site fixed has nothing to decide."""
    tilt = small("masked")
    fixed = replace(tilt.diffusion, start=torch.tensor([0, 1, 2, 0]))
    model = GRPO(steps=1, batch=4, adapter=LoRA(rank=2)).fit(replace(tilt, diffusion=fixed), generator=seeded())
    assert all(bool((layer.lora_B["default"].weight == 0).all()) for layer in adapters(network_of(model)).values())


def test_an_adapted_model_tuned_again_trains_its_adapters(tuned):
    tilt, model = tuned
    method = replace(METHOD, steps=1, adapter=None)
    again = method.fit(replace(tilt, diffusion=model), generator=seeded())
    for (name, p), q in zip(network_of(model).named_parameters(), network_of(again).parameters(), strict=True):
        assert (p.data_ptr() == q.data_ptr()) == ("lora_" not in name)
        assert torch.equal(p, q) == ("lora_" not in name)
    whole = method.fit(replace(tilt, diffusion=merged(model)), generator=seeded())
    pairs = zip(merged(model).denoiser.parameters(), whole.denoiser.parameters(), strict=True)
    assert not any(torch.equal(p, q) for p, q in pairs)


def test_a_restricted_model_keeps_its_limits():
    allowed = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]]).bool()
    tilt = Tilt(conv().restrict(allowed), First(), 0.05)
    model = merged(replace(METHOD, steps=3).fit(tilt, generator=seeded()))
    x = model.sample(64, generator=seeded(1))
    assert bool(allowed.expand(64, 6, 3).gather(2, x.unsqueeze(2)).all())
    assert model.denoiser.state_dict().keys() == tilt.diffusion.denoiser.state_dict().keys()


# --- files -----------------------------------------------------------------------------------------------------------


def test_adapters_come_back_from_their_file_on_the_same_weights(tuned, tmp_path):
    tilt, model = tuned
    save_adapter(tmp_path / "a", model)
    tensors, facts = load_tensors(tmp_path / "a", "adapter")
    assert facts["rank"] == 2
    assert facts["targets"] == LoRA().choose(network_of(tilt.diffusion))
    assert all("lora_" in name for name in tensors)
    loaded = load_adapter(tmp_path / "a", tilt.diffusion)
    x = torch.randint(0, 4, (5, 6), generator=seeded())
    assert torch.equal(loaded.clean(x, 0.5), model.clean(x, 0.5))
    restricted = tilt.diffusion.restrict(torch.ones(6, 3).bool())
    assert torch.allclose(load_adapter(tmp_path / "a", restricted).clean(x, 0.5), model.clean(x, 0.5))
    with pytest.raises(ValueError, match="adapters already"):
        load_adapter(tmp_path / "a", model)


def test_adapters_of_other_weights_are_refused(tuned, tmp_path):
    tilt, model = tuned
    save_adapter(tmp_path / "a", model)
    other = replace(tilt.diffusion, denoiser=Denoiser(network_of(conv()), Subs(3)))
    next(other.denoiser.parameters()).data[0] += 1
    with pytest.raises(StorageError, match="other weights"):
        load_adapter(tmp_path / "a", other)
    tensors, facts = load_tensors(tmp_path / "a")
    save_tensors(tmp_path / "b", {k: v for k, v in tensors.items() if "head" not in k}, facts)
    with pytest.raises(StorageError, match="does not fit this model"):
        load_adapter(tmp_path / "b", tilt.diffusion)
    with pytest.raises(ValueError, match="no adapters to save"):
        save_adapter(tmp_path / "c", merged(model))
