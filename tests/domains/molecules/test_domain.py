"""The molecule domain as one object: constraints that hold, rewards that do not fit, files that come out."""

from __future__ import annotations

import csv

import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from tiltflow.core import SVDD, Tilt
from tiltflow.core.samplers import FirstHitting
from tiltflow.core.storage import StorageError, load_tensors, save_tensors
from tiltflow.domains import check_reward
from tiltflow.domains.molecules import Reference, TemplateError, constrain, load
from tiltflow.domains.molecules.domain import describe
from tiltflow.domains.molecules.prior import build, load_prior, save_prior
from tiltflow.molecules import ALPHABET, PAD, decode, encode


@pytest.fixture
def domain(tiny):
    return load(tiny, steps=8)


def size(x):
    return (x != PAD).double().mean(1)


def test_every_steered_sample_contains_the_scaffold(domain, generator):
    held = constrain(domain, scaffold="*c1ccccc1")
    samples = SVDD(candidates=2).sample(Tilt(held.diffusion, size, alpha=0.05), n=16, generator=generator(0))
    benzene = Chem.MolFromSmiles("c1ccccc1")
    assert all(Chem.MolFromSmiles(smiles).HasSubstructMatch(benzene) for smiles in decode(samples.x))
    assert held.constraints == "scaffold *c1ccccc1, growing at *"
    free = domain.diffusion.sample(16, generator=generator(0))
    assert not all(Chem.MolFromSmiles(smiles).HasSubstructMatch(benzene) for smiles in decode(free))


def test_a_template_holds_with_the_sampler_that_draws_one_site_at_a_time(tiny, generator):
    held = load(tiny, template="[C][=O] *3 [NH1]", sampler="first_hitting", top_p=0.9).diffusion
    assert held.sampler == FirstHitting(top_p=0.9)
    x = held.sample(12, generator=generator(0))
    assert x[:, [0, 4]].tolist() == [[ALPHABET.index(word) for word in ("[C][=O]", "[NH1]")]] * 12
    with pytest.raises(ValueError, match="sampler is 'ddim'; expected ancestral or first_hitting"):
        load(tiny, sampler="ddim")


def test_constraints_that_cannot_be_honoured_are_refused(tiny, domain):
    with pytest.raises(TemplateError, match="template and scaffold came together"):
        load(tiny, template="[C]", scaffold="*C")
    assert constrain(domain) is domain


def test_a_reward_of_another_alphabet_is_refused(domain):
    def dna(x):
        return x.double().mean(1)

    dna.alphabet = "ACGT"
    with pytest.raises(ValueError, match=r"dna takes tokens of 'ACGT'.*molecules gives \[nop\].*\(512 symbols\)"):
        check_reward(domain, dna)
    dna.alphabet = list(ALPHABET)  # as it comes from a file
    check_reward(domain, dna)
    check_reward(domain, size)


def test_exported_files_hold_the_samples_and_columns(domain, tmp_path, generator):
    samples = SVDD(candidates=2).sample(Tilt(domain.diffusion, size, alpha=0.1), n=4, generator=generator(0))
    files = domain.export(tmp_path / "out", samples, {"reward": samples.reward})
    assert {f.name for f in files} == {"samples.sdf", "samples.csv"}
    smiles = domain.codec.decode(samples.x)
    with open(tmp_path / "out" / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["smiles"] for row in rows] == smiles
    assert [float(row["reward"]) for row in rows] == samples.reward.tolist()
    written = [Chem.MolToSmiles(each) for each in Chem.SDMolSupplier(str(tmp_path / "out" / "samples.sdf"))]
    assert written == [text for text in smiles if text]


def test_what_the_domain_says_of_a_molecule(reference_of_three):
    x = torch.cat([encode(["CC(=O)C=C", "OCC", "Cc1ccccc1O"]), torch.zeros(1, 24, dtype=torch.int64)])
    said = describe(reference_of_three, x)
    assert said["alerts"] == ["BRENK: Michael_acceptor_1", "", "", None]
    assert said["nearest"] == ["CCO", "CCO", "Cc1ccccc1", None]
    make = GetMorganGenerator(radius=2, fpSize=2048)
    prints = [make.GetFingerprint(Chem.MolFromSmiles(s)) for s in ("Cc1ccccc1O", "Cc1ccccc1")]
    assert said["nearest_similarity"][1:] == [1, pytest.approx(DataStructs.TanimotoSimilarity(*prints)), None]
    assert said["in_training"] == [False, True, False, None]
    assert said["weight"][1] == pytest.approx(46.069, abs=1e-3)
    assert {len(column) for column in said.values()} == {4}
    assert describe(reference_of_three, x[3:])["qed"] == [None]


@pytest.fixture
def reference_of_three():
    return Reference.build(encode(["CCO", "Cc1ccccc1", "CCCCCCN"]), ["CCO", "CCN"])


def test_nelbo_is_that_of_the_free_model_in_nats_per_token(domain, generator):
    x = domain.diffusion.sample(5, generator=generator(0))
    expected = -domain.diffusion.elbo(x, draws=3, generator=generator(1)).double() / 24
    for each in (domain, constrain(domain, scaffold="*C")):
        torch.testing.assert_close(each.nelbo(x, draws=3, generator=generator(1)), expected, rtol=1e-6, atol=0)


def test_metrics_and_figures_come_with_the_domain(domain, generator):
    from tiltflow.scores import Scored

    x = domain.diffusion.sample(6, generator=generator(0))
    found = domain.metrics(x, reward=size(x))
    assert found["reward_median"] == pytest.approx(float(size(x).quantile(0.5)))
    assert domain.metrics.meanings.keys() >= found.keys()
    drawings = {each.name: each.figure for each in domain.figures({"steered": Scored(x, size(x))})}
    assert set(drawings) == {"molecules", "descriptors"}
    shown = [axes for axes in drawings["molecules"].axes if axes.images]
    assert len(shown) == len({text for text in decode(x) if text})
    best = max(zip(size(x).tolist(), decode(x), strict=True))[0]
    assert shown[0].get_title() == f"{best:.3f}"


def test_a_grid_without_any_molecule_says_so():
    from tiltflow.domains.molecules.plots import grid

    figure = grid(torch.zeros(3, 9, dtype=torch.int64), torch.zeros(3))
    assert "no valid molecule" in figure.get_suptitle()


def test_priors_come_back_at_half_precision(tmp_path):
    network = build(12, width=16, layers=1, heads=2)
    torch.nn.init.normal_(network.denoiser.network.head.weight)
    save_prior(tmp_path / "p.safetensors", network, {"data": "noise"}, half=True)
    again, facts = load_prior(tmp_path / "p.safetensors")
    x = torch.full((2, 12), len(ALPHABET))
    before, after = (each.denoiser.network(x) for each in (network, again))
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, atol=2e-2, rtol=2e-2)
    assert facts == {"data": "noise"}


def test_a_prior_of_another_alphabet_is_refused(tiny, tmp_path):
    tensors, header = load_tensors(tiny)
    save_tensors(tmp_path / "q.safetensors", tensors, {**header, "alphabet": ["[C]", "[nop]"]})
    with pytest.raises(StorageError, match=r"another version of tiltflow.molecules.ALPHABET"):
        load(tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match="No shipped molecule prior 'moses'"):
        load("moses")


def test_the_source_is_a_sentence_about_the_model(tmp_path, domain):
    facts = {"data": "my library", "training_molecules": 12000, "validation_molecules": 7, "validation_nelbo": 0.75}
    save_prior(tmp_path / "q.safetensors", domain.diffusion, {**facts, "markov_3": 0.9})
    assert load(tmp_path / "q.safetensors").source.partition(": ")[2] == (
        "my library; learned from 12,000 of them; 7 held out cost 0.7500 nats per token (a Markov chain of order 3: 0.9000)"
    )
