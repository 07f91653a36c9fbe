"""The training loop: rounds, micro-batches, averages, refusals, observers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion, Subs, Tilt
from tiltflow.core.denoiser import innermost
from tiltflow.core.processes import Masked
from tiltflow.core.training import warm
from tiltflow.core.tuning import (
    DRAKES,
    GRPO,
    REFL,
    AlignProp,
    HeldOut,
    KeepBest,
    KLBudget,
    Loss,
    Progress,
    Reinforce,
    Tuning,
    fit,
    train,
)

from .tables import TableReward, masked

METHOD = DRAKES(steps=6, batch=16, learning_rate=0.05, clip=10.0, estimator=Reinforce())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(model: Diffusion) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.denoiser.parameters()])


@dataclass(frozen=True)
class Counting(Tuning):
    """Records how it is called, and pulls every weight down."""

    updates: ClassVar[int] = 3
    log: tuple[list, ...] = ([],)

    @property
    def averages(self):
        return {"old": lambda step: 0.0 if step % 3 == 0 else 1.0}

    def collect(self, tilt, roles, generator):
        assert not torch.is_grad_enabled()
        self.log[0].append(("collect", float(torch.rand((), generator=generator))))
        return len(self.log[0])

    def loss(self, tilt, roles, batch, generator, progress):
        behind = float((weights(roles.theta) - weights(roles["old"])).abs().max())
        self.log[0].append(("loss", float(torch.rand((), generator=generator)), batch, progress, behind))
        value = sum(p.sum() for p in roles.theta.denoiser.parameters())
        return Loss(value, {"behind": behind})


def test_the_learning_rate_rises_and_falls_by_a_half_cosine():
    method = Counting(steps=4, learning_rate=2.0, warmup=3, final_rate=0.1)  # 12 optimiser steps
    rates = [method.rate(step) for step in range(12)]
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2])
    assert rates[3:] == pytest.approx([0.2 + 0.9 * (1 + math.cos(math.pi * k / 8)) for k in range(9)])
    assert rates[-1] == pytest.approx(0.2)
    constant = Counting(steps=4, learning_rate=2.0)
    assert {constant.rate(step) for step in range(12)} == {2.0}


@pytest.mark.parametrize("settings", [{"final_rate": 1.5}, {"final_rate": -0.1}, {"warmup": -1}])
def test_rates_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="final_rate="):
        Counting(**settings)


def test_a_round_is_collected_once_and_learnt_from_several_times():
    _, tilt = masked()
    method = Counting(steps=2, batch=4, learning_rate=0.01, log=([],))
    rows = list(train(method, tilt, seed=1))
    log = method.log[0]
    assert [entry[0] for entry in log] == ["collect", "loss", "loss", "loss"] * 2
    assert len({entry[1] for entry in log}) == 8  # every use has random numbers of its own
    assert [entry[2] for entry in log if entry[0] == "loss"] == [1, 1, 1, 5, 5, 5]
    assert [entry[3] for entry in log if entry[0] == "loss"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    # AdamW on a constant gradient moves by the learning rate; "old" catches up after every third step.
    assert [row.facts["behind"] for row in rows] == pytest.approx([0, 0.01, 0.02] * 2, abs=1e-6)
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_larger_accumulation_is_the_mean_of_its_micro_batches():
    """One step of plain gradient descent could be compared exactly; of AdamW, its first step is sign of the gradient."""
    _, tilt = masked()
    rows = list(train(replace(METHOD, steps=1, accumulate=3), tilt, seed=3))
    again = list(train(replace(METHOD, steps=1, accumulate=3), tilt, seed=3))
    assert rows[0].facts == again[0].facts
    assert torch.equal(weights(rows[0].model), weights(again[0].model))
    single = next(train(replace(METHOD, steps=1), tilt, seed=3))
    assert single.facts["reward"] != rows[0].facts["reward"]


def test_warm_up_and_averages():
    _, tilt = masked()
    method = Counting(steps=4, batch=4, learning_rate=0.1, warmup=4, average=0.5, log=([],))
    start = weights(tilt.diffusion)
    kept, theta = start.clone(), start.clone()
    for k in range(12):
        theta = theta - 0.1 * min(1, (k + 1) / 4)
        kept = kept + (1 - warm(0.5, k + 1)) * (theta - kept)
    tuned = method.fit(tilt, generator=seeded())
    assert torch.allclose(weights(tuned), kept, atol=1e-6)


def test_the_same_seed_gives_the_same_model_to_the_last_bit():
    _, tilt = masked()
    one, two, other = (METHOD.fit(tilt, generator=seeded(k)) for k in (0, 0, 1))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


def test_nothing_depends_on_or_disturbs_the_global_generator():
    _, tilt = masked()
    torch.manual_seed(0)
    one = METHOD.fit(tilt, generator=seeded())
    state = torch.get_rng_state()
    two = METHOD.fit(tilt, generator=seeded())
    assert torch.equal(weights(one), weights(two))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"batch": 0}, {"accumulate": 1.5}, {"learning_rate": 0.0}, {"clip": -1.0}, {"average": 1.0}]
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Tuning(**bad)


@dataclass(frozen=True)
class Broken(Tuning):
    """A loss that is infinite, or a gradient that is not a number."""

    what: str = "loss"

    def loss(self, tilt, roles, batch, generator, progress):
        total = sum(p.sum() for p in roles.theta.denoiser.parameters())
        return Loss(total / 0 if self.what == "loss" else (total * 0).sqrt())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run(what):
    with pytest.raises(FloatingPointError, match=f"{what} is .* at step 0"):
        Broken(steps=2, batch=8, what=what).fit(masked()[1], generator=seeded())


class Conditional(torch.nn.Module):
    """Logits that depend on a condition."""

    time_invariant = True

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(2, 3, 3))

    def forward(self, x, t, cond):
        return self.table[cond["label"]]


def conditional(rows: int) -> Tilt:
    model = Diffusion(Masked(3), Denoiser(Conditional(), Subs(3)), (3,), steps=3)
    cond = {"label": torch.arange(rows) % 2}
    return Tilt(model, lambda x: (x == 0).double().mean(1), 0.1, cond=cond)


def test_conditions_serve_equal_blocks_of_a_micro_batch():
    """Condition 0 alone is trained where only it occurs; both are where both do."""
    method = DRAKES(steps=20, batch=32, learning_rate=0.1, clip=10.0, estimator=Reinforce())
    for rows in (1, 2):
        tuned = method.fit(conditional(rows), generator=seeded())
        table = innermost(tuned.denoiser).network.table
        moved = (table.abs().amax((1, 2)) > 0.5).tolist()
        assert moved == [True, rows == 2]


def test_a_condition_that_does_not_fit_the_batch_is_refused():
    with pytest.raises(ValueError, match="condition"):
        DRAKES(steps=1, batch=8, estimator=Reinforce()).fit(conditional(3))
    with pytest.raises(ValueError, match="condition"):
        Counting(steps=1, batch=8, log=([],)).fit(conditional(3))


def test_too_few_micro_batches_for_the_processes_are_refused():
    class Two:
        world_size = 2

    _, tilt = masked()
    with pytest.raises(ValueError, match="cannot be shared among 2"):
        fit(replace(METHOD, accumulate=3), tilt, fabric=Two())


@dataclass(frozen=True)
class Asking(Counting):
    """Asks for roles, and offers averages."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: tuple[str, ...] = ()
    samples: str = "theta"

    @property
    def averages(self):
        return dict.fromkeys(self.offers, lambda step: 0.0)


@dataclass(frozen=True)
class NeedsOld(Asking):
    needs: ClassVar[tuple[str, ...]] = ("ref", "old")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Tuning(steps=1), "Tuning has no loss"),
        (NeedsOld(log=([],)), "NeedsOld needs the role 'old', and there are only theta, ref. Give its decay"),
        (NeedsOld(log=([],), average=0.5, offers=("ema",)), "there are only theta, ref, ema, kept"),
        (Asking(log=([],), samples="old"), "needs the role 'old'"),
        (Asking(log=([],), offers=("theta",)), "calls an average theta, which is taken"),
        (Asking(log=([],), offers=("kept",), average=0.5), "calls an average kept, which is taken"),
    ],
)
def test_an_objective_without_what_it_needs_is_refused_when_the_run_is_built(method, message):
    with pytest.raises(ValueError, match=message):
        method.fit(masked()[1], generator=seeded())
    assert not getattr(method, "log", ([],))[0]
    NeedsOld(steps=1, log=([],), offers=("old",)).fit(masked()[1], generator=seeded())


def pretended(strategy: str, tensor_parallel: int = 1, precision: str = "32-true"):
    """A Fabric of two processes, as far as refusals look at it."""
    mesh = {"tensor_parallel": SimpleNamespace(size=lambda: tensor_parallel)}
    kind = type(strategy, (), {"precision": SimpleNamespace(precision=precision), "device_mesh": mesh})
    return SimpleNamespace(world_size=2, strategy=kind(), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("fabric", "method", "message"),
    [
        (pretended("FSDPStrategy"), METHOD, "strategy is FSDPStrategy; expected a single device, DDPStrategy or"),
        (pretended("DeepSpeedStrategy"), METHOD, "strategy is DeepSpeedStrategy"),
        (pretended("ModelParallelStrategy", 2), METHOD, "tensor_parallel_size is 2; expected 1"),
        (pretended("DDPStrategy", precision="16-mixed"), METHOD, "precision is '16-mixed'"),
        (pretended("ModelParallelStrategy", precision="bf16-true"), METHOD, "weights are sharded: .* Use 'bf16-mixed'"),
        (pretended("ModelParallelStrategy"), GRPO(batch=8, stride=2), "GRPO draws anew .* Use DDP, or stride=1"),
    ],
)
def test_ways_to_compute_that_would_not_be_right_are_refused(fabric, method, message):
    with pytest.raises(ValueError, match=message):
        fit(replace(method, accumulate=2), masked()[1], fabric=fabric)


def test_methods_say_whether_micro_batches_ask_equally_often():
    assert METHOD.even
    assert GRPO().even
    assert not GRPO(stride=2).even
    assert not AlignProp(random_last=True).even
    assert not REFL().even


def test_progress_tells_facts_cost_and_curve():
    _, tilt = masked()
    rows: list[Progress] = []
    METHOD.fit(tilt, generator=seeded(), observe=[lambda progress: rows.append(progress) and None])
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "gradient", "reward", "kl", "objective"} <= rows[0].facts.keys()
    assert rows[0].facts["kl"] == pytest.approx(0, abs=1e-12)
    assert [row["step"] for row in rows[-1].curve] == [1, 2, 3, 4, 5, 6]
    assert rows[-1].curve[-1]["reward"] == rows[-1].facts["reward"]
    costs = [row.cost for row in rows]
    assert costs[0].reward_calls <= 16
    assert costs[0].backward_rows > 0
    assert costs[5].forward_rows > 3 * costs[0].forward_rows


def test_a_true_answer_of_an_observer_ends_the_run(tmp_path):
    """For good: with its checkpoint the run does not go on, and gives the same model."""
    _, tilt = masked()
    calls = []
    stop = [lambda progress: calls.append(progress.step) or progress.step == 2]
    short = METHOD.fit(tilt, generator=seeded(), observe=stop, checkpoint=tmp_path / "c")
    assert calls == [1, 2]
    again = METHOD.fit(tilt, generator=seeded(), observe=stop, checkpoint=tmp_path / "c")
    assert calls == [1, 2]
    assert torch.equal(weights(short), weights(again))
    assert torch.equal(weights(short), weights(replace(METHOD, steps=2).fit(tilt, generator=seeded())))


def test_the_budget_of_divergence():
    _, tilt = masked()
    method = replace(METHOD, steps=200)
    rows: list[Progress] = []
    method.fit(tilt, generator=seeded(), observe=[rows.append, KLBudget(0.3, window=5)])
    spent = [row["kl"] for row in rows[-1].curve]
    assert 5 < len(spent) < 200
    assert sum(spent[-5:]) / 5 > 0.3 >= sum(spent[-6:-1]) / 5


def test_the_best_model_is_kept_and_an_old_best_ends_the_run(tmp_path):
    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    _, tilt = masked()
    seen = {}
    keep = KeepBest(lambda model: next(scores), every=2, patience=4, path=tmp_path / "best")
    watch = [lambda progress: seen.update({progress.step: weights(progress.model).clone()}), keep]
    replace(METHOD, steps=20).fit(tilt, generator=seeded(), observe=watch)
    assert max(seen) == 8
    assert (keep.step, keep.best) == (4, 3.0)
    assert torch.equal(weights(keep.model), seen[4])


def test_an_interrupted_run_recalls_its_best(tmp_path):
    """A run that goes on from its checkpoint knows the best of what came before, and ends as if uninterrupted."""
    _, tilt = masked()
    method = replace(METHOD, steps=12)
    ends = []
    for stop in (99, 7):
        name = tmp_path / str(stop)
        score = HeldOut(TableReward(masked()[0]), n=64)
        options = {"checkpoint": name / "c", "save_every": 2}
        keep = KeepBest(score, every=2, path=name / "best")

        def interrupt(progress, stop=stop):
            if progress.step == stop:
                raise KeyboardInterrupt

        try:
            method.fit(tilt, generator=seeded(), observe=[keep, interrupt], **options)
        except KeyboardInterrupt:
            keep = KeepBest(score, every=2, path=name / "best")
            method.fit(tilt, generator=seeded(), observe=[keep], **options)
        ends.append((keep.best, keep.step, weights(keep.model)))
    assert ends[0][:2] == ends[1][:2]
    assert torch.equal(ends[0][2], ends[1][2])
