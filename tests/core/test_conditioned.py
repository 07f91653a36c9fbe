"""A new condition: nothing until it is trained, nothing where it is not given, and each row its own."""

from __future__ import annotations

import copy

import pytest
import torch
from tiltflow.core import Diffusion, add_condition, given, guide
from tiltflow.core.networks import Conditioned, ConvDenoiser
from tiltflow.core.paths import FlowMatching
from tiltflow.core.processes import Gaussian, Masked
from torch import nn

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def network() -> ConvDenoiser:
    return ConvDenoiser(3, 6, channels=8, kernel=3, dilations=(1,)).double()


def tokens() -> Diffusion:
    return Diffusion(Masked(3), network(), (6,), steps=4)


class Dense(nn.Module):
    """Numbers `[B, 3]` to `[B, 3]` under a condition of its own, a bare tensor `[B, 1]`."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 8).double(), nn.Linear(8, 3).double()

    def forward(self, x, t, cond):
        return self.second(torch.tanh(self.first(torch.cat([x, t.unsqueeze(1), cond], 1))))


def numbers() -> Diffusion:
    return Diffusion(Gaussian(FlowMatching(), dtype=torch.float64), Dense(), (3,), steps=4)


def stirred(model: Diffusion, seed: int = 0) -> Diffusion:
    """The model with noise on its modulations, as if trained."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.denoiser.network.modulate.parameters():
            parameter.normal_(generator=generator)
    return model


X = torch.tensor([[3, 0, 3, 1, 3, 2]] * 5)
LABELS = torch.tensor([0, 1, 2, -1, 1])


def test_an_untrained_condition_changes_nothing_and_a_given_model_is_not_touched():
    plain = tokens()
    model = add_condition(plain, {"level": 3})
    cond = {"level": LABELS}
    assert torch.equal(model.clean(X, 0.5, cond), plain.clean(X, 0.5))
    assert torch.equal(stirred(model).clean(X, 0.5), plain.clean(X, 0.5))  # not given at all
    assert not plain.denoiser.network.trunk.blocks[0].norm._forward_hooks


def test_rows_see_their_own_label_and_those_without_are_as_before():
    plain = tokens()
    model = stirred(add_condition(plain, {"level": 3}))
    all_rows = model.clean(X, 0.5, {"level": LABELS})
    for row, label in enumerate(LABELS):
        alone = model.clean(X[:1], 0.5, {"level": label.reshape(1)})
        assert torch.allclose(all_rows[row], alone[0], atol=1e-14)
    assert torch.allclose(all_rows[3], plain.clean(X[3:4], 0.5)[0], atol=1e-14)
    assert torch.allclose(all_rows[1], all_rows[4], atol=1e-14)
    assert float((all_rows[0] - all_rows[1])[X[0] == 3].abs().min()) > 1e-3


def test_several_conditions_and_the_models_own():
    plain = numbers()
    model = add_condition(plain, {"level": 2, "size": "numbers:2"}, own="c")
    x, c = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.ones(4, 1).double()
    both = {
        "level": torch.tensor([0, 1, 1, -1]),
        "size": torch.tensor([[1.0, 2], [0, 1], [torch.nan, 0], [torch.nan, 1]]),
    }
    before = plain.clean(x, 0.5, c)
    assert torch.equal(model.clean(x, 0.5, {**both, "c": c}), before)
    trained = stirred(model)
    found = trained.clean(x, 0.5, {**both, "c": c})
    assert torch.allclose(found[3], before[3], atol=1e-14)  # neither is known
    assert torch.allclose(found[2], trained.clean(x, 0.5, {"level": both["level"], "c": c})[2], atol=1e-14)
    assert float((found[:3] - before[:3]).abs().amin(1).min()) > 1e-4


def test_a_copy_and_a_second_forward_are_independent():
    """Hooks of a copy are its own, and a condition does not outlive its forward."""
    model = stirred(add_condition(tokens(), {"level": 3}))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.denoiser.network.modulate.parameters():
            parameter.zero_()
    cond = {"level": LABELS.clamp(min=0)}
    assert float((twin.clean(X, 0.5, cond) - model.clean(X, 0.5, cond))[:, X[0] == 3].abs().min()) > 1e-4
    assert torch.equal(twin.clean(X, 0.5), model.clean(X, 0.5))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [({"level": 1}, "number of classes"), ({"level": "numbers"}, "numbers:D"), ({"level": True}, "number of classes")],
)
def test_malformed_conditions_are_refused(conditions, message):
    with pytest.raises(ValueError, match=message):
        add_condition(tokens(), conditions)


@pytest.mark.parametrize("label", [torch.tensor([3]), torch.tensor([-2]), torch.tensor([0.5])])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(ValueError, match="expected int64 labels 0 to 2"):
        add_condition(tokens(), {"level": 3}).clean(X, 0.5, {"level": label})


def test_layers_can_be_named_and_unknown_ones_are_refused():
    model = add_condition(tokens(), {"level": 3}, layers=["head.2"])
    assert list(model.denoiser.network.modulate) == ["head/2"]
    with pytest.raises(ValueError, match="no layer 'heads'"):
        add_condition(tokens(), {"level": 3}, layers=["heads"])
    with pytest.raises(ValueError, match="no layer that could be modulated"):
        Conditioned(nn.Embedding(3, 3), {"level": 3})
    with pytest.raises(ValueError, match="a condition is added to a torch"):
        add_condition(Diffusion(Masked(3), lambda x, t: torch.zeros(*x.shape, 3), (6,)), {"level": 3})


def test_a_frozen_network_is_left_alone():
    model = add_condition(tokens(), {"level": 3}, train_network=False)
    parts = dict(model.denoiser.network.named_parameters())
    assert {name.split(".")[0] for name, p in parts.items() if p.requires_grad} == {"embed", "modulate"}


def test_a_given_condition_is_that_condition():
    model = stirred(add_condition(tokens(), {"level": 3, "other": 2}))
    fixed = given(model, {"level": torch.tensor([2])})
    cond = {"level": torch.full((5,), 2)}
    assert torch.equal(fixed.clean(X, 0.5), model.clean(X, 0.5, cond))
    other = {"other": torch.tensor([1])}
    assert torch.equal(fixed.clean(X, 0.5, other), model.clean(X, 0.5, {**cond, "other": torch.ones(5).long()}))
    draw = torch.Generator().manual_seed(0)
    drawn = fixed.sample(4, generator=draw)
    assert torch.equal(drawn, model.sample(4, generator=draw.manual_seed(0), cond={"level": torch.tensor([2])}))


def test_guidance_of_tokens_is_a_geometric_mixture():
    plain = tokens()
    model = stirred(add_condition(plain, {"level": 3}))
    cond = {"level": LABELS.clamp(min=0)}
    log_p, log_q = model.clean(X, 0.5, cond), plain.clean(X, 0.5)
    for guided in (guide(model, 2.5, base=add_condition(plain, {"level": 3})), guide(model, 2.5, drop=["level"])):
        found = guided.clean(X, 0.5, cond)
        open_sites = X == 3
        expected = (2.5 * log_p[open_sites] - 1.5 * log_q[open_sites]).log_softmax(-1)
        assert torch.allclose(found[open_sites], expected, atol=1e-12)
        assert torch.equal(found[~open_sites], log_p[~open_sites])  # tokens that are there stay
    assert torch.allclose(guide(model, 1.0, drop=["level"]).clean(X, 0.5, cond), log_p, atol=1e-12)
    assert torch.allclose(guide(model, 0.0, drop=["level"]).clean(X, 0.5, cond), log_q, atol=1e-12)


def test_guidance_of_numbers_is_linear():
    plain = add_condition(numbers(), {"level": 2}, own="c")
    model = stirred(plain)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cond = {"level": torch.tensor([0, 1, 1, 0]), "c": torch.ones(4, 1).double()}
    expected = 3 * model.clean(x, 0.5, cond) - 2 * plain.clean(x, 0.5, cond)
    for guided in (guide(model, 3.0, base=plain), guide(model, 3.0, drop=["level"])):
        assert torch.allclose(guided.clean(x, 0.5, cond), expected, atol=1e-12)


def test_guidance_with_both_or_no_base_or_other_processes_is_refused():
    model = add_condition(tokens(), {"level": 3})
    with pytest.raises(ValueError, match="either a base model"):
        guide(model, 2.0)
    with pytest.raises(ValueError, match="either a base model"):
        guide(model, 2.0, base=model, drop=["level"])
    with pytest.raises(ValueError, match="Model and base differ"):
        guide(model, 2.0, base=numbers())
    with pytest.raises(ValueError, match="strength is nan"):
        guide(model, float("nan"), drop=["level"])
