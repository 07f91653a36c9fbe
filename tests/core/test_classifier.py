"""p(y | x0): fitted, calibrated, judged on what it never saw; and its tilt is p(x | y)."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core import Classifier, Diffusion, Doob, Labelled, Tilt, fit_classifier, ignore
from tiltflow.core.classifier import ClassifierFit, Joint, judged
from tiltflow.core.paths import FlowMatching
from tiltflow.core.processes import Gaussian
from tiltflow.core.worlds import MaskedWorld, total_variation
from torch import nn


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled_line(n: int = 4000, seed: int = 0) -> Labelled:
    """x in R^2; p(y = 1 | x) = sigmoid(2 x_0): the best there is has accuracy .77 and -log p of .48."""
    generator = seeded(seed)
    x = torch.randn(n, 2, generator=generator)
    y = (torch.rand(n, generator=generator) < torch.sigmoid(2 * x[:, 0])).long()
    return Labelled(x, {"side": y})


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))


def test_a_fit_comes_near_the_best_classifier_and_knows_how_sure_it_is():
    found = fit_classifier(small(), labelled_line(), "side", generator=seeded())
    quality = found.quality
    assert quality.n == 600
    assert quality.majority < 0.55
    assert quality.accuracy > 0.7
    assert quality.nll < quality.entropy - 0.15
    assert quality.calibration_error < 0.06
    x = torch.linspace(-1.5, 1.5, 7).unsqueeze(1).repeat(1, 2)
    truth = torch.sigmoid(2 * x[:, 0].double())
    assert float((found.log_probs(x)[:, 1].exp() - truth).abs().max()) < 0.12
    assert not any(p.requires_grad for p in found.network.parameters())


def test_a_fit_is_the_same_by_its_seed_and_draws_from_no_global_generator():
    state = torch.random.get_rng_state()
    settings = ClassifierFit(steps=30)
    first, second = (
        fit_classifier(small(), labelled_line(500), "side", generator=seeded(3), settings=settings) for _ in range(2)
    )
    assert first.quality == second.quality
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_overconfident_network_is_cooled_to_its_temperature():
    """Logits three times too large are divided by about 3: the calibration is the network's own, as if it had not been."""

    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)
            with torch.no_grad():
                self.inner.weight.copy_(torch.tensor([[0.0, 0.0], [6.0, 0.0]]))
                self.inner.bias.zero_()

        def forward(self, x):
            return self.inner(x)

    settings = ClassifierFit(steps=1, learning_rate=1e-12)
    found = fit_classifier(Sure(), labelled_line(20_000), "side", generator=seeded(), settings=settings)
    assert float(found.temperature) == pytest.approx(3.0, rel=0.15)


def test_relatives_stay_together():
    data = labelled_line(300)
    groups = torch.arange(300) // 10
    parts = Labelled(data.x, data.labels, groups).split((0.6, 0.2, 0.2), seeded())
    seen = [set(part.groups.tolist()) for part in parts]
    assert sum(map(len, parts)) == 300
    assert sum(map(len, seen)) == len(set.union(*seen)) == 30


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"other": torch.zeros(300).long()}, "No labels 'side'"),
        ({"side": torch.zeros(300)}, "bucketize"),
        ({"side": torch.zeros(300).long()}, "at least 1"),
        ({"side": 2 * (torch.arange(300) % 2)}, r"Label\(s\) \[1\] of 'side' are missing"),
    ],
)
def test_labels_that_cannot_be_fitted_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        fit_classifier(small(), Labelled(torch.randn(300, 2, generator=seeded()), labels), "side", generator=seeded())


def test_the_quality_is_what_it_says():
    """A classifier that always says .8 for label 1, on 10 samples of which 6 are: all by hand."""
    fixed = nn.Linear(1, 2)
    with torch.no_grad():
        fixed.weight.zero_()
        fixed.bias.copy_(torch.tensor([0.2, 0.8]).log())
    found = Classifier(fixed, "y", 2, prior=torch.tensor([0.5, 0.5]))
    labels = torch.tensor([1] * 6 + [0] * 4)
    quality = judged(found, torch.zeros(10, 1), labels)
    assert quality.accuracy == 0.6
    assert quality.nll == pytest.approx(-(0.6 * math.log(0.8) + 0.4 * math.log(0.2)))
    assert quality.entropy == pytest.approx(math.log(2))
    # Each of ten bins holds one sample, right or wrong.
    assert quality.calibration_error == pytest.approx(0.6 * 0.2 + 0.4 * 0.8)


class Labelling(MaskedWorld):
    """A world whose reward is log p(y | x) of a random classifier, for one y of three."""

    label = 0

    @property
    def table(self):
        return torch.randn(self.vocab**self.length, 3, dtype=torch.float64, generator=seeded(7)).mul(2).log_softmax(-1)

    @property
    def rewards(self):
        return self.table[:, self.label]


class Exact:
    """The classifier of `Labelling`."""

    takes, differentiable, conditional = "relaxed", True, True

    def __init__(self, world):
        self.world = world

    def __call__(self, x, cond):
        rows = (x * self.world.vocab ** torch.arange(self.world.length - 1, -1, -1)).sum(1)
        return self.world.table[rows].gather(1, cond["y"].reshape(-1, 1)).squeeze(1)


def test_tilting_by_a_classifier_gives_the_conditional_laws_which_add_up_to_p():
    """With the exact value q(x | y) = p(x) p(y | x) / p(y) to 1e-10, and sum_y p(y) q(x | y) = p(x)."""
    mixture = torch.zeros(27, dtype=torch.float64)
    for label in range(3):
        world = Labelling(3, 3, seed=3, alpha=1.0)
        object.__setattr__(world, "label", label)
        tilt = Tilt(
            ignore(world.diffusion, ["y"]), Exact(world), 1.0, value=world.value, cond={"y": torch.tensor([label])}
        )
        law = world.law(Doob(), tilt)
        joint = world.p * world.table[:, label].exp()
        assert torch.allclose(law, joint / joint.sum(), atol=1e-10)
        assert torch.allclose(tilt.reward(world.sequences), world.table[:, label], atol=1e-14)
        mixture += joint.sum() * law
    assert total_variation(mixture, world.p) < 1e-10


def test_several_labels_add_up():
    a = Classifier(small(), "a", 2)
    b = Classifier(small(), "b", 2, temperature=2.0)
    x, cond = torch.randn(5, 2, generator=seeded()), {"a": torch.ones(5).long(), "b": torch.zeros(5).long()}
    both = Tilt(Diffusion(Gaussian(FlowMatching()), lambda x, t: x, (2,)), Joint((a, b)), 1.0, cond=cond).reward(x)
    assert torch.equal(both, a.log_probs(x)[:, 1] + b.log_probs(x)[:, 0])
    with pytest.raises(ValueError, match="expected a label 'b'"):
        b(x, {"a": cond["a"]})
