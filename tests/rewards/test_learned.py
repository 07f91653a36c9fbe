"""Learned rewards: exact answers of the ridge, a network that finds a planted motif, files that refuse to lie."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiltflow.core.networks.sequence_regressor import SequenceRegressor
from tiltflow.core.storage import StorageError
from tiltflow.dna import DnaError, Pwm, encode, one_hot, reverse_complement, scan
from tiltflow.rewards.kmers import kmer_counts, kmers
from tiltflow.rewards.labelled import labelled
from tiltflow.rewards.learned import (
    CnnRegressor,
    CnnSettings,
    KmerRidge,
    Predicted,
    agreement,
    fit_cnn,
    fit_kmer_ridge,
    load,
    pearson,
    spearman,
)

SMALL = CnnSettings(epochs=12, batch=32, scanners=8, kernel=7, channels=8, hidden=8, learning_rate=5e-3, dropout=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, (rows, length), generator=generator(seed))


def random_network(**settings: object) -> SequenceRegressor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return SequenceRegressor(4, 20, **{"heads": 2, "scanners": 6, "kernel": 5, "channels": 8, **settings}).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cnn() -> CnnRegressor:
    """Fitted to the number of TATA on either strand (head "sites") and its negative on half of the rows ("fewer")."""
    tokens = random_tokens(600, 24)
    sites = (kmers(tokens, 4) == kmers(encode("TATA")[None], 4)).sum(1).double()
    labels = torch.stack([sites, torch.where(torch.arange(600) % 2 == 0, -sites, torch.nan)], 1)
    return fit_cnn(
        tokens,
        labels,
        generator=generator(),
        names=("sites", "fewer"),
        settings=SMALL,
        motifs=[Pwm.from_consensus("TATA")],
    )


@pytest.fixture(scope="module")
def ridge() -> KmerRidge:
    tokens = random_tokens(120, 12)
    labels = torch.stack([(tokens == 2).sum(1), (tokens == 0).sum(1)], 1)
    return fit_kmer_ridge(tokens, labels, (1, 2), names=("g", "a"), generator=generator(), strengths=(0.01,))


# the network


def test_scanners_are_correlations_with_flanks_on_both_strands() -> None:
    """Against `tiltflow.dna.scan` of the whole construct: its scores at the starts that centre on the sequence."""
    network = random_network(kernel=5, both_strands=True, flanks=([0, 1, 2, 3], [2, 2, 1]))
    tokens = random_tokens(3, 20)
    construct = torch.cat([torch.tensor([[2, 3]] * 3), tokens, torch.tensor([[2, 2]] * 3)], 1)
    pwms = [Pwm(f"m{i}", weight.T.double()) for i, weight in enumerate(network.scan.weight.detach())]
    expected = scan(construct, pwms)[..., :20] + network.scan.bias.detach().double()[:, None, None]  # [B, M, 2, 20]
    got = network._scan(one_hot(tokens)).detach().double()
    torch.testing.assert_close(got[..., :6], expected[:, :, 0].transpose(1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(got[..., 6:], expected[:, :, 1].transpose(1, 2), atol=1e-5, rtol=0)


def test_without_flanks_the_ends_see_nothing() -> None:
    network = random_network(kernel=5)
    tokens = random_tokens(2, 20)
    hot = torch.nn.functional.pad(one_hot(tokens), (0, 0, 2, 2))
    expected = torch.einsum("blkw,skw->bls", hot.unfold(1, 5, 1), network.scan.weight) + network.scan.bias
    torch.testing.assert_close(network._scan(one_hot(tokens)), expected)


@pytest.mark.parametrize("settings", [{"kernel": 4}, {"length": 7}])
def test_impossible_network_shapes_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="odd kernel and 8 letters"):
        SequenceRegressor(**{"vocab": 4, "length": 20, **settings})


def test_one_hot_input_is_the_token_result(cnn: CnnRegressor) -> None:
    tokens = random_tokens(300, 24, seed=1)
    assert torch.equal(cnn(tokens), cnn(one_hot(tokens)))


def test_gradient_is_the_slope_along_the_simplex(cnn: CnnRegressor) -> None:
    model = CnnRegressor(deepcopy(cnn.network).double(), cnn.mean, cnn.std, cnn.names)
    x = torch.randn(2, 24, 4, generator=generator(2), dtype=torch.float64).softmax(-1).requires_grad_()
    direction = one_hot(random_tokens(2, 24, seed=3), torch.float64) - x.detach()
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    step = 1e-6
    with torch.no_grad():
        slope = (model(x + step * direction) - model(x - step * direction))[:, 0].sum() / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_rows_do_not_depend_on_their_neighbours(cnn: CnnRegressor) -> None:
    tokens = random_tokens(131, 24, seed=4)
    whole, parts = cnn(tokens), torch.cat([cnn(part) for part in tokens.split(7)])
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    assert cnn(tokens[:0]).shape == (0, 2)


def test_network_finds_the_planted_motif(cnn: CnnRegressor) -> None:
    tokens = random_tokens(400, 24, seed=5)
    sites = (kmers(tokens, 4) == kmers(encode("TATA")[None], 4)).sum(1).double()
    predicted = cnn(tokens)
    assert (pearson(predicted[:, 0], sites) or 0) > 0.8
    assert (pearson(predicted[:, 1], -sites) or 0) > 0.8  # learned from the half of the rows that have this label
    assert abs(float(predicted[:, 0].mean() - sites.mean())) < 0.15  # in the units of the labels


def test_same_seed_same_network_and_the_global_generator_is_left_alone() -> None:
    tokens, labels = random_tokens(64, 12), np.arange(64.0)
    settings = CnnSettings(epochs=1, batch=16, scanners=4, kernel=5, channels=4, hidden=4)
    state = torch.random.get_rng_state()
    first, second = (fit_cnn(tokens, labels, generator=generator(), settings=settings) for _ in range(2))
    assert torch.equal(first(tokens), second(tokens))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first(tokens), fit_cnn(tokens, labels, generator=generator(1), settings=settings)(tokens))


def test_scale_of_the_labels_only_scales_the_predictions() -> None:
    tokens, labels = random_tokens(64, 12), torch.randn(64, generator=generator(), dtype=torch.float64)
    settings = CnnSettings(epochs=1, batch=16, scanners=4, kernel=5, channels=4, hidden=4)
    plain, scaled = (fit_cnn(tokens, y, generator=generator(), settings=settings) for y in (labels, 100 * labels + 7))
    torch.testing.assert_close(scaled(tokens), 100 * plain(tokens) + 7, atol=1e-2, rtol=1e-4)


def test_motifs_start_the_scanners_at_their_sites() -> None:
    """Before training, a scanner fires (above 0) exactly where the motif scores above 60 % of its best."""
    from tiltflow.rewards.learned import _scanner

    motif = Pwm.from_consensus("TGACTCA")
    weight, bias = _scanner(motif, 13)
    site, shuffled = encode("AAATGACTCAAAA"), encode("AAACAGATTCAAA")
    assert float((weight * one_hot(site[None])[0].T).sum()) + bias == pytest.approx(0.8, abs=1e-5)
    assert float((weight * one_hot(shuffled[None])[0].T).sum()) + bias < 0
    wide = Pwm("wide", torch.cat([torch.zeros(9, 4), 2 * torch.eye(4), torch.zeros(5, 4)]).double())
    cropped, _ = _scanner(wide, 7)
    assert float(cropped.abs().sum()) == pytest.approx(2.0)  # the informative positions are the ones kept


def test_validation_chooses_the_best_epoch() -> None:
    losses: list[float] = []
    tokens, labels = random_tokens(60, 12), torch.randn(60, generator=generator())
    fit_cnn(tokens, labels, generator=generator(), settings=SMALL, on_epoch=lambda _, loss: losses.append(loss))
    assert len(losses) == SMALL.epochs
    assert all(np.isfinite(losses))


# the ridge


def test_kmers_are_counted_on_every_window() -> None:
    tokens = random_tokens(5, 9)
    counts = kmer_counts(tokens, (1, 2))
    words = ["".join(word) for k in (1, 2) for word in itertools.product("ACGT", repeat=k)]
    for row, text in enumerate("".join("ACGT"[t] for t in line) for line in tokens.tolist()):
        expected = [sum(text[i : i + len(w)] == w for i in range(len(text))) for w in words]
        assert counts[row].tolist() == expected


@pytest.mark.parametrize("rows", [21, 200])  # the two forms of the normal equations: fewer rows than words, and more
def test_ridge_solves_its_normal_equations(rows: int) -> None:
    """Against the same least squares solved in one piece, with the offset as an unpenalised column."""
    tokens, penalty = random_tokens(rows, 10), 3.0
    labels = torch.randn(rows, generator=generator(1), dtype=torch.float64)
    weights = torch.rand(rows, generator=generator(2), dtype=torch.float64) + 0.1
    ridge = fit_kmer_ridge(tokens, labels, (1, 3), strengths=[penalty], weights=weights, generator=generator())
    x = torch.cat([kmer_counts(tokens, (1, 3)).double(), torch.ones(rows, 1, dtype=torch.float64)], 1)
    w = weights / weights.mean()
    gram = (x.T * w) @ x + penalty * torch.diag(torch.tensor([1.0] * 68 + [0.0], dtype=torch.float64))
    expected = x @ torch.linalg.solve(gram, (x.T * w) @ labels)
    torch.testing.assert_close(ridge(tokens)[:, 0], expected, atol=2e-5, rtol=0)


def test_ridge_recovers_a_linear_law(ridge: KmerRidge) -> None:
    tokens = random_tokens(50, 12, seed=9)
    expected = torch.stack([(tokens == 2).sum(1), (tokens == 0).sum(1)], 1).double()
    torch.testing.assert_close(ridge(tokens), expected, atol=5e-3, rtol=0)


def test_missing_labels_do_not_count() -> None:
    tokens, labels = random_tokens(80, 10), torch.randn(80, 2, generator=generator(), dtype=torch.float64)
    labels[40:, 1] = torch.nan
    both = fit_kmer_ridge(tokens, labels, (2,), strengths=[1.0], generator=generator())
    alone = fit_kmer_ridge(tokens[:40], labels[:40, 1], (2,), strengths=[1.0], generator=generator())
    torch.testing.assert_close(both(tokens)[:, 1], alone(tokens)[:, 0], atol=1e-5, rtol=0)


def test_penalty_grows_with_the_noise() -> None:
    tokens = random_tokens(300, 20)
    signal = (tokens == 2).sum(1).double()
    noise = torch.randn(300, generator=generator(1), dtype=torch.float64)
    chosen = [
        fit_kmer_ridge(tokens, y, (1,), strengths=[0.1, 10.0, 1e4], generator=generator()).facts["penalty"]["head 0"]
        for y in (signal, noise)
    ]
    assert chosen[0] == 0.1
    assert chosen[1] == 1e4


def test_relatives_stay_together_in_folds() -> None:
    groups = np.arange(60) // 4
    data = labelled(random_tokens(60, 10), np.arange(60.0), groups=groups)
    folds = data.folds(3, generator())
    assert all(len(set(folds[groups == g].tolist())) == 1 for g in range(15))
    assert np.bincount(folds).tolist() == [20, 20, 20]


# rewards and figures


def test_heads_and_their_differences_are_rewards(ridge: KmerRidge) -> None:
    tokens = random_tokens(6, 12, seed=2)
    both = ridge(tokens)
    torch.testing.assert_close(ridge.reward("a")(tokens), both[:, 1])
    torch.testing.assert_close(Predicted(ridge, (1.0, -1.0))(tokens), both[:, 0] - both[:, 1])
    assert (ridge.reward("a").takes, ridge.reward("a").differentiable) == ("tokens", False)
    with pytest.raises(ValueError, match="no head 'c'; choose one of g, a"):
        ridge.reward("c")
    with pytest.raises(ValueError, match="no head None; choose one of g, a"):
        ridge.reward()
    with pytest.raises(ValueError, match="1 weights for the heads g, a"):
        Predicted(ridge, (1.0,))


def test_network_declares_what_it_takes(cnn: CnnRegressor) -> None:
    reward = cnn.reward("sites")
    assert (reward.takes, reward.differentiable, reward.alphabet) == ("relaxed", True, "ACGT")


def test_agreement_by_subset_against_hand_numbers() -> None:
    measured = np.array([[1.0], [2.0], [3.0], [4.0], [np.nan], [5.0]])
    predicted = np.array([[1.0], [2.0], [3.0], [3.0], [9.0], [1.0]])
    table = agreement(predicted, measured, ["x", "x", "x", "y", "y", "y"], ["h"])["h"]
    assert table["x"] == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0), "n": 3}
    assert table["y"] == {"pearson": None, "spearman": None, "n": 2}
    assert table["all"]["n"] == 5
    assert table["all"]["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 3, 1], [1, 2, 3, 4, 5])[0, 1])
    # ranks 1.5 3 4.5 4.5 1.5 against 1 2 3 4 5: covariance 1.5 / sqrt(9 * 10)
    assert spearman([1, 2, 3, 3, 1], [1, 2, 3, 4, 5]) == pytest.approx(1.5 / 90**0.5)


# files


def test_files_give_back_the_same_predictor(cnn: CnnRegressor, ridge: KmerRidge, tmp_path: Path) -> None:
    cnn.facts["note"] = "kept"
    for model, tokens in ((cnn, random_tokens(9, 24)), (ridge, random_tokens(9, 12))):
        model.save(tmp_path / "model.safetensors")
        again = load(tmp_path / "model.safetensors")
        assert type(again) is type(model)
        assert (again.names, again.facts) == (model.names, json.loads(json.dumps(model.facts)))
        assert torch.equal(again(tokens), model(tokens))


def test_flanks_survive_the_file(tmp_path: Path) -> None:
    network = random_network(both_strands=True, flanks=([0, 1, 2], [3, 3]))
    model = CnnRegressor(network, torch.zeros(2), torch.ones(2), ("a", "b"))
    model.save(tmp_path / "m.safetensors")
    assert torch.equal(load(tmp_path / "m.safetensors")(random_tokens(4, 20)), model(random_tokens(4, 20)))


def test_damaged_and_foreign_files_are_refused(ridge: KmerRidge, cnn: CnnRegressor, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match="No file"):
        load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(StorageError, match="not a whole safetensors file"):
        load(path)
    cnn.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StorageError, match="not a whole safetensors file"):
        load(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(StorageError, match="not written by tiltflow"):
        load(path)
    save_file({"a": torch.zeros(2)}, path, metadata={"tiltflow": json.dumps({"kind": "masked prior, convolutional"})})
    with pytest.raises(StorageError, match="holds 'masked prior, convolutional'; expected one of"):
        load(path)


@pytest.mark.parametrize(
    "damage", [{"words2": torch.zeros(7, 2)}, {"offset": torch.zeros(3)}, {"other": torch.zeros(1)}]
)
def test_tables_that_do_not_fit_are_refused(ridge: KmerRidge, tmp_path: Path, damage: dict[str, torch.Tensor]) -> None:
    header = {"tiltflow": json.dumps({"kind": KmerRidge.kind, "names": ["g", "a"]})}
    save_file({**ridge.state_dict(), **damage}, tmp_path / "m.safetensors", metadata=header)
    with pytest.raises(StorageError, match="does not hold a whole k-mer ridge"):
        load(tmp_path / "m.safetensors")


def test_weights_that_do_not_fit_the_header_are_refused(cnn: CnnRegressor, tmp_path: Path) -> None:
    header = {"kind": CnnRegressor.kind, "names": ["sites", "fewer"], "network": {**cnn.network.settings, "hidden": 9}}
    save_file(cnn.state_dict(), tmp_path / "m.safetensors", metadata={"tiltflow": json.dumps(header)})
    with pytest.raises(StorageError, match="does not hold a whole convolutional regressor"):
        load(tmp_path / "m.safetensors")


# bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(30, 10)}, "expected int64"),
        ({"tokens": torch.full((30, 10), 4)}, "over 0..3"),
        ({"labels": np.zeros(29)}, "for 30 sequences"),
        ({"labels": np.full(30, np.inf)}, "infinite labels"),
        ({"labels": np.r_[np.zeros(19), np.full(11, np.nan)]}, "19 labels for head 0"),
        ({"names": ("a", "b")}, "for 1 columns"),
        ({"weights": np.zeros(30)}, "not all 0"),
        ({"weights": -np.ones(30)}, ">= 0"),
        ({"groups": np.zeros(30)}, "at least two different"),
        ({"groups": np.arange(3)}, "expected 30 integers"),
    ],
)
def test_bad_labels_are_refused_by_both(change: dict[str, object], message: str) -> None:
    given = {"tokens": random_tokens(30, 10), "labels": np.zeros(30), **change}
    for fit in (fit_cnn, fit_kmer_ridge):
        with pytest.raises(ValueError, match=message):
            fit(**given, generator=generator())


def test_there_are_scanners_for_all_motifs() -> None:
    """However many are given; the facts say how many it became."""
    tokens = random_tokens(30, 10)
    few = replace(SMALL, epochs=1, scanners=2)
    for count, expected in ((0, 2), (9, 9)):
        motifs = [Pwm.from_consensus("TATA")] * count
        model = fit_cnn(tokens, np.arange(30.0), generator=generator(), settings=few, motifs=motifs)
        assert model.network.settings["scanners"] == expected
        assert model.facts["settings"]["scanners"] == expected


def test_bad_settings_are_refused() -> None:
    tokens, labels = random_tokens(30, 10), np.zeros(30)
    with pytest.raises(ValueError, match="expected a share"):
        fit_cnn(tokens, labels, generator=generator(), validation=0.9)
    with pytest.raises(ValueError, match="is too small for these counts"):
        fit_kmer_ridge(
            random_tokens(30, 10), torch.randn(30, generator=generator()), (1,), strengths=[0.0], generator=generator()
        )
    for ks in ((), (2, 2), (0,), (9,)):
        with pytest.raises(ValueError, match="distinct word lengths"):
            fit_kmer_ridge(tokens, labels, ks, generator=generator())


def test_unreadable_sequences_are_refused(cnn: CnnRegressor, ridge: KmerRidge) -> None:
    with pytest.raises(DnaError, match="finished sequences"):
        cnn(torch.full((2, 24), 4))
    with pytest.raises(ValueError, match="reads sequences of length 24"):
        cnn(random_tokens(2, 23))
    with pytest.raises(DnaError, match="reads finished sequences"):
        ridge(one_hot(random_tokens(2, 12)))
    with pytest.raises(DnaError, match="needs that many letters"):
        ridge(torch.zeros(2, 1, dtype=torch.long))


def test_reverse_complement_shares_scanners() -> None:
    """With both strands, what one strand's scanners see on x the other's see on its reverse complement."""
    network = random_network(both_strands=True)
    tokens = random_tokens(3, 20)
    seen, other = network._scan(one_hot(tokens)), network._scan(one_hot(reverse_complement(tokens)))
    torch.testing.assert_close(seen[..., :6], other.flip(1)[..., 6:], atol=1e-5, rtol=0)
