"""`tiltflow verify` and `tiltflow.verify.measure`: right methods pass, broken ones are caught, and the files say the same."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace

import pytest
import torch
from tiltflow.core import SMC, SVDD, BestOfN, Doob, ImportanceResampling, PosteriorMean, steering, tuning
from tiltflow.core.samplers import Ancestral
from tiltflow.core.tuning import DRAKES, RWR, PolicyGradient, Reinforce, Tuning
from tiltflow.core.worlds import (
    MaskedWorld,
    MixtureWorld,
    UniformWorld,
    relative_entropy,
    total_variation,
    trainable_tilt,
)
from tiltflow.core.worlds.statistics import mean_scores
from tiltflow.verify import (
    GROUNDS,
    METHODS,
    TRAINERS,
    WORLDS,
    ExactAscent,
    measure,
    measure_bias,
    measure_trainer,
    refer,
    report,
    show,
)
from tiltflow.verify.bias import _normal, relative_bias
from tiltflow.verify.cases import VALUES, Method, cases
from tiltflow.verify.command import main
from tiltflow.verify.measure import generator as generator_of
from tiltflow.verify.measure import tilt_of
from tiltflow.verify.reference import _measured
from tiltflow.verify.run import FAST, Plan
from tiltflow.verify.run import run as run_plan
from tiltflow.verify.trainers import QUICK, Trainer, Variant, courses

WORLD = MaskedWorld(3, 2, seed=4, alpha=0.8)


@dataclass(frozen=True)
class Omitted(SVDD):
    """SVDD that forgets its weights."""

    def finish(self, tilt, state, *, generator=None):
        return replace(state, log_weights=torch.zeros_like(state.log_weights))


@dataclass(frozen=True)
class Hot(SVDD):
    """SVDD with an alpha that is 10 % too high."""

    def step(self, tilt, state, t, s, *, generator=None):
        return super().step(replace(tilt, alpha=1.1 * tilt.alpha), state, t, s, generator=generator)


@dataclass(frozen=True)
class Unguided(SVDD):
    """SVDD whose last step takes the first candidate: right weights for wrong draws."""

    def _select(self, log_h, generator):
        return torch.zeros(len(log_h), dtype=torch.int64)


# --- one row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "world", "value"),
    [
        (ImportanceResampling(4), WORLD, None),
        (SVDD(4), WORLD, None),
        (SVDD(4), WORLD, PosteriorMean()),
        (Doob(), WORLD, PosteriorMean()),
        (SVDD(4), UniformWorld(2, 3, steps=6, alpha=1.0), None),
    ],
    ids=str,
)
def test_right_methods_pass_and_the_numbers_are_those_of_the_world(method, world, value):
    row = measure(method, world, value=value, draws=60_000, work=1e9)
    law = world.law(method, world.tilt(value=value))
    assert (row.law, row.weights, row.failed) == ("pass", "pass", False)
    assert row.tv == pytest.approx(total_variation(law, world.tilted), abs=1e-12)
    assert row.kl == pytest.approx(relative_entropy(law, world.tilted), abs=1e-12)
    assert row.log_z_true == pytest.approx(world.log_z_of(world.diffusion), abs=1e-12)
    assert row.log_z == pytest.approx(row.log_z_true, abs=0.05)
    tilted = (world.base_law() * (world.rewards / world.alpha).exp()).double()
    assert row.reward_true == pytest.approx(float((tilted * world.rewards).sum() / tilted.sum()), abs=1e-12)
    assert row.reward == pytest.approx(float((law * world.rewards).sum()), abs=0.03)
    assert 0 < row.tv_law < 0.05
    assert row.floor == 0


@pytest.mark.parametrize(
    ("method", "law", "weights"),
    [(Omitted(4), "pass", "fail"), (Hot(4), "fail", "fail"), (Unguided(4), "fail", "fail")],
    ids=lambda x: type(x).__name__ if isinstance(x, SVDD) else x,
)
def test_broken_methods_are_caught(method, law, weights):
    row = measure(method, WORLD, draws=60_000)
    assert (row.law, row.weights, row.failed) == (law, weights, True)
    assert "FAIL" in " ".join(report.cells(row))


def test_too_few_draws_are_no_pass():
    row = measure(SVDD(4), WORLD, draws=200)
    assert (row.law, row.weights, row.failed) == ("underpowered", "underpowered", False)


def test_a_claim_of_p_star_is_held_to_rounding():
    assert measure(Doob(), WORLD, exact=True, draws=500).claim == "pass"
    weaker = measure(Doob(strength=0.99), WORLD, exact=True, draws=500)
    assert weaker.claim == "fail"
    assert weaker.failed
    assert measure(Doob(), WORLD, draws=500).claim is None


def test_without_a_law_draws_are_compared_and_the_noise_is_stated():
    row = measure(SMC(16), WORLD, draws=8000)
    assert (row.law, row.p_value, row.weights) == (None, None, "pass")
    assert row.floor < row.tv < 0.2
    perfect = torch.multinomial(WORLD.tilted, 8000 * 300, replacement=True).reshape(300, -1)
    noise = [total_variation(x.bincount(minlength=8) / 8000, WORLD.tilted) for x in perfect]
    assert row.floor == pytest.approx(sum(noise) / 300, rel=0.05)


def test_methods_without_weights_are_not_asked_for_them():
    for method in (BestOfN(4), SVDD(4, selection="argmax")):
        row = measure(method, WORLD, draws=60_000)
        assert (row.law, row.weights, row.z) == ("pass", None, None)
    assert measure(BestOfN(4), WORLD, weighted=True, draws=4000).weights == "fail"


def test_an_own_law_can_be_given():
    law = WORLD.law(SVDD(4), WORLD.tilt())
    assert measure(SVDD(4), WORLD, law=law, draws=60_000).law == "pass"
    assert measure(SVDD(3), WORLD, law=law, draws=60_000).law == "fail"
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(8,\)"):
        measure(SVDD(4), WORLD, law=law[:3])
    with pytest.raises(ValueError, match="sums to 2"):
        measure(SVDD(4), WORLD, law=2 * law)


def test_broken_weights_fail():
    @dataclass(frozen=True)
    class Lost(SVDD):
        to: float = torch.nan

        def finish(self, tilt, state, *, generator=None):
            return replace(state, log_weights=torch.full_like(state.log_weights, self.to))

    for to in (torch.nan, torch.inf, -torch.inf):
        row = measure(Lost(2, to=to), WORLD, draws=1000)
        assert (row.weights, row.log_z) == ("fail", None)


def test_costs_are_those_of_one_sample_alone():
    world = MixtureWorld(1, steps=8)
    row = measure(ImportanceResampling(4), world, draws=500)
    assert (row.reward_calls, row.forward_rows) == (4, 32)
    looked = measure(SVDD(4), world, draws=500)  # at the exact value, before the last step, and then at the reward
    assert (looked.reward_calls, looked.forward_rows) == (32, 8)
    tight = measure(ImportanceResampling(4), world, draws=10_000, work=1)
    assert tight.n == 1000


# --- what it compares with ------------------------------------------------------------------------------------------


def test_a_reference_from_draws_agrees_with_the_table():
    tilt = tilt_of(WORLD)
    exact, rough = refer(WORLD, tilt), type(refer(WORLD, tilt))(0.1, *_measured(WORLD, tilt, 0, 1.1 * tilt.alpha))
    assert rough.log_z == pytest.approx(exact.log_z, abs=0.01)
    assert rough.growth == pytest.approx(exact.growth, abs=0.01)
    assert rough.reward == pytest.approx(exact.reward, abs=0.01)
    for name in ("base", "tilted", "hotter"):
        assert total_variation(getattr(rough, name), getattr(exact, name)) < 0.01
    assert torch.equal(rough.groups, exact.groups)
    assert ((rough.moments - exact.moments).abs() < 5 * rough.error.clamp(min=1e-12)).all()
    assert exact.moments[0] == pytest.approx(1)
    assert exact.faithful(WORLD)
    assert not refer(UniformWorld(2, 2), tilt_of(UniformWorld(2, 2))).faithful(UniformWorld(2, 2))


def test_scores_of_skewed_means_are_freed_of_skewness(generator):
    """Of lognormal means of 500: the plain score is below -3 four times too often, the freed one hardly."""
    x = (0.7 * torch.randn(500, 20_000, dtype=torch.float64, generator=generator(0)) - 0.245).exp()
    z, skew = mean_scores(x, torch.ones(20_000, dtype=torch.float64))
    plain = (x.mean(0) - 1) / (x.std(0) / 500**0.5)
    assert (plain < -3).double().mean() > 3 * 0.00135
    assert (z < -3).double().mean() < 2 * 0.00135
    assert (z > 3).double().mean() < 2 * 0.00135
    assert skew.mean() == pytest.approx(2.9 / 500**0.5, rel=0.2)


def test_equal_weights_are_compared_to_nine_digits():
    ones = torch.ones(100, 1, dtype=torch.float64)
    assert mean_scores(ones * (1 + 1e-12), ones[0])[0].abs() < 0.1
    assert mean_scores(ones * (1 + 1e-6), ones[0])[0] > 100


# --- one trainer ----------------------------------------------------------------------------------------------------

SMALL = MaskedWorld(2, 2, seed=1, alpha=0.5)
SHORT = {"steps": 30, "batch": 64, "learning_rate": 0.1, "clip": 10.0}


def test_the_numbers_of_a_trainer_are_those_of_the_world():
    tilt, method = trainable_tilt(SMALL, sampler=Ancestral(), steps=2), DRAKES(**SHORT, save_memory=False)
    row = measure_trainer(method, SMALL, tilt=tilt, names=("a", "b", "c"))
    again = method.fit(tilt, generator=generator_of(0, "a", "b", "c"))
    law = SMALL.base_law(again).detach()
    assert row.gap == pytest.approx(SMALL.gap(again, tilt), abs=1e-12)
    assert row.tv == pytest.approx(total_variation(law, SMALL.tilted), abs=1e-12)
    assert row.reward == pytest.approx(float(law @ SMALL.rewards), abs=1e-10)
    assert row.kl == pytest.approx(float(SMALL._path_kl(again, tilt, None).detach()), abs=1e-10)
    bound = tilt.alpha * SMALL.log_z_of(tilt.diffusion)
    assert row.gap == pytest.approx(bound - row.reward + tilt.alpha * row.kl, abs=1e-10)
    assert 0 < row.floor < row.gap < row.before
    assert (row.steps, row.batch, row.training_calls) == (30, 64, 30 * 64)
    assert row.training_rows == 30 * 64 * 2 * 2  # two steps, by the model and by its reference


def test_exact_ascent_has_no_gap_where_a_model_can_be_p_star(capsys):
    row = measure_trainer(ExactAscent(steps=120, world=SMALL), SMALL)
    assert row.gap < 1e-4
    assert row.floor == row.gap
    assert row.tv < 0.01
    show([row, measure(Doob(), WORLD, draws=500)])
    said = capsys.readouterr().out
    assert "ExactAscent" in said
    assert "Doob" in said


def test_a_trainer_of_ones_own_is_measured_and_refused_as_any():
    with pytest.raises(ValueError, match="AlignProp"):
        measure_trainer(DRAKES(), MixtureWorld(1, steps=4))
    row = measure_trainer(tuning.AlignProp(**SHORT | {"learning_rate": 0.01}), MixtureWorld(1, steps=4), floor=0.0)
    assert row.gap < row.before
    assert row.excess == row.gap


# --- gradients --------------------------------------------------------------------------------------------------------


def test_sizes_of_biases_are_freed_of_noise(generator):
    """Over 400 repetitions the square is right on average, where that of the mean's error is three times too large."""
    exact = torch.full((50,), 0.2, dtype=torch.float64)
    shift = torch.zeros(50, dtype=torch.float64)
    shift[0] = 0.3
    noise = torch.randn(400, 20, 50, dtype=torch.float64, generator=generator(0)) / 4
    found = [relative_bias(exact + shift + rows, exact) for rows in noise]
    sizes, errors = torch.tensor(found, dtype=torch.float64).T
    true = 0.3 / float(exact.norm())
    assert float((sizes**2).mean().sqrt()) == pytest.approx(true, rel=0.02)
    assert float(sizes.std()) == pytest.approx(float(errors.mean()), rel=0.15)
    nothing = torch.tensor([relative_bias(exact + rows, exact) for rows in noise], dtype=torch.float64)
    assert float((nothing[:, 0] < 2 * nothing[:, 1]).double().mean()) > 0.9


def test_students_t_becomes_normal():
    """At the upper 2.5 %, .05 % and .005 % points of tables."""
    for t, df, z in ((2.2281, 10, 1.9600), (4.5869, 10, 3.2905), (3.6460, 30, 3.2905), (4.4824, 30, 3.8906)):
        assert float(_normal(torch.tensor(-t, dtype=torch.float64), df)) == pytest.approx(-z, abs=1e-2)


@dataclass(frozen=True)
class Greedy(DRAKES):
    """DRAKES that counts 0.8 of the divergence."""

    def loss(self, tilt, roles, batch, generator, progress):
        return super().loss(replace(tilt, alpha=0.8 * tilt.alpha), roles, batch, generator, progress)


def test_unbiased_gradients_pass_and_broken_ones_are_caught():
    options = {"steps": 2, "sampler": Ancestral(), "unbiased": True}
    rows = [
        measure_bias(method, SMALL, **options, batches=batches)
        for method, batches in (
            (DRAKES(batch=2000, estimator=Reinforce()), 32),
            (PolicyGradient(batch=2000), 32),
            (Greedy(batch=2000, estimator=Reinforce()), 32),
            (DRAKES(batch=8, estimator=Reinforce()), 8),
        )
    ]
    assert [row.outcome for row in rows] == ["pass", "pass", "fail", "underpowered"]
    assert rows[0].bias < 2 * rows[0].error + 0.01
    assert rows[2].bias > 5 * rows[2].error
    relaxed = measure_bias(DRAKES(batch=2000), SMALL, steps=2, sampler=Ancestral(), batches=16)
    assert relaxed.outcome is None
    assert relaxed.bias > 3 * relaxed.error
    assert 0.5 < relaxed.cosine < 0.999


# --- the registries -------------------------------------------------------------------------------------------------


def test_every_method_of_the_library_is_run():
    classes = {getattr(steering, name) for name in steering.__all__}
    library = {c for c in classes if isinstance(c, type) and issubclass(c, steering.Steering)} - {steering.Steering}
    assert {type(method.build(4)) for method in METHODS.values()} == library


@pytest.mark.parametrize("name", sorted(set(WORLDS) - {"tfbind8", "gb1"}))
def test_every_world_serves_every_method(name):
    world = WORLDS[name](0, None)
    assert not torch.equal(world.p, WORLDS[name](1, None).p)
    run = list(cases(world, tuple(METHODS), (2,)))
    assert len(run) > 12
    for case in run:
        case.method.check(tilt_of(world, VALUES[case.value](world)))


def test_every_trainer_of_the_library_is_run_where_it_can_be():
    library = {c for c in vars(tuning).values() if isinstance(c, type) and issubclass(c, Tuning)}
    run = list(courses(tuple(GROUNDS), tuple(TRAINERS), quick=False, few=False))
    assert {type(course.method) for course in run} >= library - {Tuning, tuning.RewardBackprop} - LATER
    for course in run:
        world, tilt = GROUNDS[course.world].make()
        course.method.check(tilt)
        assert course.limit is None or TRAINERS[course.key].aims
        assert world.gap(tilt.diffusion, tilt) > 0.05
    few = {course.names for course in courses(tuple(GROUNDS), tuple(TRAINERS), quick=True, few=True)}
    assert few < {course.names for course in run}


LATER = {tuning.CTRL, tuning.ClassifierFree}  # they add a condition to the model, of which J says nothing yet


def test_the_first_order_of_a_multilinear_value_misses_nothing():
    tilt = tilt_of(WORLD, VALUES["multilinear"](WORLD))
    assert total_variation(WORLD.law(Doob("first-order"), tilt), WORLD.tilted) < 1e-6  # relaxed tokens are float32


# --- the command ----------------------------------------------------------------------------------------------------


def run(folder, *arguments):
    """Exit code and verify.json of a run in the folder, None where it wrote none."""
    code = main(["--fast", "--draws", "1500", "--out", str(folder), *arguments])
    found = sorted(folder.glob("*/verify.json"))
    return code, json.loads(found[-1].read_text()) if found else None


def without_seconds(content, kind="rows"):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in content[kind]]


def test_what_is_asked_for_is_run_and_written(tmp_path, capsys):
    code, content = run(tmp_path, "--method", "svdd", "--method", "doob", "--world", "masked")
    said = capsys.readouterr().out
    assert code == 0
    assert {(row["world"], row["method"]) for row in content["rows"]} == {("masked", "svdd"), ("masked", "doob")}
    assert [row["budget"] for row in content["rows"] if row["value"] == "exact"] == [4, 16, None]
    assert {point["budget"] for point in content["points"]} == {1, 64}
    assert content["settings"]["methods"] == ["svdd", "doob"]
    assert "Right code fails any of them with probability 0.0001" in said
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"verify.json", "verify.csv", "verify.png", "report.html"}
    with (folder / "verify.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(content["rows"]) + len(content["points"])
    assert float(rows[0]["tv"]) == content["rows"][0]["tv"]
    assert (folder / "report.html").read_text().count("<tr>") == len(content["rows"]) + 1


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    arguments = ("--world", "masked", "--method", "twisted_smc", "--method", "importance")
    first, again = (run(tmp_path / name, *arguments)[1] for name in ("a", "b"))
    assert without_seconds(first) == without_seconds(again)
    assert first["points"] == again["points"]
    alone = run(tmp_path / "c", "--world", "masked", "--method", "importance")[1]
    assert without_seconds(alone) == [row for row in without_seconds(first) if row["method"] == "importance"]
    other = run(tmp_path / "d", *arguments, "seed=1")[1]
    assert other["settings"]["seed"] == 1
    assert all(a["reward_true"] != b["reward_true"] for a, b in zip(first["rows"], other["rows"], strict=True))


def test_a_broken_method_makes_the_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "svdd", Method("SVDD", Omitted, ("exact",)))
    code, content = run(tmp_path, "method=svdd", "world=masked")
    assert code == 1
    assert content["failed"] == 2
    assert all(row["failed"] for row in content["rows"])
    assert "masked: svdd, exact 16" in capsys.readouterr().out


@pytest.fixture
def small_grounds(monkeypatch):
    """The two grounds of `--fast` on a world of four sequences, and three variants of DRAKES."""
    for name in ("train-masked", "train-parallel"):
        monkeypatch.setitem(GROUNDS, name, replace(GROUNDS[name], build=lambda: SMALL))
    kept = {name: TRAINERS["drakes"].variants[name] for name in ("temperature 1", "temperature .3", "REINFORCE")}
    monkeypatch.setitem(TRAINERS, "drakes", replace(TRAINERS["drakes"], variants=kept))
    monkeypatch.setitem(FAST, "batches", 8)


def test_trainers_are_run_and_written(tmp_path, capsys, small_grounds):
    code, content = run(tmp_path, "method=exact", "method=rwr", "method=doob", "world=train-masked", "world=masked")
    said = capsys.readouterr().out
    assert code == 0
    assert [(row["world"], row["method"]) for row in content["trained"]] == [
        ("train-masked", "exact"),
        ("train-masked", "rwr"),
    ]
    assert {row["world"] for row in content["rows"]} == {"masked"}
    assert [claim["outcome"] for claim in content["claims"]] == ["pass", "pass"]
    assert "2 claims about trainers; 0 failed" in said
    assert "J = E[r] - alpha KL(path)" in " ".join(said.split())
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} >= {"verify.png", "trainers.png"}
    with (folder / "verify.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert float(rows[-1]["gap"]) == content["trained"][-1]["gap"]
    assert rows[-1]["law"] == rows[0]["gap"] == ""
    assert "RWR from the reference ends at most 0.02 above the floor" in (folder / "report.html").read_text()


def test_the_same_seed_trains_the_same(tmp_path, small_grounds, monkeypatch):
    monkeypatch.setitem(QUICK, "steps", 15)
    arguments = ("method=drakes,rwr", "world=train-parallel,train-masked")
    first, again = (run(tmp_path / name, *arguments)[1] for name in ("a", "b"))
    assert len(first["gradients"]) == 4
    assert first["gradients"] == again["gradients"]
    assert first["claims"] == again["claims"]
    assert without_seconds(first, "trained") == without_seconds(again, "trained")
    alone = run(tmp_path / "c", "method=rwr", "world=train-masked")[1]
    assert without_seconds(alone, "trained") == [r for r in without_seconds(first, "trained") if r["method"] == "rwr"]
    other = run(tmp_path / "d", "method=rwr", "world=train-masked", "seed=1")[1]
    assert other["trained"][0]["gap"] != alone["trained"][0]["gap"]
    sizes = {row["variant"]: row["bias"] for row in first["gradients"] if row["world"] == "train-parallel"}
    assert sizes["temperature .3"] < sizes["temperature 1"]
    found = {(claim["world"], claim["text"]): claim["outcome"] for claim in first["claims"]}
    text = "DRAKES's gradient has less bias with temperature .3 than with temperature 1"
    assert found["train-parallel", text] == "pass"
    assert found["train-masked", "The gradient of DRAKES, REINFORCE has no bias"] != "fail"


@pytest.mark.slow
def test_trainers_reach_what_is_claimed():
    """Exact ascent and REINFORCE 1e-3, DRAKES .01 above the floor; the bias falls with temperature and with longer backprop."""
    plan = Plan((), (), grounds=("train-masked", "train-parallel"), trainers=("exact", "drakes"), seed=5)
    result = run_plan(plan)
    assert len(result.claims) == 12
    assert {claim.outcome for claim in result.claims} == {"pass"}
    gaps = {(row.world, row.method, row.variant): row for row in result.trained}
    assert gaps["train-masked", "exact", ""].gap < 1e-4
    assert gaps["train-masked", "drakes", "REINFORCE"].gap < 1e-3
    assert gaps["train-parallel", "drakes", "temperature .3"].excess < 0.01


def test_a_trainer_that_stops_short_makes_the_exit_code_1(tmp_path, monkeypatch, capsys):
    lazy = Variant(
        lambda **given: RWR(**given | {"learning_rate": 1e-4}), ("train-masked",), None, {"train-masked": 0.02}
    )
    monkeypatch.setitem(TRAINERS, "rwr", Trainer("RWR", True, {"": lazy}))
    code, content = run(tmp_path, "method=rwr", "world=train-masked")
    assert code == 1
    assert content["failed"] == 1
    assert "train-masked: RWR ends at most 0.02 above the floor" in capsys.readouterr().out


def test_without_fabric_trainers_are_left_out_and_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tiltflow.verify.trainers.find_spec", lambda name: None)
    code, content = run(tmp_path, "method=rwr,doob", "world=masked,train-masked")
    assert code == 0
    assert content["trained"] == []
    assert "trainers is left out" not in (said := " ".join(capsys.readouterr().out.split()))
    assert "trainers are left out: Training needs lightning-fabric: pip install 'tiltflow[tune]'." in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["method=drakes", "world=masked"], "none of the methods is run on these worlds"),
        (["method=svdd", "world=train-masked"], "none of the methods is run on these worlds"),
        (["method=drake"], "did you mean drakes?"),
        (["--method", "svd"], "did you mean svdd? (there are: best_of_n, importance"),
        (["world=mask"], "there are: masked"),
        (["--data-dir", "/nowhere"], "/nowhere is not a folder"),
        (["--draws", "0"], "expected a positive number"),
        (["--seed", "x"], "invalid int value"),
        (["nonsense"], "unrecognized arguments: nonsense"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_landscapes_without_data_are_left_out_and_named(tmp_path, capsys):
    code, content = run(tmp_path, "method=doob", "world=masked,tfbind8")
    assert code == 0
    assert "tfbind8 is left out" in capsys.readouterr().out
    assert list(content["settings"]["absent"]) == ["tfbind8"]
    assert main(["world=gb1", "--out", str(tmp_path)]) == 1
    assert "No world is left" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tfbind8", "gb1"])
def test_on_measured_landscapes_doob_is_p_star(name, data_dir):
    world = WORLDS[name](0, data_dir)
    row = measure(Doob(), world, exact=True, draws=200_000, work=1e12)
    assert (row.claim, row.law, row.weights) == ("pass", "pass", "pass")


def test_help(capsys):
    from tiltflow.cli import main as tiltflow

    assert tiltflow(["verify", "--help"]) == 0
    said = "".join(capsys.readouterr().out.split())
    assert all(name in said for name in (*METHODS, *WORLDS, *TRAINERS, *GROUNDS, "--fast", "--data-dir", "exitcode"))
