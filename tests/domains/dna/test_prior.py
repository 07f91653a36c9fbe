"""The prior as a file, the corpus it learns from, and the Markov chains it is measured against."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiltflow.core.pretraining import Pretraining
from tiltflow.core.storage import StorageError, save_tensors
from tiltflow.domains.dna.pretrain import Corpus, corpus, markov_nats, sequence_corpus, train_prior
from tiltflow.domains.dna.prior import build, load_prior, save_prior, shipped

SMALL = {"channels": 16, "kernel": 5, "dilations": (1, 2)}


def grouped(generator: torch.Generator) -> Corpus:
    """Groups of 1, 3 and 8 rows; row i is the number i in base 4, so that every row is told from the others."""
    tokens = torch.stack([torch.tensor([i // 4**k % 4 for k in range(6)]) for i in range(13)])
    names = ["c"] * 8 + ["a"] + ["b"] * 3 + ["held"]
    away = torch.tensor([name == "held" for name in names])
    return corpus(tokens, names, away, torch.tensor([12]), False, "numbers")


def test_every_group_is_drawn_alike_and_every_member_within_it(generator):
    made = grouped(generator(0))
    drawn = made.draw(60_000, generator(1))
    number = (drawn * 4 ** torch.arange(6)).sum(1)
    counts = torch.bincount(number, minlength=13).double()
    expected = torch.tensor([1 / 24] * 8 + [1 / 3] + [1 / 9] * 3 + [0.0]).double() * 60_000
    assert counts[12] == 0  # what is held out is never seen
    chi_square = ((counts - expected)[:12] ** 2 / expected[:12]).sum()
    assert chi_square < 39.1  # 11 degrees of freedom, false alarm 5e-5


def test_both_strands_are_drawn_equally_often(generator):
    made = replace(grouped(generator(0)), both_strands=True)
    single = replace(made, starts=made.starts[:1], counts=made.counts[:1])  # group "a" alone: one sequence
    drawn = single.draw(10_000, generator(1))
    forward = single.tokens[single.starts[0]]
    backward = 3 - forward.flip(0)
    is_forward = (drawn == forward).all(1)
    assert bool((is_forward | (drawn == backward).all(1)).all())
    assert abs(int(is_forward.sum()) - 5000) < 200  # 4 standard deviations


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_markov_chain_is_a_law_and_counts_as_by_hand(order):
    """Its probabilities of all sequences sum to one; the counts follow the group weights."""
    tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 2], [3, 3, 0, 1]])
    every = torch.tensor(list(itertools.product(range(4), repeat=4)))
    away = torch.arange(259) >= 3
    made = corpus(torch.cat([tokens, every]), ["g", "g", "h"] + ["held"] * 256, away, torch.arange(3, 259), False, "")
    # Score every sequence by itself: nats per base to probability.
    probability = [math.exp(-4 * markov_nats(replace(made, validation=row[None]), order, 0.4)) for row in every]
    assert sum(probability) == pytest.approx(1, abs=1e-12)
    if order == 0:
        share = (0.5 * 2 + 1) / (8 + 0.4) + 0.1 / 8.4  # A: once in each row of g (weight a half), once in h
        assert probability[0] == pytest.approx(share**4, rel=1e-12)


def test_a_prior_comes_back_from_its_file_to_the_last_bit(tmp_path, generator):
    model = build(12, **SMALL)
    save_prior(tmp_path / "p.safetensors", model, {"validation_nelbo": 1.3})
    again, facts = load_prior(tmp_path / "p.safetensors", steps=7)
    x = torch.randint(0, 5, (6, 12), generator=generator(0))
    assert torch.equal(model.clean(x, 0.5), again.clean(x, 0.5))
    assert facts == {"validation_nelbo": 1.3}
    assert again.steps == 7


def test_a_corrupt_or_foreign_file_is_refused_by_name(tmp_path):
    path = tmp_path / "p.safetensors"
    save_prior(path, build(12, **SMALL), {})
    whole = path.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"not a prior", whole[:-3]):
        path.write_bytes(bad)
        with pytest.raises(StorageError, match=r"p\.safetensors"):
            load_prior(path)
    save_tensors(path, {"a": torch.zeros(1)}, {"kind": "something else"})
    with pytest.raises(StorageError, match="something else"):
        load_prior(path)


def test_settings_that_do_not_fit_the_weights_are_refused(tmp_path):
    model = build(12, **SMALL)
    model.denoiser.network.settings["channels"] = 8
    save_prior(tmp_path / "p.safetensors", model, {})
    with pytest.raises(StorageError, match="does not hold a whole prior"):
        load_prior(tmp_path / "p.safetensors")


def test_an_unknown_name_lists_what_is_shipped():
    with pytest.raises(ValueError, match="there is yeast"):
        shipped("mouse")


def test_the_shipped_prior_is_the_one_its_card_describes(generator):
    """Loads, samples, and its figures beat the Markov chain that it must beat."""
    model, facts = shipped("yeast")
    assert model.shape == (80,)
    assert facts["validation_nelbo"] < facts["markov_5"] < facts["markov_3"] < facts["markov_0"]
    x = model.sample(4, generator=generator(0))
    assert int(x.max()) < 4
    nats = -model.elbo(x, draws=20, generator=generator(1)) / 80
    assert 1.2 < float(nats.mean()) < 1.4  # its own samples are as likely as natural promoters, not as random ones


def test_training_learns_a_pattern_and_resumes_to_the_last_bit(tmp_path, generator):
    """Two motifs; the NELBO falls far below that of independent sites. Stopped and resumed, the file is the same."""
    motifs = torch.tensor([[0, 1, 2, 3] * 2, [3, 3, 0, 0] * 2])
    noise = torch.randint(0, 4, (60, 4), generator=generator(0))
    tokens = torch.cat([motifs[torch.arange(60) % 2], noise], 1)
    made = sequence_corpus(tokens, both_strands=False, relatives=False)
    settings = Pretraining(steps=150, batch=64, learning_rate=1e-2, warmup=5, ema=0.9, validate_every=50)
    whole = []
    for progress in train_prior(made, tmp_path / "whole.safetensors", settings, network=SMALL):
        whole.append(progress)
        assert (tmp_path / "whole.safetensors").exists() == (progress.step == 150)  # written by the last progress
    # Four free sites cost log 4 each and the choice of motif log 2: .52 nats a site; independent sites would cost .92.
    assert whole[-1].curve[-1]["validation"] < 0.7

    halves = train_prior(made, tmp_path / "halves.safetensors", settings, network=SMALL)
    next(halves)
    halves.close()  # interrupted after the first validation
    list(train_prior(made, tmp_path / "halves.safetensors", settings, network=SMALL))
    assert (tmp_path / "halves.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_training_can_start_from_a_prior_and_refuses_another_length(tmp_path, generator):
    made = sequence_corpus(torch.randint(0, 4, (40, 12), generator=generator(0)))
    save_prior(tmp_path / "start.safetensors", build(12, **SMALL), {})
    settings = Pretraining(steps=2, batch=4, validate_every=2)
    list(train_prior(made, tmp_path / "p.safetensors", settings, start=tmp_path / "start.safetensors"))
    assert load_prior(tmp_path / "p.safetensors")[0].denoiser.network.settings["channels"] == 16
    shorter = sequence_corpus(torch.randint(0, 4, (40, 10), generator=generator(0)))
    with pytest.raises(ValueError, match=r"10 bases.*12"):
        list(train_prior(shorter, tmp_path / "q.safetensors", settings, start=tmp_path / "start.safetensors"))


def test_too_few_sequences_are_refused():
    with pytest.raises(ValueError, match="3 distinct sequences are too few"):
        sequence_corpus(torch.tensor([[0, 1], [1, 2], [2, 3], [0, 1]]))


def test_relatives_stay_on_one_side_unless_told_otherwise(generator):
    """30 sequences in 10 variants each: whole families are held out, and equal sequences count once."""
    parents = torch.randint(0, 4, (30, 40), generator=generator(0)).repeat_interleave(10, 0)
    change = torch.rand(parents.shape, generator=generator(1)) < 0.05
    tokens = torch.where(change, (parents + 1) % 4, parents)
    distinct = tokens.unique(dim=0)
    near = (distinct.unsqueeze(1) == distinct).sum(-1) >= 28

    def crossing(made):
        sides = torch.cat([made.tokens, made.validation])
        assert sorted(sides.tolist()) == distinct.tolist()
        return int(((made.tokens.unsqueeze(1) == made.validation).sum(-1) >= 28).sum())

    together = sequence_corpus(torch.cat([tokens, tokens]), held_out=0.2)
    assert crossing(together) == 0
    assert 0.15 < len(together.validation) / len(distinct) < 0.25
    assert "30 families" in together.data
    apart = sequence_corpus(tokens, held_out=0.2, relatives=False)
    assert crossing(apart) > 0
    assert abs(len(apart.validation) - 0.2 * len(distinct)) <= 1
    assert int(near.sum()) > len(distinct)


def test_a_set_of_variants_of_one_sequence_says_that_nothing_can_be_held_out(generator):
    parent = torch.randint(0, 4, (40,), generator=generator(0))
    tokens = parent.repeat(40, 1)
    tokens[range(40), range(40)] = (parent + 1) % 4
    with pytest.raises(ValueError, match=r"All 40 distinct sequences are relatives.*relatives=false"):
        sequence_corpus(tokens)
    assert len(sequence_corpus(tokens, relatives=False).validation) == 4
