"""CTRL: a condition learnt from a classifier gives p(x | y), and the laws of all y add up to p. Figures were measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion, Subs, Tilt, add_condition, given, guide
from tiltflow.core.denoiser import innermost
from tiltflow.core.paths import FlowMatching
from tiltflow.core.processes import Gaussian, Masked
from tiltflow.core.samplers import Ancestral, FirstHitting
from tiltflow.core.tuning import (
    CTRL,
    ClassifierFree,
    Conditions,
    Guidance,
    GumbelSoftmax,
    HeldOut,
    Labelled,
    Loss,
    Reinforce,
    Tuning,
    fit,
)
from tiltflow.core.worlds import MaskedWorld, total_variation
from torch import nn

from .tables import masked, spread

CLASSES, LENGTH, VOCAB = 2, 3, 3
WORLD = MaskedWorld(LENGTH, VOCAB, seed=3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """A small random denoiser of tokens, hard or relaxed, in float64: its own law is the pretrained one here."""

    time_invariant = True

    def __init__(self, width: int = 32):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(LENGTH * (VOCAB + 1), width).double()
            self.norm = nn.LayerNorm(width).double()
            self.second = nn.Linear(width, LENGTH * VOCAB).double()

    def forward(self, x, t):
        states = x if x.is_floating_point() else nn.functional.one_hot(x, VOCAB + 1)
        hidden = torch.tanh(self.norm(self.first(states.double().flatten(1))))
        return 2 * self.second(hidden).reshape(-1, LENGTH, VOCAB)


def pretrained(sampler=None, steps: int = 4) -> Diffusion:
    return Diffusion(
        Masked(VOCAB), Denoiser(Net(), Subs(VOCAB)), (LENGTH,), steps=steps, sampler=sampler or Ancestral()
    )


class Table:
    """log p(y | x) of every sequence and label, random; multilinear between sequences."""

    takes, differentiable, conditional = "relaxed", True, True
    log_p = (2 * torch.randn(VOCAB**LENGTH, CLASSES, dtype=torch.float64, generator=seeded(1))).log_softmax(-1)

    def __call__(self, x, cond):
        states = x if x.is_floating_point() else nn.functional.one_hot(x, VOCAB)
        return (spread(states.double()) @ self.log_p).gather(1, cond["y"].reshape(-1, 1)).squeeze(1)


@torch.no_grad()
def law(model: Diffusion, label: int | None = None) -> torch.Tensor:
    """The model's own law over sequences under a label."""
    return WORLD.base_law(model if label is None else given(model, {"y": torch.tensor([label])}))


def errors(tuned: Diffusion, p: torch.Tensor) -> tuple[list[float], float]:
    """Total variation of q(x | y) to p(x) p(y | x) / p(y) for each y, and of sum_y p(y) q(x | y) to p."""
    joint = p.unsqueeze(1) * Table.log_p.exp()
    laws = torch.stack([law(tuned, label) for label in range(CLASSES)], 1)
    each = [total_variation(laws[:, y], joint[:, y] / joint[:, y].sum()) for y in range(CLASSES)]
    return each, total_variation(laws @ joint.sum(0), p)


LABELS = {"y": torch.arange(CLASSES)}
METHOD = CTRL(
    steps=100,
    batch=128,
    learning_rate=0.02,
    final_rate=0.02,
    clip=10.0,
    average=0.9,
    conditions=Conditions(LABELS, share=64),
    estimator=Reinforce(),
)


def test_the_conditional_laws_are_learnt_and_add_up_to_the_pretrained_one():
    """From .274 and .366 to .104 and .147 for the two labels, and .087 for their mixture, in 100 steps."""
    base = pretrained(FirstHitting())
    p = law(base)
    model = add_condition(base, {"y": CLASSES})
    before, mixed = errors(model, p)
    assert min(before) > 0.2
    assert mixed < 1e-12  # a condition that does nothing
    tuned = METHOD.fit(Tilt(model, Table(), 1.0), generator=seeded())
    after, mixed = errors(tuned, p)
    assert max(after) < 0.6 * min(before)
    assert mixed < 0.1


@pytest.mark.slow
def test_more_training_brings_them_nearer():
    """To .023, .025 and .020."""
    base = pretrained(FirstHitting())
    method = replace(METHOD, steps=600, batch=512, average=0.95)
    tuned = method.fit(Tilt(add_condition(base, {"y": CLASSES}), Table(), 1.0), generator=seeded())
    after, mixed = errors(tuned, law(base))
    assert max(after) < 0.04
    assert mixed < 0.03


def test_backpropagation_with_a_condition_for_each_sample():
    """The mean of log p(y | x) rises by most of what there is, in the law of the model itself, for both labels."""
    base = pretrained()
    method = replace(METHOD, steps=60, conditions=Conditions(LABELS), estimator=GumbelSoftmax(1.0, 0.3))
    tuned = method.fit(Tilt(add_condition(base, {"y": CLASSES}), Table(), 1.0), generator=seeded())
    p = law(base)
    for label in range(CLASSES):
        table = Table.log_p[:, label]
        best = p * table.exp() / (p @ table.exp())
        assert law(tuned, label) @ table > p @ table + 0.6 * (best @ table - p @ table)


def test_a_frozen_network_keeps_the_pretrained_law_where_there_is_no_condition():
    base = pretrained(FirstHitting())
    model = add_condition(base, {"y": CLASSES}, train_network=False)
    tuned = replace(METHOD, steps=3).fit(Tilt(model, Table(), 1.0), generator=seeded())
    assert torch.equal(law(tuned), law(base))
    assert total_variation(law(tuned, 0), law(base)) > 1e-3


def test_conditions_follow_from_the_seed_and_reach_reward_and_model_alike():
    """Every row's reward is asked for the label that the row was sampled under: here the labels are told apart."""
    seen = []

    class Spy(Table):
        def __call__(self, x, cond):
            seen.append(cond["y"].tolist())
            return super().__call__(x, cond)

    base = pretrained(FirstHitting())
    method = replace(METHOD, steps=3, batch=8, conditions=Conditions({"y": torch.tensor([0, 1])}, share=4))
    for _ in range(2):
        method.fit(Tilt(add_condition(base, {"y": CLASSES}), Spy(), 1.0), generator=seeded(5))
    assert seen[:3] == seen[3:]
    assert all(row[:4] == [row[0]] * 4 and row[4:] == [row[4]] * 4 for row in seen)
    assert len({tuple(row) for row in seen}) > 1


def test_refusals():
    base = pretrained(FirstHitting())
    model = add_condition(base, {"y": CLASSES})
    with pytest.raises(ValueError, match="is not conditional"):
        METHOD.fit(Tilt(model, masked()[1].reward_function, 1.0))
    with pytest.raises(ValueError, match="needs conditions to train under"):
        replace(METHOD, conditions=None).fit(Tilt(model, Table(), 1.0))
    with pytest.raises(ValueError, match="cannot have conditions for 64 each"):
        replace(METHOD, batch=96).fit(Tilt(model, Table(), 1.0))
    with pytest.raises(ValueError, match="groups of 1"):
        replace(METHOD, conditions=Conditions(LABELS)).fit(Tilt(model, Table(), 1.0))
    with pytest.raises(ValueError, match="at least one column"):
        Conditions({})
    with pytest.raises(ValueError, match="equal lengths"):
        Conditions({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="as many as samples"):
        Labelled(torch.zeros(3, 2), {"y": torch.zeros(2)})


def test_a_run_under_other_conditions_is_another_run(tmp_path):
    base = pretrained(FirstHitting())
    tilt = Tilt(add_condition(base, {"y": CLASSES}), Table(), 1.0)
    method = replace(METHOD, steps=2)
    fit(method, tilt, generator=seeded(), checkpoint=tmp_path / "c")
    other = replace(method, conditions=Conditions({"y": torch.tensor([1, 1])}, share=64))
    with pytest.raises(ValueError, match="other method"):
        fit(other, tilt, generator=seeded(), checkpoint=tmp_path / "c")


def test_held_out_scores_may_be_conditional():
    base = pretrained(FirstHitting())
    model = add_condition(base, {"y": CLASSES})
    n = 20_000
    score = HeldOut(Table(), n=n, cond=LABELS)(model)
    p = law(base)
    mean = float((p @ Table.log_p).mean())
    spread_of = float(((p.unsqueeze(1) * Table.log_p**2).sum(0) - (p @ Table.log_p) ** 2).mean()) ** 0.5
    assert abs(score - mean) < 4 * spread_of / n**0.5


def samples_with_labels(n: int, generator: torch.Generator) -> Labelled:
    """Draws of the pretrained law and of p(y | x)."""
    x = pretrained(FirstHitting()).sample(n, generator=generator)
    number = (x * torch.tensor([9, 3, 1])).sum(1)
    return Labelled(x, {"y": torch.multinomial(Table.log_p[number].exp(), 1, generator=generator).squeeze(1)})


def test_classifier_free_training_learns_the_conditional_laws_from_samples():
    """From .274 and .366 to below .1: the same laws as CTRL's, here from 20 000 labelled samples; and both are guided alike."""
    base = pretrained(FirstHitting())
    data = samples_with_labels(20_000, seeded(2))
    method = ClassifierFree(steps=150, batch=256, learning_rate=0.02, final_rate=0.02, average=0.9, data=data, drop=0.2)
    tuned = method.fit(Tilt(add_condition(base, {"y": CLASSES}), Table(), 1.0), generator=seeded())
    p = law(base)
    after, mixed = errors(tuned, p)
    assert max(after) < 0.1
    assert mixed < 0.06
    assert total_variation(law(tuned), p) < 0.06  # without a label
    for label in range(CLASSES):
        table = Table.log_p[:, label]
        stronger = law(guide(tuned, 2.0, drop=["y"]), label) @ table
        assert law(tuned, label) @ table < stronger


def test_classifier_free_training_refuses_what_it_cannot_learn_from():
    base = pretrained()
    tilt = Tilt(add_condition(base, {"y": CLASSES}), Table(), 1.0)
    with pytest.raises(ValueError, match="expected labelled data"):
        ClassifierFree()
    with pytest.raises(ValueError, match="The samples have shape"):
        ClassifierFree(data=Labelled(torch.zeros(4, 5).long(), {"y": torch.zeros(4).long()})).fit(tilt)
    with pytest.raises(ValueError, match="not a clean token"):
        ClassifierFree(data=Labelled(torch.full((4, 3), 3), {"y": torch.zeros(4).long()})).fit(tilt)


class Line(nn.Module):
    """Velocity of N(0, 1) data under flow matching on the line, with an inner layer that a condition can move."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.hidden, self.out = nn.Linear(2, 16).double(), nn.Linear(16, 1).double()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x, t):
        t = t.double().unsqueeze(1)
        exact = x * (2 * t - 1) / ((1 - t) ** 2 + t**2)
        return exact + self.out(torch.tanh(self.hidden(torch.cat([x.double(), t], 1))))


class Side:
    """log p(y | x) = log sigmoid(+-2 x)."""

    differentiable, conditional = True, True

    def __call__(self, x, cond):
        return nn.functional.logsigmoid(2 * x[:, 0].double() * (2 * cond["side"] - 1))


def tuned_line(steps: int, batch: int) -> tuple[Diffusion, Diffusion]:
    """N(0, 1) with a condition that does nothing yet, and the same tuned."""
    process = Gaussian(FlowMatching(), dtype=torch.float64)
    model = add_condition(Diffusion(process, Line(), (1,), steps=12), {"side": 2}, layers=["hidden", "out"])
    options = {"learning_rate": 0.02, "final_rate": 0.05, "clip": 10.0, "average": 0.9}
    method = CTRL(steps=steps, batch=batch, conditions=Conditions({"side": torch.tensor([0, 1])}), **options)
    return model, method.fit(Tilt(model, Side(), 1.0), generator=seeded())


def mean(model: Diffusion, side: int) -> float:
    return float(model.sample(4000, generator=seeded(1), cond={"side": torch.tensor([side])}).mean())


def test_numbers_are_conditioned_too_and_guided_by_the_pretrained_model():
    model, tuned = tuned_line(steps=20, batch=32)
    assert innermost(tuned.denoiser).network.embed is not innermost(model.denoiser).network.embed
    assert mean(tuned, 0) < mean(model, 0) - 0.1
    assert mean(tuned, 1) > mean(model, 1) + 0.1
    assert mean(guide(tuned, 3.0, base=model), 1) > mean(tuned, 1) + 0.1
    assert mean(guide(tuned, 0.0, base=model), 1) == pytest.approx(mean(model, 1), abs=1e-9)


@pytest.mark.slow
def test_the_mean_of_numbers_under_a_condition():
    """E[x | y] of N(0, 1) and p(y | x) = sigmoid(+-2 x) is +-.61."""
    _, tuned = tuned_line(steps=80, batch=128)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.sigmoid(2 * grid) * (-(grid**2) / 2).exp()
    target = float((weight * grid).sum() / weight.sum())
    assert mean(tuned, 1) == pytest.approx(target, abs=0.15)
    assert mean(tuned, 0) == pytest.approx(-target, abs=0.15)


@dataclass(frozen=True)
class Asking(Tuning):
    """Keeps what the roles answer, and moves theta."""

    answers: list = field(default_factory=list)

    @property
    def averages(self):
        return {"old": lambda step: 0.0}

    def loss(self, tilt, roles, batch, generator, progress):
        x = roles.theta.prior(2, generator=generator)
        found = {name: roles[name].clean(x, 0.5, tilt.cond) for name in ("theta", "old", "ref")}
        self.answers.append({name: clean.detach() for name, clean in found.items()})
        return Loss(found["theta"][..., 0].mean())


def test_roles_are_guided_each_at_its_own_strength():
    """All roles are equal at first, so that each answers as the pretrained model guided by its own strength."""
    torch.manual_seed(1)
    model = add_condition(pretrained(), {"y": CLASSES})
    with torch.no_grad():
        for parameter in model.denoiser.network.modulate.parameters():
            parameter.normal_(generator=seeded(4))
    cond = {"y": torch.tensor([1])}
    method = Asking(steps=2, batch=2, guidance={"old": Guidance(2.0, ["y"]), "ref": Guidance(0.0, ["y"])})
    tuned = method.fit(Tilt(model, Table(), 1.0, cond=cond), generator=seeded())
    x = model.prior(2)
    expected = {"theta": model, "old": guide(model, 2.0, drop=["y"]), "ref": guide(model, 0.0, drop=["y"])}
    for name, one in expected.items():
        assert torch.allclose(method.answers[0][name], one.clean(x, 0.5, cond), atol=1e-12)
    assert torch.allclose(method.answers[1]["ref"], method.answers[0]["ref"], atol=1e-12)
    assert float((method.answers[1]["old"] - method.answers[0]["old"]).abs().max()) > 1e-6  # it follows theta
    assert isinstance(tuned.denoiser, Denoiser)  # what is returned is not guided
    with pytest.raises(ValueError, match="no role 'ema' that could be guided; there are theta, ref, old"):
        replace(method, guidance={"ema": Guidance(2.0, ["y"])}).fit(Tilt(model, Table(), 1.0, cond=cond))
