"""`tiltflow pretrain` on a user's own small files: what it makes can be designed with, and it goes on where it stopped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console
from tiltflow.cli import combinations, compose
from tiltflow.core.tilt import Tilt
from tiltflow.dna import decode
from tiltflow.domains import dna
from tiltflow.domains.dna.prior import load_prior
from tiltflow.pretrain import prepare, run
from tiltflow.rewards import fitted
from tiltflow.rewards.learned import CnnRegressor, load
from tiltflow.schema import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTH = 24


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 random sequences; `gc` is a number that can be learned from them."""
    path = tmp_path_factory.mktemp("data") / "mine.csv"
    tokens = torch.randint(4, (300, LENGTH), generator=torch.Generator().manual_seed(0))
    gc = ((tokens == 1) | (tokens == 2)).double().sum(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sequence", "gc"])
        writer.writerows(zip(decode(tokens), gc.tolist(), strict=True))
    return path


@pytest.fixture
def make(tmp_path: Path, table: Path) -> Callable[..., str]:
    """`make(*arguments)` -> what is printed; files go to tmp_path."""

    def do(*arguments: str) -> str:
        printed = io.StringIO()
        composed = compose([f"sequences={table}", f"out={tmp_path}", *arguments], "pretrain")
        part = prepare(composed.config, composed.choices["part"], composed.problems)
        assert run(part, Console(file=printed, width=200)) == 0
        return printed.getvalue()

    return do


TRAINING = ("training.steps=6", "training.validate_every=2", "training.batch=16", "network.channels=8")
TRAINING += ("network.dilations=[1]",)


def test_a_prior_of_the_users_can_be_sampled(make: Callable[..., str], tmp_path: Path) -> None:
    printed = make("part=prior", *TRAINING)
    assert f"tiltflow domain.prior={tmp_path / 'prior.safetensors'}" in printed
    domain = dna.load(tmp_path / "prior.safetensors", steps=3)
    assert domain.diffusion.sample(2, generator=torch.Generator().manual_seed(0)).shape == (2, LENGTH)
    curve = json.loads((tmp_path / "prior.curve.json").read_text())
    assert [row["step"] for row in curve] == [2, 4, 6]
    assert (tmp_path / "prior.curve.png").read_bytes().startswith(b"\x89PNG")
    assert "300 sequences of the user (300 families of relatives)" in (tmp_path / "prior.md").read_text()


def test_the_curve_says_on_how_many_noise_levels_it_rests(
    make: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few at each point and more in the card's figure, which is drawn beside them."""
    drawn: list[Figure] = []
    monkeypatch.setattr("tiltflow.domains.canvas.save", lambda figure, path: drawn.append(figure))
    make("part=prior", *TRAINING)
    legend = [text.get_text() for text in drawn[-1].axes[0].get_legend().get_texts()]
    figure = load_prior(tmp_path / "prior.safetensors")[1]["validation_nelbo"]
    assert legend[:3] == [
        "training",
        "validation, 2 noise levels a sequence",
        f"validation, 64 noise levels: {figure:.4f}",
    ]
    assert len(legend) == 6


def test_an_interrupted_training_goes_on_to_the_same_end(
    make: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("part=prior", *TRAINING)
    whole = load_prior(tmp_path / "prior.safetensors")[0].denoiser.state_dict()
    (tmp_path / "prior.safetensors").unlink()
    (tmp_path / "prior.checkpoint.safetensors").unlink()
    from tiltflow import parts

    original = parts.write_curve

    def interrupted(path: Path, curve: list[dict[str, float]], *rest: object) -> None:
        if len(curve) == 2 and not list(tmp_path.glob("again")):
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        original(path, curve, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(parts, "write_curve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make("part=prior", *TRAINING)
    assert not (tmp_path / "prior.safetensors").exists()
    make("part=prior", *TRAINING)
    resumed = load_prior(tmp_path / "prior.safetensors")[0].denoiser.state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_oracles_of_the_users_are_rewards(make: Callable[..., str], tmp_path: Path, table: Path) -> None:
    small = ("fit.scanners=8", "fit.channels=8", "fit.hidden=8", "fit.dropout=0", "fit.batch=32", "fit.ema=0.9")
    printed = make("part=oracles", "labels=[gc]", "motifs=null", "fit.epochs=60", "fit.learning_rate=0.01", *small)
    assert "Pearson R on held-out families" in printed
    found = dna.DnaCodec(LENGTH).read_csv(table, labels=["gc"])
    for name in ("oracle", "heldout"):
        reward = fitted(tmp_path / f"{name}.safetensors")
        predicted = reward(found.tokens)
        assert torch.corrcoef(torch.stack([predicted, found.labels["gc"]]))[0, 1] > 0.7
    agreement = json.loads((tmp_path / "agreement.json").read_text())
    assert set(agreement) == {"oracle", "heldout"}
    diffusion = dna.load("yeast").diffusion
    assert Tilt(diffusion, fitted(tmp_path / "heldout.safetensors", "gc"), 1.0).reward(found.tokens[:2]).shape == (2,)


def test_oracles_start_from_the_shipped_motifs_and_see_the_flanks(
    make: Callable[..., str], tmp_path: Path, table: Path
) -> None:
    """A file as laboratories have it: flanks, an N, another length, labels that were not measured."""
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    rows = [f"ACTGG{text}CCAT,{gc},{gc if i % 3 else ''}" for i, (text, gc) in enumerate(lines)]
    rows += ["ACTGGNNNNCCAT,1,1", f"TTTTT{lines[0][0]}CCAT,1,1"]
    mine = tmp_path / "constructs.csv"
    mine.write_text("\n".join(["sequence,gc,again", *rows]) + "\n")
    small = ("fit.epochs=1", "fit.channels=8", "fit.hidden=8", "fit.scanners=4")
    reading = ("prefix=ACTGG", "suffix=ccat", "ambiguous=skip", "wrong_length=skip", "flanks=skip")
    printed = make("part=oracles", f"sequences={mine}", "labels=[gc,again]", *small, *reading)
    motifs = dna.Reference.load().motifs
    assert "300 of 302 sequences kept" in printed
    assert "again: 100 of 300 missing" in printed
    assert f"{len(motifs)} shipped ones; JASPAR 2022" in printed
    oracle = load(tmp_path / "oracle.safetensors")
    assert isinstance(oracle, CnnRegressor)
    settings = oracle.network.settings
    assert settings["scanners"] == len(motifs)
    assert settings["flanks"] == [[0, 1, 3, 2, 2], [1, 1, 0, 3]]
    assert "JASPAR" in (tmp_path / "oracle.md").read_text()


def test_relatives_can_be_set_apart_singly(make: Callable[..., str], tmp_path: Path) -> None:
    parent = decode(torch.randint(4, (1, LENGTH), generator=torch.Generator().manual_seed(0)))[0]
    variants = {parent[:i] + base + parent[i + 1 :] for i in range(LENGTH) for base in "ACGT"}
    mine = tmp_path / "variants.fasta"
    mine.write_text("".join(f">s\n{text}\n" for text in sorted(variants)))
    with pytest.raises(ConfigError, match=r"relatives of one another.*relatives=false"):
        make("part=prior", f"sequences={mine}", *TRAINING)
    make("part=prior", f"sequences={mine}", "relatives=false", *TRAINING)
    assert load_prior(tmp_path / "prior.safetensors")[1]["validation_sequences"] == round(len(variants) / 10)


def test_statistics_of_the_users_sequences(make: Callable[..., str], tmp_path: Path, table: Path) -> None:
    make("part=reference")
    reference = dna.Reference.load(tmp_path / "reference.safetensors")
    found = dna.DnaCodec(LENGTH).read_csv(table)
    assert sorted(reference.tokens.tolist()) == sorted(found.tokens.tolist())
    assert len(reference.motifs) == len(dna.Reference.load().motifs) > 100


def test_finished_files_are_not_overwritten(make: Callable[..., str], tmp_path: Path) -> None:
    make("part=reference")
    with pytest.raises(ConfigError, match=r"holds reference\.safetensors already"):
        make("part=reference")


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        ([], "data_dir", "https://github.com/1edv/evolution"),
        (["data_dir=/nowhere"], "data_dir", "is not a folder"),
        (["sequences=/nowhere.csv"], "sequences", "is not a file"),
        (["data_dir=/", "sequences=/nowhere.csv"], "data_dir", "both given"),
        (["held_out=0"], "held_out", "a fraction between 0 and 1"),
        (["threads=0"], "threads", "at least 1"),
        (["training.steps=0"], "training.steps", "at least 1"),
        (["training.step=5"], "training.step", "did you mean steps?"),
        (["network.channels=wide"], "network.channels", "a whole number"),
        (["domain=rna"], "domain", "expected dna"),
        (["part=priors"], "part", "did you mean prior?"),
        (["part=oracles", "data_dir=/", "labels=[x]"], "labels", "only for sequences="),
        (["part=reference", "data_dir=/", "motifs=x.pfm"], "motifs", "only for sequences="),
        (["data_dir=/", "wrong_length=skip"], "wrong_length", "only for sequences="),
        (["data_dir=/", "relatives=false"], "relatives", "only for sequences="),
        (["sequences=/nowhere.csv", "prefix=ACXT"], "prefix", "expected letters ACGT"),
        (["sequences=/nowhere.csv", "ambiguous=drop"], "ambiguous", "expected error or skip"),
        (["part=reference", "sequences=/nowhere.csv", "motifs=jaspar"], "motifs", "shipped for those of tiltflow"),
        (["out=/dev/null/x"], "out", "cannot write"),
        (["out=a,b"], "out", "several values"),
    ],
)
def test_each_mistake_is_named(arguments: list[str], key: str, words: str) -> None:
    (only,), wrong = combinations(arguments, False)
    composed = compose(only, "pretrain")
    with pytest.raises(ConfigError) as caught:
        prepare(composed.config, composed.choices["part"], [*wrong, *composed.problems])
    found = {problem.key: problem.text for problem in caught.value.problems}
    assert words in found[key], found


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"sequence,gc\nACGX,1\n", b"letters,gc\nACGT,1\n"])
def test_files_that_cannot_be_read_end_in_a_message(content: bytes, make: Callable[..., str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^sequences: .*bad\.csv"):
        make("part=reference", f"sequences={bad}")


def test_public_data_that_lack_a_file_say_where_it_is_published(tmp_path: Path) -> None:
    for part in ("prior", "oracles", "reference"):
        composed = compose([f"part={part}", f"data_dir={tmp_path}", f"out={tmp_path / 'out'}"], "pretrain")
        made = prepare(composed.config, part, composed.problems)
        with pytest.raises(ConfigError, match=r"^data_dir: .*https://github.com/1edv/evolution"):
            run(made, Console(file=io.StringIO()))
