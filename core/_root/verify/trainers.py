"""What `tiltflow verify` trains: trainers by name, the worlds they are trained on, and what is claimed of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeVar

from ..core.samplers import Ancestral, FirstHitting
from ..core.tilt import Tilt
from ..core.tuning import (
    DDPO,
    DRAKES,
    EPG,
    GRPO,
    RAFT,
    RAM,
    REFL,
    RWR,
    VARD,
    AlignProp,
    Bounds,
    DiffusionDPO,
    DiffusionNFT,
    GumbelSoftmax,
    PolicyGradient,
    PublishedDRAKES,
    Reinforce,
    Tuning,
)
from ..core.worlds import MaskedWorld, MixtureWorld, UniformWorld, trainable_tilt
from ..core.worlds.statistics import Outcome
from .bias import CLEAR, Bias
from .train import ExactAscent, Trained

MISSING = "Training needs lightning-fabric: pip install 'tiltflow[tune]'."


def absent() -> str | None:
    """Why nothing can be trained here, or None."""
    return None if find_spec("lightning_fabric") else MISSING


@dataclass(frozen=True)
class Ground:
    """A world to train on. It is the same for every seed, since bounds on gaps hold for a world.

    Attributes:
        title: what it is. build: the world. options: of `trainable_tilt`.
        settings: of every trainer here. ascent: those of exact ascent. reached: whether some model has the gap 0.
        compare: options of `measure_bias`.
    """

    title: str
    build: Callable[[], Any]
    options: dict[str, Any]
    settings: dict[str, Any]
    ascent: dict[str, Any]
    reached: bool = False
    compare: dict[str, Any] = field(default_factory=dict)

    def make(self) -> tuple[Any, Tilt]:
        """The world and its tilt."""
        world = self.build()
        return world, trainable_tilt(world, **self.options)


TABLES: dict[str, Any] = {"steps": 200, "batch": 512, "learning_rate": 0.1, "average": 0.95, "clip": 10.0}
NETWORK: dict[str, Any] = {"steps": 200, "batch": 256, "learning_rate": 0.03, "average": 0.9, "clip": 1.0}
QUICK: dict[str, Any] = {"steps": 100, "batch": 256}
ONE, PARALLEL, UNIFORM, LINE = "train-masked", "train-parallel", "train-uniform", "train-mixture"

GROUNDS: dict[str, Ground] = {
    ONE: Ground(
        "masked tokens, unmasked one at a time",
        lambda: MaskedWorld(3, 3, seed=3, alpha=1.0),
        {"sampler": FirstHitting()},
        TABLES,
        {},
        reached=True,
    ),
    PARALLEL: Ground(
        "masked tokens, 4 ancestral steps",
        lambda: MaskedWorld(3, 3, seed=3, alpha=1.0),
        {"sampler": Ancestral(), "steps": 4},
        TABLES,
        {},
    ),
    UNIFORM: Ground(
        "uniform tokens, 4 ancestral steps",
        lambda: UniformWorld(2, 3, seed=3, alpha=1.0),
        {"steps": 4},
        TABLES,
        {},
    ),
    LINE: Ground(
        "a mixture on the line, 8 ancestral steps",
        lambda: MixtureWorld(1, seed=1),
        {"steps": 8},
        NETWORK,
        {"steps": 300, "learning_rate": 0.03, "clip": 1.0, "options": {"points": 150}},
        compare={"disturbed": 0.1, "options": {"points": 1000}},
    ),
}


@dataclass(frozen=True)
class Variant:
    """A trainer with settings.

    Attributes:
        build: from `steps`, `batch` and other fields of `Tuning`.
        worlds: names in `GROUNDS`. limits: how far above the floor the gap may end, by world, in a whole run.
        quick_limits: the same with `--fast`, where a variant is run only if it is here or named.
        more: settings by world, instead of those of the ground, in a whole run.
        compared: worlds on which its mean gradient is compared with the exact one.
        unbiased: of these, where it claims to be that gradient. scaled: its gradient has a unit of its own.
    """

    build: Callable[..., Tuning]
    worlds: tuple[str, ...]
    limits: dict[str, float] | None = None
    quick_limits: dict[str, float | None] | None = None
    more: dict[str, dict[str, Any]] | None = None
    compared: tuple[str, ...] = ()
    unbiased: tuple[str, ...] = ()
    scaled: bool = False


@dataclass(frozen=True)
class Trainer:
    """A trainer of the library as `verify` runs it.

    Attributes:
        label: in tables and figures. aims: whether p* (or the best model of the sampler) is where it comes to rest; others
            are shown, not judged. variants: by name.
    """

    label: str
    aims: bool
    variants: dict[str, Variant]


def _drakes(**fixed: Any) -> Callable[..., Tuning]:
    return lambda **given: DRAKES(**fixed, **given, save_memory=False)


def _soft(temperature: float, straight: bool = True) -> GumbelSoftmax:
    return GumbelSoftmax(temperature, None, straight)


def _steps(kind: type[GRPO], **fixed: Any) -> Callable[..., Tuning]:
    return lambda **given: kind(**fixed, **given, save_memory=False)


ANY = (ONE, PARALLEL, UNIFORM, LINE)
TOKENS = (ONE, PARALLEL, UNIFORM)
RELAXED = (PARALLEL, UNIFORM)
FORWARD = (ONE, LINE)

TRAINERS: dict[str, Trainer] = {
    "exact": Trainer("exact ascent", True, {"": Variant(ExactAscent, ANY, {ONE: 1e-3}, {ONE: 1e-3, PARALLEL: None})}),
    "drakes": Trainer(
        "DRAKES",
        True,
        {
            "temperature 1": Variant(
                _drakes(estimator=_soft(1.0)), RELAXED, quick_limits={PARALLEL: None}, compared=RELAXED
            ),
            "temperature .3": Variant(
                _drakes(estimator=_soft(0.3)), RELAXED, {PARALLEL: 0.01}, {PARALLEL: 0.03}, compared=RELAXED
            ),
            "soft .3": Variant(_drakes(estimator=_soft(0.3, False)), (PARALLEL,), compared=(PARALLEL,)),
            "last 1": Variant(_drakes(estimator=_soft(0.3), last=1), (PARALLEL,), compared=RELAXED),
            "last 2": Variant(_drakes(estimator=_soft(0.3), last=2), (PARALLEL,), compared=RELAXED),
            "REINFORCE": Variant(
                _drakes(estimator=Reinforce()),
                TOKENS,
                {ONE: 1e-3, PARALLEL: 0.01, UNIFORM: 0.01},
                {ONE: 0.03},
                {ONE: {"batch": 2048}},
                compared=TOKENS,
                unbiased=TOKENS,
            ),
        },
    ),
    "drakes_published": Trainer(
        "DRAKES as published",
        False,
        {"": Variant(lambda **given: PublishedDRAKES(**given, save_memory=False), (PARALLEL,))},
    ),
    "alignprop": Trainer(
        "AlignProp",
        True,
        {
            "all steps": Variant(
                lambda **given: AlignProp(**given, save_memory=False),
                (LINE,),
                {LINE: 0.02},
                None,
                None,
                (LINE,),
                (LINE,),
            ),
            "last 2": Variant(lambda **given: AlignProp(**given, save_memory=False, last=2), (LINE,), compared=(LINE,)),
            "last 1": Variant(lambda **given: AlignProp(**given, save_memory=False, last=1), (LINE,), compared=(LINE,)),
        },
    ),
    "policy_gradient": Trainer(
        "PolicyGradient",
        True,
        {"": Variant(_steps(PolicyGradient), (ONE, UNIFORM), {ONE: 0.01, UNIFORM: 0.01}, None, None, TOKENS, TOKENS)},
    ),
    "grpo": Trainer(
        "GRPO, alpha of the tilt",
        True,
        {"": Variant(_steps(GRPO), (ONE, PARALLEL, LINE), {ONE: 0.01, PARALLEL: 0.01}, compared=(ONE,), scaled=True)},
    ),
    "rwr": Trainer(
        "RWR from the reference",
        True,
        {"": Variant(lambda **given: RWR(**given, bounds=Bounds(4)), FORWARD, {ONE: 0.01}, {ONE: 0.02})},
    ),
    "dpo": Trainer(
        "DiffusionDPO",
        False,
        {
            "sigmoid": Variant(DiffusionDPO, (ONE,)),
            "regression": Variant(lambda **given: DiffusionDPO(**given, link="regression"), (ONE,)),
            "hard labels": Variant(lambda **given: DiffusionDPO(**given, labels="hard"), (ONE,)),
        },
    ),
    "ddpo": Trainer("DDPO", False, {"": Variant(_steps(DDPO), (ONE,))}),
    "raft": Trainer("RAFT", False, {"": Variant(lambda **given: RAFT(**given, group=4), FORWARD)}),
    "epg": Trainer("EPG", False, {"": Variant(EPG, (ONE,))}),
    "nft": Trainer("DiffusionNFT", False, {"": Variant(DiffusionNFT, FORWARD)}),
    "ram": Trainer("RAM", False, {"": Variant(RAM, FORWARD)}),
    "vard": Trainer(
        "VARD, plug-in value", False, {"": Variant(lambda **given: VARD(**given, save_memory=False), (LINE,))}
    ),
    "refl": Trainer("ReFL", False, {"": Variant(REFL, (LINE,))}),
}


@dataclass(frozen=True)
class Course:
    """One variant of a trainer on one world.

    Attributes:
        world, key, variant: names. method: with its settings. limit: how far above the floor its gap may end.
        compared, unbiased, scaled: see `Variant`, here of this world.
    """

    world: str
    key: str
    variant: str
    method: Tuning
    limit: float | None
    compared: bool
    unbiased: bool
    scaled: bool

    @property
    def names(self) -> tuple[str, str, str]:
        """What the measures call it."""
        return self.world, self.key, self.variant


def courses(worlds: Sequence[str], trainers: Sequence[str], *, quick: bool, few: bool) -> Iterator[Course]:
    """Every variant of the trainers on the worlds it is made for.

    Args:
        quick: fewer steps, and limits to match. few: only those that are quick enough for `--fast`.
    """
    for world in worlds:
        for key in trainers:
            for name, variant in TRAINERS[key].variants.items():
                if world in variant.worlds and (not few or world in (variant.quick_limits or {})):
                    yield _course(world, key, name, variant, quick)


def _course(world: str, key: str, name: str, variant: Variant, quick: bool) -> Course:
    ground = GROUNDS[world]
    if key == "exact":
        method: Tuning = ascent(ground, quick)
    else:
        own = QUICK if quick else (variant.more or {}).get(world, {})
        method = variant.build(**(ground.settings | {"final_rate": 0.0} | own))
    limit = ((variant.quick_limits if quick else variant.limits) or {}).get(world)
    return Course(
        world,
        key,
        name,
        method,
        limit,
        world in variant.compared,
        world in variant.unbiased,
        variant.scaled,
    )


def ascent(ground: Ground, quick: bool = False) -> ExactAscent:
    """Exact ascent with the settings of a world, which is still to be given."""
    return ExactAscent(**(ground.ascent | ({"steps": QUICK["steps"]} if quick else {})))


@dataclass(frozen=True)
class Claim:
    """A statement about trainers that was put to the test.

    Attributes:
        world, text: what is claimed. found: the numbers. outcome: whether it holds.
    """

    world: str
    text: str
    found: str
    outcome: Outcome


def label(key: str, variant: str) -> str:
    """A trainer and its variant in words."""
    return f"{TRAINERS[key].label}, {variant}" if variant else TRAINERS[key].label


# pairs of variants of one trainer: (further from the exact gradient, nearer)
ORDERED = {
    "drakes": [("temperature 1", "temperature .3"), ("last 1", "last 2"), ("last 2", "temperature .3")],
    "alignprop": [("last 1", "last 2"), ("last 2", "all steps")],
}


def claims(done: Sequence[tuple[Course, Trained]], biases: Sequence[Bias]) -> list[Claim]:
    """Everything that is claimed of what was run."""
    limited = [_limited(course, row) for course, row in done if course.limit is not None]
    return [*limited, *_nearer([row for _, row in done]), *_less_biased(biases), *_unbiased(biases)]


def _limited(course: Course, row: Trained) -> Claim:
    text = f"{label(course.key, course.variant)} ends at most {course.limit:g} above the floor"
    numbers = f"gap {row.gap:.5f}, floor {row.floor:.5f}"
    assert course.limit is not None
    return Claim(course.world, text, numbers, "pass" if row.excess <= course.limit else "fail")


Named = TypeVar("Named", Trained, Bias)


def _pairs(rows: Sequence[Named]) -> Iterator[tuple[Named, Named]]:
    """Those of `ORDERED` that were run, by world."""
    found = {(row.world, row.method, row.variant): row for row in rows}
    for world in dict.fromkeys(row.world for row in rows):
        for key, pairs in ORDERED.items():
            for far, near in pairs:
                if (world, key, far) in found and (world, key, near) in found:
                    yield found[world, key, far], found[world, key, near]


def _nearer(rows: Sequence[Trained]) -> Iterator[Claim]:
    for far, near in _pairs(rows):
        text = f"{TRAINERS[far.method].label} ends nearer to the optimum with {near.variant} than with {far.variant}"
        numbers = f"gap {near.gap:.4f} and {far.gap:.4f}"
        yield Claim(far.world, text, numbers, "pass" if near.gap < far.gap else "fail")


def _less_biased(biases: Sequence[Bias]) -> Iterator[Claim]:
    """By more than the errors of the biases."""
    for far, near in _pairs([bias for bias in biases if bias.bias is not None]):
        difference = (far.bias or 0.0) - (near.bias or 0.0)
        clear = CLEAR * math.hypot(far.error or 0.0, near.error or 0.0)
        text = f"{TRAINERS[far.method].label}'s gradient has less bias with {near.variant} than with {far.variant}"
        outcome: Outcome = "pass" if difference > clear else "fail" if difference < -clear else "underpowered"
        yield Claim(far.world, text, f"{near.bias:.3f} and {far.bias:.3f}", outcome)


def _unbiased(biases: Sequence[Bias]) -> list[Claim]:
    return [
        Claim(
            b.world, f"The gradient of {label(b.method, b.variant)} has no bias", f"largest score {b.z:.1f}", b.outcome
        )
        for b in biases
        if b.outcome is not None
    ]
