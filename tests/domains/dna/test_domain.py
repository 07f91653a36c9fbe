"""The DNA domain as one object: constraints that hold, rewards that do not fit, files that come out."""

from __future__ import annotations

import csv

import pytest
import torch
from tiltflow.core import SVDD, Tilt
from tiltflow.domains import check_reward
from tiltflow.domains.dna import Template, constrain, load
from tiltflow.domains.dna.prior import build, save_prior


@pytest.fixture
def domain(tmp_path):
    save_prior(tmp_path / "p.safetensors", build(80, channels=4, kernel=3, dilations=(1,)), {"data": "noise"})
    return load(tmp_path / "p.safetensors", steps=10)


def gc(x):
    return ((x == 1) | (x == 2)).double().mean(1)


def test_every_steered_sample_honours_the_template(domain, generator):
    template = "N10 TATAWAW S5 N58"
    held = constrain(domain, template)
    samples = SVDD(candidates=4).sample(Tilt(held.diffusion, gc, alpha=0.05), n=16, generator=generator(0))
    assert bool(Template.parse(template).fits(samples.x).all())
    assert "TATAWAW" in held.constraints
    assert not bool(Template.parse(template).fits(domain.diffusion.sample(16, generator=generator(0))).any())


def test_a_template_against_a_forbidden_site_is_refused_before_sampling(domain):
    with pytest.raises(ValueError, match="EcoRI"):
        constrain(domain, "N30 GAATTC N44", forbidden=["EcoRI"])


def test_a_reward_of_another_alphabet_is_refused(domain):
    def protein(x):
        return x.double().mean(1)

    protein.alphabet = "ACDEFGHIKLMNPQRSTVWY"
    with pytest.raises(ValueError, match=r"protein.*ACDEF.*ACGT"):
        check_reward(domain, protein)
    check_reward(domain, gc)  # says nothing about its alphabet, fits any


def test_exported_files_hold_the_samples_and_columns(domain, tmp_path, generator):
    samples = SVDD(candidates=2).sample(Tilt(domain.diffusion, gc, alpha=0.1), n=3, generator=generator(0))
    files = domain.export(tmp_path / "out", samples, {"reward": samples.reward})
    assert {f.name for f in files} == {"samples.fasta", "samples.csv"}
    read = domain.codec.read_fasta(tmp_path / "out" / "samples.fasta")
    assert torch.equal(read.tokens, samples.x)
    with open(tmp_path / "out" / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sequence"] for row in rows] == domain.codec.decode(samples.x)
    assert [float(row["reward"]) for row in rows] == samples.reward.tolist()


def test_metrics_are_json_numbers_about_the_samples(domain, generator):
    x = domain.diffusion.sample(8, generator=generator(0))
    figures = domain.metrics(x, reward=gc(x))
    assert figures["reward_median"] == pytest.approx(float(gc(x).quantile(0.5)))
    assert all(value is None or isinstance(value, int | float) for value in figures.values())


def test_nelbo_is_that_of_the_free_model_in_nats_per_base(domain, generator):
    x = domain.diffusion.sample(5, generator=generator(0))
    expected = -domain.diffusion.elbo(x, draws=3, generator=generator(1)).double() / 80
    for each in (domain, constrain(domain, "N40 GGGGGGGGGG N*")):
        found = each.nelbo(x, draws=3, generator=generator(1))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        assert found.dtype == torch.float64


def test_the_source_is_a_sentence_about_the_model(tmp_path, domain):
    facts = {"data": "my library", "training_sequences": 12000, "training_groups": 90, "validation_sequences": 7}
    facts |= {"validation_nelbo": 1.25, "validation_nelbo_sem": 0.01, "markov_5": 1.3, "batch": 128}
    save_prior(tmp_path / "q.safetensors", build(80, channels=4, kernel=3, dilations=(1,)), facts)
    assert load(tmp_path / "q.safetensors").source.partition(": ")[2] == (
        "my library; learned from 12,000 of them in 90 groups; 7 held out cost 1.2500 +- 0.0100 nats per base "
        "(a Markov chain of order 5: 1.3000)"
    )
    save_prior(tmp_path / "r.safetensors", domain.diffusion, facts | {"training_groups": 12000})
    assert "learned from 12,000 of them; 7 held out" in load(tmp_path / "r.safetensors").source
    assert domain.source.endswith(": noise")


def test_figures_and_meanings_come_with_the_domain(domain):
    from tiltflow.scores import Scored

    x = torch.randint(4, (6, 80), generator=torch.Generator().manual_seed(0))
    (drawing,) = domain.figures({"steered": Scored(x, gc(x))})
    assert drawing.name == "logo"
    assert "6 sequences" in drawing.figure.axes[0].get_title(loc="left")
    assert domain.metrics.meanings.keys() >= domain.metrics(x, reward=gc(x)).keys()
