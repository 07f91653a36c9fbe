"""Pretraining: the bound is maximised, and an interruption changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiltflow.core import Denoiser, Diffusion, Subs
from tiltflow.core.networks import ConvDenoiser, TransformerDenoiser
from tiltflow.core.pretraining import Pretraining, nelbo, pretrain
from tiltflow.core.processes import Masked
from tiltflow.core.storage import StorageError, load_tensors, save_tensors
from tiltflow.core.worlds import MaskedWorld

WORLD = MaskedWorld(3, 3, seed=3)
SETTINGS = Pretraining(steps=60, batch=16, learning_rate=0.01, warmup=5, validate_every=20)


def make(seed=0, network=None):
    torch.manual_seed(seed)
    return Diffusion(Masked(3), network or ConvDenoiser(3, 3, channels=8, kernel=3, dilations=(1,)), (3,))


def batches(n, generator):
    return WORLD.sequences[torch.multinomial(WORLD.p.float(), n, replacement=True, generator=generator)]


def run(diffusion, settings=SETTINGS, stop=None, **options):
    """Train, at most to the given number of validations; returns what was yielded last."""
    last = None
    for count, progress in enumerate(pretrain(diffusion, batches, WORLD.sequences, settings, **options), start=1):
        last = progress
        if count == stop:
            break
    return last


def weights(diffusion):
    return {name: tensor.clone() for name, tensor in diffusion.denoiser.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Tabular(torch.nn.Module):
    """Logits for every lattice state: can hold the exact denoiser."""

    time_invariant = True

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(64, 3, 3))

    def forward(self, x, t):
        return self.table[WORLD.index(x)]


def test_training_finds_the_law():
    """A table of logits, trained on samples of p, samples p: the loss is the right one, minimised at the exact denoiser."""
    diffusion = Diffusion(Masked(3), Tabular(), (3,))
    settings = Pretraining(steps=300, batch=512, learning_rate=0.05, warmup=10, weight_decay=0.0, validate_every=300)
    progress = run(diffusion, settings)
    with torch.no_grad():
        learned = diffusion.denoiser(WORLD.states, 0.5).exp()
    masked = (WORLD.states == 3).unsqueeze(-1)
    mass = WORLD.marginal(WORLD.p).reshape(64, 1, 1)
    error = ((learned - WORLD.posterior.exp()).abs() * masked * mass).sum((1, 2))
    assert float(error.max()) < 0.08
    entropy = -float((WORLD.p * WORLD.p.log()).sum()) / 3
    with torch.no_grad():
        bound = diffusion.elbo(WORLD.sequences, draws=300, generator=torch.Generator().manual_seed(1))
    assert entropy - 0.02 < -float((WORLD.p * bound).sum()) / 3 < entropy + 0.03
    assert progress.step == progress.total == 300


def test_validation_is_of_the_averaged_weights_with_the_same_noise():
    diffusion = make()
    curve = run(diffusion).curve
    assert [row["step"] for row in curve] == [20, 40, 60]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        again = -float(diffusion.elbo(WORLD.sequences, draws=2, generator=generator).mean()) / 3
    assert curve[-1]["validation"] == pytest.approx(again, rel=1e-6)


@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_run_ends_where_it_would_have(stop, tmp_path):
    """Bit for bit: weights, average, optimiser, random numbers and the curve."""
    whole, first, second = make(), make(), make(seed=1)
    uninterrupted = run(whole, checkpoint=tmp_path / "whole")
    seen = []
    run(first, stop=stop, checkpoint=tmp_path / "broken", on_step=lambda step, loss: seen.append((step, loss)))
    resumed = run(second, checkpoint=tmp_path / "broken", on_step=lambda step, loss: seen.append((step, loss)))
    assert same(weights(whole), weights(second))
    assert resumed.curve == uninterrupted.curve
    assert [step for step, _ in seen] == list(range(1, 61))
    one, two = (load_tensors(tmp_path / name) for name in ("whole", "broken"))
    assert same(one[0], two[0])
    assert one[1] == two[1]


def test_an_interruption_between_checkpoints_goes_back_to_the_last(tmp_path):
    whole, broken = make(), make()
    run(whole)

    def interrupt(step, loss):
        if step == 33:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, checkpoint=tmp_path / "c", on_step=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    run(broken, checkpoint=tmp_path / "c")
    assert same(weights(whole), weights(broken))


def test_a_finished_run_gives_its_weights_and_its_end_again(tmp_path):
    """Once, so that what follows the loop over it finds its progress."""
    one, two = make(), make(seed=5)
    last = run(one, checkpoint=tmp_path / "c")
    assert list(pretrain(two, batches, WORLD.sequences, SETTINGS, checkpoint=tmp_path / "c")) == [last]
    assert same(weights(one), weights(two))


def test_at_the_last_progress_the_averaged_weights_are_in_place(tmp_path):
    """Also for a loop that is left there, and in evaluation mode."""
    whole, left = make(), make()
    run(whole)
    for progress in pretrain(left, batches, WORLD.sequences, SETTINGS):
        if progress.step == progress.total:
            break
    assert same(weights(whole), weights(left))
    assert not left.denoiser.training


def test_the_bound_of_many_samples_is_in_nats_per_site():
    """In parts, on the CPU, in float64, without a graph; each sample's own mean over noise levels."""
    diffusion = make()
    found = nelbo(diffusion, WORLD.sequences, draws=5, generator=torch.Generator().manual_seed(1), rows=10)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        parts = [diffusion.elbo(part, draws=5, generator=generator) for part in WORLD.sequences.split(10)]
    torch.testing.assert_close(found, -torch.cat(parts).double() / 3, rtol=1e-12, atol=0)
    assert found.dtype == torch.float64
    assert not found.requires_grad


def test_training_and_validation_touch_no_global_randomness():
    diffusion = make()
    state = torch.get_rng_state()
    run(diffusion)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_result_is_in_evaluation_mode_and_has_its_buffers():
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)

        def forward(self, x, t):
            return self.head(self.norm(torch.nn.functional.one_hot(x, 4).float().transpose(1, 2)).transpose(1, 2))

    diffusion = make(network=Normed())
    run(diffusion)
    assert not diffusion.denoiser.training
    assert not diffusion.denoiser.network.training
    assert int(diffusion.denoiser.network.norm.num_batches_tracked) == 60
    assert float(diffusion.denoiser.network.norm.running_mean.abs().max()) > 0.01


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.calls = torch.nn.Parameter(torch.ones(3)), 0

        def forward(self, x, t):
            self.calls += 1
            return (self.scale * (torch.nan if self.calls > 30 else 1.0)).expand(*x.shape, 3)

    diffusion = make(network=Broken())
    with pytest.raises(FloatingPointError, match="nan at step"):
        run(diffusion, checkpoint=tmp_path / "c")
    tensors, metadata = load_tensors(tmp_path / "c")
    assert metadata["step"] == 20
    assert all(bool(tensor.isfinite().all()) for name, tensor in tensors.items() if name.startswith("model"))


def test_the_learning_rate():
    settings = Pretraining(steps=100, learning_rate=1.0, warmup=10)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1)
    assert rates[10] == pytest.approx(1)
    assert rates[55] == pytest.approx(0.505)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.009 < rates[-1] < 0.012
    assert Pretraining(steps=5, warmup=0).rate(0) == pytest.approx(2e-3)


@pytest.mark.parametrize("name", ["steps", "batch", "validate_every"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        Pretraining(**{name: value})


# --- checkpoints that do not fit ------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    run(make(), stop=1, checkpoint=tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("changes", "word"), [({"seed": 1}, "other seed"), ({"settings": replace(SETTINGS, batch=17)}, "other settings")]
)
def test_a_checkpoint_of_another_run(checkpoint, changes, word):
    with pytest.raises(StorageError, match=word):
        run(make(), checkpoint=checkpoint, **changes)


def test_muon_trains_transformers_and_is_resumed_like_adamw(tmp_path):
    def transformer(seed=0):
        torch.manual_seed(seed)
        return make(network=TransformerDenoiser(3, 3, width=8, layers=1, heads=2))

    settings = replace(SETTINGS, optimiser="muon")
    whole, first, second = transformer(), transformer(), transformer(1)
    uninterrupted = run(whole, settings, checkpoint=tmp_path / "whole")
    run(first, settings, stop=1, checkpoint=tmp_path / "broken")
    assert run(second, settings, checkpoint=tmp_path / "broken").curve == uninterrupted.curve
    assert same(weights(whole), weights(second))
    assert not same(weights(whole), weights(transformer()))
    with pytest.raises(ValueError, match="ConvDenoiser has no `hidden_matrices`"):
        run(make(), settings)
    with pytest.raises(ValueError, match="optimiser is 'lion'"):
        replace(SETTINGS, optimiser="lion")


def test_a_checkpoint_of_another_network(checkpoint):
    other = make(network=ConvDenoiser(3, 3, channels=9, kernel=3, dilations=(1,)))
    with pytest.raises(StorageError, match="does not fit this model"):
        run(other, checkpoint=checkpoint)


def test_a_checkpoint_cut_short(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(StorageError, match="not a whole safetensors file"):
        run(make(), checkpoint=checkpoint)


def test_a_file_of_another_kind(checkpoint):
    save_tensors(checkpoint, {"a": torch.zeros(1)}, {"kind": "prior"})
    with pytest.raises(StorageError, match="holds 'prior'"):
        run(make(), checkpoint=checkpoint)


@pytest.mark.parametrize("missing", ["generator", "step", "curve", "model", "generator's type"])
def test_a_checkpoint_with_something_missing(checkpoint, missing):
    tensors, metadata = load_tensors(checkpoint)
    metadata.pop(missing, None)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(missing)}
    if missing == "generator's type":
        tensors["generator"] = tensors["generator"].float()
    save_tensors(checkpoint, tensors, metadata)
    with pytest.raises(StorageError, match="does not fit this model"):
        run(make(), checkpoint=checkpoint)


def test_training_a_denoiser_that_was_wrapped_by_hand():
    torch.manual_seed(0)
    denoiser = Denoiser(ConvDenoiser(3, 3, channels=8, kernel=3, dilations=(1,)), Subs(3), max_rows=5)
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    diffusion = Diffusion(Masked(3), denoiser, (3,))
    run(diffusion)
    assert not same(before, weights(diffusion))
