"""Everything that was asked for, measured: cases on worlds to rows and points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.worlds import World, total_variation
from ..core.worlds.statistics import ALARM
from .cases import COSTLY, METHODS, VALUES, WORLDS, Case, cases
from .measure import Point, Row, budget, locate, measure, tilt_of
from .reference import Reference, refer


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        worlds, methods: names in `WORLDS` and `METHODS`. seed: of the worlds and of the draws.
        data_dir: folder of the measured landscapes.
        tested: budgets at which draws are tested. shown: further ones for the figure, at which only exact laws are computed.
        sampled: those of `shown` at which methods without a computable law are tested too.
        draws, work: limits of a row, see `measure`. fault: size of the seeded faults, see `Reference`.
    """

    worlds: tuple[str, ...]
    methods: tuple[str, ...]
    seed: int = 0
    data_dir: Path | None = None
    tested: tuple[int, ...] = (4, 16)
    shown: tuple[int, ...] = (1, 64, 256)
    sampled: tuple[int, ...] = (64,)
    draws: int = 100_000
    work: float = 2e6
    fault: float = 0.1


FAST = {"shown": (1, 64), "sampled": (), "draws": 20_000, "work": 2.5e5, "fault": 0.2}
QUICK_WORLDS = ("masked", "uniform", "mixture")


@dataclass
class Result:
    """What was found.

    Attributes:
        rows: tested; points: further exact laws.
        references: by world. reach: by world, total variation from p* to p*_T, the sampler's own part in every distance.
        absent: worlds that could not be made, and why. tests, alarm: how many, and the false-alarm rate of each.
    """

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)
    reach: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    alarm: float = ALARM

    @property
    def tests(self) -> int:
        """How many tests were made."""
        return sum(len(row.outcomes) for row in self.rows)

    @property
    def failed(self) -> list[Row]:
        """Rows with a test that failed."""
        return [row for row in self.rows if row.failed]

    @property
    def underpowered(self) -> int:
        """Rows with a test that had too few draws to see the seeded faults."""
        return sum("underpowered" in row.outcomes for row in self.rows)


def run(plan: Plan, report: Callable[[str], None] = lambda text: None) -> Result:
    """Measure all cases. `report` hears what is under way.

    Raises:
        KeyError: an unknown world or method.
    """
    result = Result(plan)
    worlds = dict(_worlds(plan, result.absent))
    todo = {name: list(cases(world, plan.methods, plan.tested)) for name, world in worlds.items()}
    result.alarm = ALARM / max(1, 3 * sum(map(len, todo.values())))  # two tests a row, and rows at further budgets
    for name, world in worlds.items():
        report(name)
        reference = refer(world, tilt_of(world), plan.seed, plan.fault)
        result.references[name] = reference
        result.reach[name] = total_variation(world.pool(reference.tilted), world.pool(world.tilted))
        for case in todo[name]:
            report(f"{name}: {METHODS[case.key].label}, {case.value}")
            result.rows.append(_row(case, name, world, reference, result))
        _further(name, world, result)
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


def line(points: Sequence[Point], world: str, method: str, value: str) -> list[Point]:
    """Points of one line of the figure, by budget."""
    mine = [point for point in points if (point.world, point.method, point.value) == (world, method, value)]
    return sorted(mine, key=lambda point: point.budget or 0)
