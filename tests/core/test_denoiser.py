"""From a network's output to the clean estimate, and what is spent on it."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.core import Denoiser, Meter, Subs
from tiltflow.core.denoiser import Known, Restricted, denoise_once
from tiltflow.core.states import match_rows, one_hot, unique_rows

K, L = 3, 4
MASK = K


class Network(torch.nn.Module):
    """Logits from a table over (token, site), plus what the batch was; remembers the rows it was asked for."""

    def __init__(self, channels=K, time_invariant=True, dtype=torch.float32):
        super().__init__()
        table = torch.randn(K + 1, L, channels, generator=torch.Generator().manual_seed(0)).to(dtype)
        self.table = torch.nn.Parameter(table)
        self.time_invariant = time_invariant
        self.asked = []

    def forward(self, x, t, cond=None):
        self.asked.append((x.clone(), t.clone(), cond))
        logits = self.table[x, torch.arange(L)].cumsum(1)
        return (
            logits
            + (0 if self.time_invariant else t.reshape(-1, 1, 1))
            + (0 if cond is None else cond["shift"].unsqueeze(-1))
        )

    @property
    def rows(self):
        return sum(len(x) for x, _, _ in self.asked)


def denoiser(**kwargs):
    options = {name: kwargs.pop(name) for name in ("max_rows",) if name in kwargs}
    return Denoiser(Network(**kwargs), Subs(K), **options)


STATES = torch.tensor([[0, 1, 2, 1], [3, 3, 3, 3], [0, 3, 2, 3], [2, 2, 2, 2], [3, 1, 1, 1], [0, 3, 2, 3]])


# --- SUBS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [K, K + 1])
def test_masked_sites_are_normalised_and_tokens_are_held(channels, dtype):
    network = Network(channels, dtype=dtype)
    clean = Denoiser(network, Subs(K))(STATES, 0.5)
    assert clean.dtype == dtype
    masked = STATES == MASK
    expected = network(STATES, torch.zeros(6))[..., :K].log_softmax(-1)
    torch.testing.assert_close(clean[masked], expected[masked])
    assert torch.equal(clean[~masked].exp(), one_hot(STATES[~masked], K, dtype))


def test_the_logits_of_a_caller_are_left_alone():
    logits = torch.randn(6, L, K + 1, generator=torch.Generator().manual_seed(0))
    kept = logits.clone()
    x = torch.full((6, L), MASK)
    network = Denoiser(lambda x, t: logits[: len(x)], Subs(K))
    known = Known(x, network(x, 0.5))
    before = known.clean.clone()
    denoise_once(network, STATES, 0.4, known=known)
    Restricted(network, torch.ones(L, K, dtype=torch.bool))(x, 0.5)
    network(x, 0.5).clamp_(max=-1)
    assert torch.equal(logits, kept)
    assert torch.equal(known.clean, before)


@pytest.mark.parametrize("shape", [(6, K, L), (6, L, K + 2), (6, L, K - 1), (5, L, K), (6, L), (6, L, 1, K)])
def test_logits_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"returned .*expected logits \[6, 4, 3\]"):
        Denoiser(lambda x, t: torch.zeros(shape), Subs(K))(torch.full((6, L), MASK), 0.5)


@pytest.mark.parametrize("output", [None, (torch.zeros(6, L, K),), {"logits": torch.zeros(6, L, K)}])
def test_what_is_no_tensor_is_refused(output):
    with pytest.raises(TypeError, match=f"returned a {type(output).__name__}"):
        Denoiser(lambda x, t: output, Subs(K))(torch.full((6, L), MASK), 0.5)


def test_bad_arguments():
    with pytest.raises(TypeError, match="network is a str"):
        Denoiser("net", Subs(K))
    with pytest.raises(ValueError, match="max_rows is 0"):
        denoiser(max_rows=0)
    with pytest.raises(ValueError, match="Time has shape"):
        denoiser()(STATES, torch.zeros(2))


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_without_a_mask_skip_the_network():
    model = denoiser()
    with Meter() as meter:
        whole = model(STATES, 0.5)
    assert meter.cost.forward_rows == model.network.rows == 4
    assert torch.equal(whole[[0, 3]].exp(), one_hot(STATES[[0, 3]], K))
    with Meter() as meter:
        model(STATES[[0, 3]], 0.5)
    assert meter.cost.forward_rows == 0


def test_time_reaches_the_network_row_by_row():
    model = denoiser(time_invariant=False)
    model(STATES, torch.arange(6) / 10)
    _, t, _ = model.network.asked[0]
    torch.testing.assert_close(t, torch.tensor([0.1, 0.2, 0.4, 0.5]))
    model(STATES[:2], 0.25)
    assert model.network.asked[1][1].tolist() == [0.25]


@pytest.mark.parametrize("max_rows", [1, 2, 3, 100])
def test_splitting_a_batch_changes_nothing(max_rows):
    split, whole = denoiser(max_rows=max_rows), denoiser()
    cond = {"shift": torch.arange(6.0).unsqueeze(-1)}
    for condition in (None, cond):
        torch.testing.assert_close(split(STATES, 0.5, condition), whole(STATES, 0.5, condition))
    assert max(len(x) for x, _, _ in split.network.asked) == min(max_rows, 4)
    assert split.network.rows == whole.network.rows


def test_conditions_follow_their_rows():
    model = denoiser(max_rows=2)
    model(STATES, 0.5, {"shift": torch.tensor([[10.0], [20.0]])})  # two conditions, three rows each
    shifts = torch.cat([cond["shift"] for _, _, cond in model.network.asked]).flatten()
    assert shifts.tolist() == [10, 10, 20, 20]  # rows 1, 2, 4 and 5 hold masks
    with pytest.raises(ValueError, match="must divide 6"):
        model(STATES, 0.5, {"shift": torch.zeros(4, 1)})
    assert match_rows(None, 5) is None


def test_backward_rows_are_counted_even_after_the_meter_closed():
    model = denoiser(max_rows=3)
    with Meter() as meter:
        clean = model(STATES, 0.5)
    assert meter.cost.backward_rows == 0
    clean[STATES == MASK].sum().backward()
    assert meter.cost.backward_rows == 4
    with Meter() as meter, torch.no_grad():
        model(STATES, 0.5)
    assert (meter.cost.forward_rows, meter.cost.backward_rows) == (4, 0)


def test_meters_nest_and_add_up():
    model = denoiser()
    with Meter() as outer:
        model(STATES, 0.5)
        with Meter() as inner:
            model(STATES[:2], 0.5)
    with outer:
        model(STATES[:2], 0.5)
    assert (inner.cost.forward_rows, outer.cost.forward_rows) == (1, 6)
    assert 0 < inner.cost.seconds < outer.cost.seconds
    assert (inner.cost + outer.cost).forward_rows == 7


# --- no point twice -------------------------------------------------------------------------------------------------


def test_equal_rows_are_denoised_once():
    model, plain = denoiser(), denoiser()
    clean = denoise_once(model, STATES, 0.5, distinct=True)
    torch.testing.assert_close(clean, plain(STATES, 0.5))
    assert model.network.rows == 3


@pytest.mark.parametrize(
    ("time_invariant", "t", "cond", "rows"),
    [
        (True, torch.linspace(0, 1, 6), None, 3),  # times differ, and do not matter
        (False, 0.5, None, 3),
        (False, torch.linspace(0, 1, 6), None, 4),  # times differ and matter: equal rows are different points
        (True, 0.5, {"shift": torch.arange(6.0).unsqueeze(-1)}, 4),  # conditions differ
    ],
)
def test_only_equal_points_are_merged(time_invariant, t, cond, rows):
    model, plain = denoiser(time_invariant=time_invariant), denoiser(time_invariant=time_invariant)
    torch.testing.assert_close(denoise_once(model, STATES, t, cond, distinct=True), plain(STATES, t, cond))
    assert model.network.rows == rows


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("cond", [None, {"shift": torch.arange(6.0).unsqueeze(-1)}])
def test_rows_that_did_not_change_keep_their_estimate(distinct, cond):
    model, plain = denoiser(), denoiser()
    before = torch.where(torch.rand(6, L, generator=torch.Generator().manual_seed(0)) < 0.5, MASK, STATES)
    before[[1, 2]] = STATES[[1, 2]]
    known = Known(before, plain(before, 0.9, cond))
    changed = (before != STATES).any(1) & (STATES == MASK).any(1)
    clean = denoise_once(model, STATES, 0.5, cond, known=known, distinct=distinct)
    torch.testing.assert_close(clean, plain(STATES, 0.5, cond))
    assert model.network.rows == int(changed.sum()) < 4


def test_a_time_dependent_estimate_is_never_reused():
    model = denoiser(time_invariant=False)
    known = Known(STATES, torch.zeros(6, L, K))
    clean = denoise_once(model, STATES, 0.5, known=known)
    torch.testing.assert_close(clean, denoiser(time_invariant=False)(STATES, 0.5))
    assert model.network.rows == 4


def test_nothing_changed_costs_nothing():
    model = denoiser()
    known = Known(STATES, model(STATES, 0.9))
    model.network.asked.clear()
    assert denoise_once(model, STATES, 0.5, known=known) is known.clean
    assert not model.network.asked


def test_finished_rows_mix_with_those_of_a_float64_network():
    """Rows that skip the network come in the default dtype; this used to end in an error of index_put."""
    model = denoiser(dtype=torch.float64)
    before = torch.tensor([[3, 1, 1, 1], [0, 3, 2, 3]])
    now = torch.tensor([[2, 1, 1, 1], [0, 3, 2, 3]])
    known = Known(before, model(before, 0.9))
    clean = denoise_once(model, now, 0.5, known=known)
    assert clean.dtype == torch.float64
    torch.testing.assert_close(clean.exp(), model(now, 0.5).exp())


def test_whether_time_matters_is_read_from_the_network():
    assert denoiser().time_invariant
    assert not Denoiser(lambda x, t: x, Subs(K)).time_invariant
    assert Denoiser(lambda x, t: x, Subs(K), time_invariant=True).time_invariant
    assert not Denoiser(Network(), Subs(K), time_invariant=False).time_invariant


def test_training_after_use_in_inference_mode():
    """Tables that are kept between calls must not be those of inference mode."""
    model = denoiser()
    with torch.inference_mode():
        model(STATES, 0.5)
        denoise_once(model, STATES, 0.5, distinct=True)
    model(STATES, 0.5)[STATES == MASK].sum().backward()
    assert float(model.network.table.grad.abs().sum()) > 0


def test_restricted_estimates_are_the_renormalised_ones():
    allowed = torch.tensor([[True, False, True]] * L)
    model = denoiser()
    clean = Restricted(model, allowed)(STATES[1:2], 0.5).exp()
    base = model(STATES[1:2], 0.5).exp() * allowed
    torch.testing.assert_close(clean, base / base.sum(-1, keepdim=True))
    assert Restricted(model, allowed).time_invariant


# --- distinct rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collide", [False, True])
def test_unique_rows(collide, monkeypatch):
    from tiltflow.core import states

    if collide:  # every row gets the same hash: slower, still right
        monkeypatch.setattr(states, "_hash_weights", lambda length: torch.zeros(length, dtype=torch.long))
    x = torch.randint(3, (200, 3), generator=torch.Generator().manual_seed(0))
    first, inverse = unique_rows(x)
    assert torch.equal(x[first][inverse], x)
    assert len(first) == len(x.unique(dim=0)) == 27
    assert all(int((x == x[i]).all(1).nonzero()[0]) == i for i in first.tolist())
    assert math.prod(unique_rows(x[:0])[0].shape) == 0
