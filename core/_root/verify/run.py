"""Everything that was asked for, measured: cases on worlds to rows and points, trainers on theirs to rows and claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.tilt import Tilt
from ..core.worlds import World, total_variation
from ..core.worlds.statistics import ALARM
from .bias import Bias, measure_bias
from .cases import COSTLY, METHODS, VALUES, WORLDS, Case, cases
from .measure import Point, Row, budget, locate, measure, tilt_of
from .reference import Reference, refer
from .train import ExactAscent, Trained, lowest_gap, measure_trainer
from .trainers import GROUNDS, Claim, Course, absent, ascent, claims, courses, label


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        worlds, methods: names in `WORLDS` and `METHODS`. seed: of the worlds and of the draws.
        grounds, trainers: names in `GROUNDS` and `TRAINERS`. quick, few: see `courses`.
        batches, batch: independent gradients that biases are estimated from, and samples in each.
        data_dir: folder of the measured landscapes.
        tested: budgets at which draws are tested. shown: further ones for the figure, at which only exact laws are computed.
        sampled: those of `shown` at which methods without a computable law are tested too.
        draws, work: limits of a row, see `measure`. fault: size of the seeded faults, see `Reference`.
    """

    worlds: tuple[str, ...]
    methods: tuple[str, ...]
    grounds: tuple[str, ...] = ()
    trainers: tuple[str, ...] = ()
    quick: bool = False
    few: bool = False
    batches: int = 32
    batch: int = 2048
    seed: int = 0
    data_dir: Path | None = None
    tested: tuple[int, ...] = (4, 16)
    shown: tuple[int, ...] = (1, 64, 256)
    sampled: tuple[int, ...] = (64,)
    draws: int = 100_000
    work: float = 2e6
    fault: float = 0.1


FAST: dict[str, Any] = {
    "shown": (1, 64),
    "sampled": (),
    "draws": 20_000,
    "work": 2.5e5,
    "fault": 0.2,
    "quick": True,
    "batches": 24,
}
QUICK_WORLDS = ("masked", "uniform", "mixture")


@dataclass
class Result:
    """What was found.

    Attributes:
        rows: tested; points: further exact laws.
        references: by world. reach: by world, total variation from p* to p*_T, the sampler's own part in every distance.
        absent: what had to be left out, and why. tests, alarm: how many, and the false-alarm rate of each.
        trained, biases: of trainers and of their gradients; claims: what was put to the test about them.
    """

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)
    reach: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    trained: list[Trained] = field(default_factory=list)
    biases: list[Bias] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    alarm: float = ALARM

    @property
    def tests(self) -> int:
        """How many tests of draws were made."""
        return sum(len(row.outcomes) for row in self.rows) + sum(bias.outcome is not None for bias in self.biases)

    @property
    def failed(self) -> list[Row]:
        """Rows with a test that failed."""
        return [row for row in self.rows if row.failed]

    @property
    def refuted(self) -> list[Claim]:
        """Claims about trainers that do not hold."""
        return [claim for claim in self.claims if claim.outcome == "fail"]

    @property
    def underpowered(self) -> int:
        """Rows with a test that had too few draws to see the seeded faults."""
        return sum("underpowered" in row.outcomes for row in self.rows)


def run(plan: Plan, report: Callable[[str], None] = lambda text: None) -> Result:
    """Measure all cases and train all trainers. `report` hears what is under way.

    Raises:
        KeyError: an unknown world, method or trainer.
    """
    result = Result(plan)
    worlds = dict(_worlds(plan, result.absent)) if plan.methods else {}
    todo = {name: list(cases(world, plan.methods, plan.tested)) for name, world in worlds.items()}
    planned = list(courses(plan.grounds, plan.trainers, quick=plan.quick, few=plan.few))
    unbiased = sum(course.unbiased for course in planned)
    result.alarm = ALARM / max(
        1, 3 * sum(map(len, todo.values())) + unbiased
    )  # two tests a row, and at further budgets
    for name, world in worlds.items():
        report(name)
        reference = refer(world, tilt_of(world), plan.seed, plan.fault)
        result.references[name] = reference
        result.reach[name] = total_variation(world.pool(reference.tilted), world.pool(world.tilted))
        for case in todo[name]:
            report(f"{name}: {METHODS[case.key].label}, {case.value}")
            result.rows.append(_row(case, name, world, reference, result))
        _further(name, world, result)
    _train(planned, result, report)
    return result


def _worlds(plan: Plan, absent: dict[str, str]) -> Iterator[tuple[str, World]]:
    for name in plan.worlds:
        try:
            yield name, WORLDS[name](plan.seed, plan.data_dir)
        except FileNotFoundError as error:
            absent[name] = str(error)


def _row(case: Case, name: str, world: World, reference: Reference, result: Result) -> Row:
    return measure(
        case.method,
        world,
        value=VALUES[case.value](world),
        exact=case.exact and reference.faithful(world),
        draws=result.plan.draws,
        work=result.plan.work,
        seed=result.plan.seed,
        alarm=result.alarm,
        names=case.names(name),
        reference=reference,
    )


def _further(name: str, world: World, result: Result) -> None:
    """Points, and rows of methods without a law, at the budgets that are only shown."""
    plan = result.plan
    scaling = [key for key in plan.methods if METHODS[key].scales and METHODS[key].drawn]
    for case in cases(world, scaling, plan.shown):
        found = locate(case.method, world, value=VALUES[case.value](world), names=case.names(name), seed=plan.seed)
        if found is not None:
            result.points.append(found)
        elif budget(case.method) in plan.sampled and case.value not in COSTLY:
            result.rows.append(_row(case, name, world, result.references[name], result))


def _train(planned: Sequence[Course], result: Result, report: Callable[[str], None]) -> None:
    """Rows, biases and claims of all courses; without what training needs, why there are none."""
    why = absent()
    if planned and why is not None:
        result.absent["trainers"] = why
        return
    done: list[tuple[Course, Trained]] = []
    for name in dict.fromkeys(course.world for course in planned):
        report(name)
        mine = [course for course in planned if course.world == name]
        done += _on_ground(name, mine, result, report)
    result.trained = [row for _, row in done]
    result.claims = claims(done, result.biases)


def _on_ground(
    name: str, planned: Sequence[Course], result: Result, report: Callable[[str], None]
) -> Iterator[tuple[Course, Trained]]:
    ground, plan = GROUNDS[name], result.plan
    world, tilt = ground.make()
    floor = 0.0 if ground.reached else lowest_gap(world, tilt, ascent(ground, plan.quick))
    for course in planned:
        report(f"{name}: {label(course.key, course.variant)}")
        method = course.method
        if isinstance(method, ExactAscent):
            method = replace(method, world=world)
        found = measure_trainer(method, world, tilt=tilt, floor=floor, seed=plan.seed, names=course.names)
        yield course, found
        if course.compared:
            result.biases.append(_bias(course, world, tilt, result))


def _bias(course: Course, world: Any, tilt: Tilt, result: Result) -> Bias:
    plan = result.plan
    return measure_bias(
        replace(course.method, batch=plan.batch),
        world,
        tilt=tilt,
        batches=plan.batches,
        unbiased=course.unbiased,
        scaled=course.scaled,
        seed=plan.seed,
        alarm=result.alarm,
        names=course.names,
        **GROUNDS[course.world].compare,
    )


def line(points: Sequence[Point], world: str, method: str, value: str) -> list[Point]:
    """Points of one line of the figure, by budget."""
    mine = [point for point in points if (point.world, point.method, point.value) == (world, method, value)]
    return sorted(mine, key=lambda point: point.budget or 0)
