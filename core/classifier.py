"""p(y | x0) from labelled samples: fitted, calibrated, judged on samples it never saw, and a reward."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from .diffusion import check_count
from .training import follow, warm
from .tuning.conditions import Labelled


@dataclass(frozen=True)
class Quality:
    """How good a classifier is on the held-out samples.

    Attributes:
        accuracy: share of labels that are the most probable one; majority: that of always naming the most frequent label.
        nll: mean of -log p(y | x), nats; entropy: that of the frequencies of the labels alone.
        calibration_error: mean distance between the probability given to the most probable label and how often it is right,
            in ten bins of equal numbers of samples (expected calibration error, Guo et al. 2017).
        temperature: by which logits were divided after training. n: held-out samples.
    """

    accuracy: float
    majority: float
    nll: float
    entropy: float
    calibration_error: float
    temperature: float
    n: int


class Classifier(nn.Module):
    """log p(y | x0) as a reward: (x, cond) -> `[B]`, y being what `cond` names. With alpha 1 its tilt is p(x | y).

    Args:
        network: samples `[B, *shape]` (tokens relaxed too, `[B, L, K]`) -> logits `[B, classes]`.
        name: of the label in conditions. classes: how many.
        prior: float `[classes]`, frequencies of the labels.
        temperature: of the logits. quality: on held-out samples, where known.
    """

    takes: ClassVar[str] = "relaxed"
    differentiable: ClassVar[bool] = True
    conditional: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        name: str,
        classes: int,
        *,
        prior: Tensor | None = None,
        temperature: float = 1.0,
        quality: Quality | None = None,
    ):
        super().__init__()
        self.network, self.name, self.classes, self.quality = network, name, classes, quality
        prior = torch.full((classes,), 1 / classes) if prior is None else prior
        self.register_buffer("prior", prior.double())
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))

    prior: Tensor
    temperature: Tensor

    def log_probs(self, x: Tensor) -> Tensor:
        """log p(y | x) of all labels, float64 `[B, classes]`."""
        logits = self.network(x)
        if logits.shape != (len(x), self.classes):
            raise ValueError(f"The network gave {tuple(logits.shape)}; expected logits ({len(x)}, {self.classes}).")
        return (logits.double() / self.temperature).log_softmax(-1)

    def forward(self, x: Tensor, cond: Any) -> Tensor:
        """log p(y | x) of the label y = cond[name], int64 `[B]`: float64 `[B]`.

        Raises:
            ValueError: the condition does not name this label.
        """
        if not isinstance(cond, dict) or self.name not in cond:
            raise ValueError(f"The condition names {sorted(cond)}; expected a label {self.name!r} among them.")
        return self.log_probs(x).gather(1, cond[self.name].reshape(-1, 1)).squeeze(1)


@dataclass(frozen=True)
class Joint:
    """The sum of conditional rewards: classifiers of several labels, taken as independent given x."""

    parts: tuple[Any, ...]

    takes: ClassVar[str] = "relaxed"
    differentiable: ClassVar[bool] = True
    conditional: ClassVar[bool] = True

    def __call__(self, x: Tensor, cond: Any) -> Tensor:
        values = [part(x, cond) for part in self.parts]
        return sum(values[1:], values[0])


@dataclass(frozen=True)
class ClassifierFit:
    """How to fit.

    Args:
        steps, batch: optimiser steps, samples a step.
        learning_rate: of AdamW, peak after a tenth of the steps, then down to 0 by a half cosine.
        weight_decay: of AdamW.
        validate_every: steps between looks at the validation part; the best averaged weights are kept.
        validation, held_out: shares set aside, the one for stopping and calibration, the other for `Quality`.
    """

    steps: int = 600
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    validate_every: int = 50
    validation: float = 0.15
    held_out: float = 0.15

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every"):
            check_count(name, getattr(self, name))
        if not (self.validation > 0 and self.held_out > 0 and self.validation + self.held_out < 1):
            raise ValueError(
                f"validation={self.validation}, held_out={self.held_out}: expected positive shares that leave some to learn."
            )


def fit_classifier(
    network: nn.Module,
    data: Labelled,
    name: str,
    *,
    generator: torch.Generator,
    settings: ClassifierFit | None = None,
) -> Classifier:
    """Fit p(y | x0) to the labels `name` of `data`; calibrated by one temperature, judged on held-out samples.

    Args:
        network: trained in place; see `Classifier`.

    Raises:
        ValueError: labels that are not int64 from 0, fewer than two classes, or a class that is missing from a part.
        FloatingPointError: the loss is not finite.
    """
    settings = settings or ClassifierFit()
    labels = data.labels.get(name)
    if (
        labels is None
        or labels.is_floating_point()
        or labels.ndim != 1
        or int(labels.min()) < 0
        or int(labels.max()) < 1
    ):
        raise ValueError(
            f"No labels {name!r}, or not int64 [N] from 0 to at least 1. Cut numbers in bins: torch.bucketize."
        )
    classes = int(labels.max()) + 1
    shares = (1 - settings.validation - settings.held_out, settings.validation, settings.held_out)
    learn, stop, judge = data.split(shares, generator)
    prior = torch.bincount(learn.labels[name], minlength=classes) / len(learn)
    if not bool((prior > 0).all()):
        raise ValueError(
            f"Label(s) {(prior == 0).nonzero().flatten().tolist()} of {name!r} are missing from the training part."
        )
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        best = _train(network, learn, stop, name, settings, generator)
    network.load_state_dict(best.state_dict())
    network.eval().requires_grad_(False)
    temperature = _temperature(_logits(network, stop.x), stop.labels[name])
    found = Classifier(network, name, classes, prior=prior, temperature=temperature)
    found.quality = judged(found, judge.x, judge.labels[name])
    return found


@torch.no_grad()
def judged(classifier: Classifier, x: Tensor, labels: Tensor) -> Quality:
    """The quality on samples x `[N, *shape]` with labels int64 `[N]`."""
    log_probs = torch.cat([classifier.log_probs(part) for part in x.split(512)])
    sure, guess = log_probs.exp().max(-1)
    right = (guess == labels).double()
    order = sure.argsort()
    bins = [index for index in order.tensor_split(min(10, len(order))) if len(index)]
    error = sum(len(index) * abs(float(sure[index].mean() - right[index].mean())) for index in bins) / len(order)
    prior = classifier.prior.clamp(min=1e-300)
    return Quality(
        accuracy=float(right.mean()),
        majority=float((labels == prior.argmax()).double().mean()),
        nll=float(nll_loss(log_probs, labels)),
        entropy=float(-prior.log()[labels].mean()),
        calibration_error=error,
        temperature=float(classifier.temperature),
        n=len(labels),
    )


def _train(
    network: nn.Module,
    learn: Labelled,
    stop: Labelled,
    name: str,
    settings: ClassifierFit,
    generator: torch.Generator,
) -> nn.Module:
    """The averaged network with the least validation loss."""
    network.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    average, best, least = copy.deepcopy(network).eval(), copy.deepcopy(network), math.inf
    for step, batch in enumerate(_batches(len(learn), settings, generator)):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _rate(step / settings.steps)
        loss = cross_entropy(network(learn.x[batch]), learn.labels[name][batch])
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"The loss is {float(loss)} at step {step}. Lower the learning rate.")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        follow(average, network, warm(0.99, step))
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            seen = float(cross_entropy(_logits(average, stop.x), stop.labels[name]))
            if seen < least:
                best, least = copy.deepcopy(average), seen
    return best


def _batches(count: int, settings: ClassifierFit, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of the samples of each step: passes in random order."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(settings.steps):
        while len(order) < min(settings.batch, count):
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[: settings.batch]
        order = order[settings.batch :]


def _rate(part: float) -> float:
    return min(1.0, 10 * part + 0.01) * (1 + math.cos(math.pi * part)) / 2


@torch.no_grad()
def _logits(network: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([network(part) for part in x.split(512)])


def _temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least -log p, by golden-section search over its logarithm (the loss is unimodal in it)."""
    logits = logits.double()

    def loss(log_t: float) -> float:
        return float(cross_entropy(logits / math.exp(log_t), labels))

    low, high, ratio = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)
