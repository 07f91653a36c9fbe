"""`tiltflow verify` and `tiltflow.verify.measure`: right methods pass, broken ones are caught, and the files say the same."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace

import pytest
import torch
from tiltflow.core import SMC, SVDD, BestOfN, Doob, ImportanceResampling, PosteriorMean, steering
from tiltflow.core.worlds import MaskedWorld, MixtureWorld, UniformWorld, relative_entropy, total_variation
from tiltflow.core.worlds.statistics import mean_scores
from tiltflow.verify import METHODS, WORLDS, measure, refer, report
from tiltflow.verify.cases import VALUES, Method, cases
from tiltflow.verify.command import main
from tiltflow.verify.measure import tilt_of
from tiltflow.verify.reference import _measured

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


def test_the_first_order_of_a_multilinear_value_misses_nothing():
    tilt = tilt_of(WORLD, VALUES["multilinear"](WORLD))
    assert total_variation(WORLD.law(Doob("first-order"), tilt), WORLD.tilted) < 1e-6  # relaxed tokens are float32


# --- the command ----------------------------------------------------------------------------------------------------


def run(folder, *arguments):
    """Exit code and verify.json of a run in the folder, None where it wrote none."""
    code = main(["--fast", "--draws", "1500", "--out", str(folder), *arguments])
    found = sorted(folder.glob("*/verify.json"))
    return code, json.loads(found[-1].read_text()) if found else None


def without_seconds(content):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in content["rows"]]


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
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
    said = capsys.readouterr().out
    assert all(name in said for name in (*METHODS, *WORLDS, "--fast", "--data-dir", "exit code"))
