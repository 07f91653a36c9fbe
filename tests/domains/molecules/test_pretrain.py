"""Training the prior: Markov chains against counts by hand, the split, and what `tiltflow pretrain` writes."""

from __future__ import annotations

import math

import pytest
import torch
from tiltflow.cli import main
from tiltflow.core.pretraining import Pretraining
from tiltflow.domains.molecules import Library, Reference, load, molecule_corpus
from tiltflow.domains.molecules.data import prepare, scaffolds
from tiltflow.domains.molecules.pretrain import Corpus, markov_nats, train_prior
from tiltflow.domains.molecules.prior import load_prior, shipped
from tiltflow.molecules import MASK, decode

SMALL = {"width": 16, "layers": 1, "heads": 2}


def library(n: int = 60, length: int = 16) -> Library:
    chains = [f"{'C' * (1 + i % 6)}{'N' if i % 2 else 'O'}{'C' * (1 + i // 6)}" for i in range(n)]
    rings = [f"{'C' * i}C1CC{'C' * (i % 4)}1" for i in range(10)]
    return prepare([*chains, *rings], length=length)


def test_whole_scaffolds_are_held_out():
    corpus = molecule_corpus(library(), "chains", held_out=0.4, seed=1)
    inside, outside = (set(scaffolds(decode(each.long()))) - {""} for each in (corpus.tokens, corpus.outside))
    assert inside.isdisjoint(outside)
    assert outside
    assert set(corpus.smiles) == set(decode(corpus.tokens.long()))
    assert torch.equal(corpus.validation, corpus.outside.long())
    drawn = corpus.draw(30, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64
    assert set(decode(drawn)) <= set(corpus.smiles)


def test_too_few_molecules_are_refused():
    with pytest.raises(ValueError, match="3 distinct molecules are too few"):
        molecule_corpus(prepare(["C", "CC", "CCC"]), "few")
    ring = prepare([f"{'C' * n}c1ccccc1" for n in range(30)])
    with pytest.raises(ValueError, match="one side is empty"):
        molecule_corpus(ring, "one scaffold", held_out=0.01)


def test_markov_chains_are_smoothed_counts():
    train, asked = torch.tensor([[1, 2, 1, 2]]), torch.tensor([[1, 2, 2, 1]])
    corpus = Corpus(train.to(torch.int16), asked, "", asked, ())
    weight = 0.05 * MASK
    zero = [(2 + weight / MASK) / (4 + weight)] * 4
    assert markov_nats(corpus, 0) == pytest.approx(-sum(map(math.log, zero)) / 4)
    p = zero[0]
    start, after_1, after_2 = 1 + weight, 2 + weight, 1 + weight  # how often each context was seen
    one = [(1 + weight * p) / start, (2 + weight * p) / after_1, weight * p / after_2, (1 + weight * p) / after_2]
    assert markov_nats(corpus, 1) == pytest.approx(-sum(map(math.log, one)) / 4)


def test_training_is_resumed_and_its_figures_stand_in_the_file(tmp_path):
    corpus = molecule_corpus(library(), "chains", held_out=0.2)
    settings = Pretraining(steps=30, batch=16, learning_rate=1e-2, warmup=5, ema=0.9, validate_every=10)
    straight = list(train_prior(corpus, tmp_path / "a.safetensors", settings, network=SMALL))
    assert straight[-1].curve[-1]["validation"] < 0.6 * math.log(MASK)
    interrupted = train_prior(corpus, tmp_path / "b.safetensors", settings, network=SMALL)
    next(interrupted)
    interrupted.close()
    again = list(train_prior(corpus, tmp_path / "b.safetensors", settings, network=SMALL))
    assert again[-1].curve == straight[-1].curve
    one, facts = load_prior(tmp_path / "a.safetensors")
    other, _ = load_prior(tmp_path / "b.safetensors")
    x = corpus.validation
    assert torch.equal(one.denoiser(x, 0.5), other.denoiser(x, 0.5))
    assert facts["training_molecules"] == len(corpus.tokens)
    assert facts["markov_3"] < facts["markov_0"] < math.log(MASK)
    assert 0 < facts["validation_nelbo"] < math.log(MASK)
    continued = train_prior(corpus, tmp_path / "c.safetensors", settings, start=tmp_path / "a.safetensors")
    assert list(continued)[-1].curve[0]["validation"] < straight[0].curve[0]["validation"]
    with pytest.raises(ValueError, match=r"12 tokens, and prior .* 16"):
        next(
            train_prior(
                molecule_corpus(library(length=12), ""), tmp_path / "d", settings, start=tmp_path / "a.safetensors"
            )
        )


def test_the_command_trains_on_a_users_file(tmp_path, capsys):
    path = tmp_path / "mine.smi"
    path.write_text("\n".join([*decode(library().tokens.long()), "CCO", "OCC", "CB(O)O"]) + "\n")
    size = ["network.width=16", "network.layers=1", "network.heads=2", "length=24", "threads=1"]
    training = ["training.steps=4", "training.batch=8", "training.warmup=2", "training.validate_every=2"]
    arguments = ["pretrain", "domain=molecules", f"sequences={path}", f"out={tmp_path / 'models'}", *size, *training]
    assert main(arguments) == 2
    assert "'CB(O)O' needs [B]" in capsys.readouterr().err
    assert main([*arguments, "unreadable=skip", "held_out=0.3"]) == 0
    told = capsys.readouterr().out
    assert "1 the same as one before" in told.replace("\n", " ")  # CCO, written twice
    assert "with other scaffolds held out" in told
    made = {each.name for each in (tmp_path / "models").iterdir()}
    assert made >= {"prior.safetensors", "prior.md", "prior.curve.png", "reference.safetensors", "reference.md"}
    domain = load(tmp_path / "models" / "prior.safetensors", reference=tmp_path / "models" / "reference.safetensors")
    assert domain.diffusion.shape == domain.reference.tokens.shape[1:] == (24,)
    assert "molecules of the user" in domain.source
    assert main(arguments) == 2  # nothing is overwritten
    assert "holds prior.safetensors and reference.safetensors already" in capsys.readouterr().err


def test_wrong_keys_are_told_together(tmp_path, capsys):
    arguments = ["pretrain", "domain=molecules", "data_dir=/none", "sequences=/none.smi", "source=moses", "prefix=AC"]
    assert main([*arguments, f"out={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert "5 problems" in told
    for words in (
        "data_dir: sequences is given too",
        "'/none.smi' is not a file",
        "source: 'moses'",
        "prefix: unknown key",
    ):
        assert words in told


@pytest.mark.slow
def test_the_shipped_prior_draws_molecules(generator):
    for name, qed in (("zinc", 0.5), ("qm9", 0.4)):
        domain = load(name)
        _, facts = shipped(name)
        assert facts["validation_nelbo"] < facts["markov_1"] - 0.1 < facts["markov_0"] - 1
        figures = domain.metrics(domain.diffusion.sample(64, generator=generator(0)))
        assert figures["validity"] > 0.95
        assert figures["uniqueness"] > 0.95
        assert figures["qed_median"] > qed


def test_the_reference_of_a_prior_is_what_was_held_out():
    corpus = molecule_corpus(library(), "chains", held_out=0.3)
    reference = corpus.reference(5)
    assert isinstance(reference, Reference)
    assert torch.equal(reference.tokens, corpus.outside[:5].long())
    assert all(smiles in reference.known for smiles in corpus.smiles)
