"""Training the molecule prior, and how good the result is against Markov chains of the same symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.diffusion import Diffusion
from ...core.pretraining import Pretraining, Progress, nelbo, pretrain
from ...molecules import MASK
from .data import Library, split_by_scaffold
from .prior import build, read_prior, save_prior
from .reference import Reference

DRAWS = 16  # noise levels a molecule behind the validation figure of a card
VALIDATION = 512  # held-out molecules that are looked at


@dataclass(frozen=True)
class Corpus:
    """Library to learn from, each counted once.

    Attributes:
        tokens: int16 `[N, L]`, training molecules.
        validation: int64 `[V, L]`, the molecules with held-out scaffolds that are looked at.
        data: where the molecules came from.
        outside: int16 `[H, L]`, all molecules with held-out scaffolds, those of the validation first.
        smiles: N canonical SMILES of the training molecules.
    """

    tokens: Tensor
    validation: Tensor
    data: str
    outside: Tensor
    smiles: tuple[str, ...]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n training molecules, int64 `[n, L]`."""
        return self.tokens[torch.randint(len(self.tokens), (n,), generator=generator)].long()

    def reference(self, n: int) -> Reference:
        """Statistics of at most n of the molecules that are held out, which know the training molecules."""
        some = self.outside[:n].long()
        info = {"data": self.data, "natural_molecules": len(some), "known_molecules": len(self.smiles)}
        return Reference.build(some, self.smiles, info)


def molecule_corpus(molecules: Library, data: str, held_out: float = 0.05, seed: int = 0) -> Corpus:
    """A part of the scaffolds held out; at most `VALIDATION` molecules of these are looked at.

    Raises:
        ValueError: too few molecules, or none with a held-out scaffold.
    """
    if len(molecules.smiles) < 20:
        raise ValueError(f"{len(molecules.smiles)} distinct molecules are too few to learn from; give at least 20.")
    away = split_by_scaffold(molecules.smiles, held_out, seed)
    if not bool(away.any()) or bool(away.all()):
        raise ValueError(
            f"The scaffolds of {len(molecules.smiles)} molecules cannot be divided: with held_out={held_out} and seed={seed} "
            "one side is empty. Choose another seed, or a held_out closer to a half."
        )
    outside = molecules.tokens[away]
    outside = outside[torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))]
    known = tuple(smiles for smiles, out in zip(molecules.smiles, away.tolist(), strict=True) if not out)
    return Corpus(molecules.tokens[~away], outside[:VALIDATION].long(), data, outside, known)


def markov_nats(corpus: Corpus, order: int, pseudocount: float = 0.05) -> float:
    """Nats per token of a Markov chain fitted to the same training molecules on the validation set.

    A token is scored by the context of `order` tokens before it. Counts of a context are mixed with what the chain of
    one order less says, `pseudocount * K` observations of it; below order 0 is the uniform law.
    """
    probability: Tensor | float = 1 / MASK
    for k in range(order + 1):
        probability = _refined(corpus, k, probability, pseudocount * MASK)
    assert isinstance(probability, Tensor)
    return float(-probability.log().sum(1).mean()) / corpus.validation.shape[1]


def _refined(corpus: Corpus, k: int, lower: Tensor | float, weight: float) -> Tensor:
    """Probability of every validation token given the k before it (fewer at the start), float64 `[V, L]`."""
    words, contexts = _words(corpus.tokens.long(), k + 1), _words(corpus.tokens.long(), k, ahead=True)
    seen = _counts(words, _words(corpus.validation, k + 1))
    total = _counts(contexts, _words(corpus.validation, k, ahead=True))
    return (seen + weight * lower) / (total + weight)


def _words(tokens: Tensor, k: int, ahead: bool = False) -> Tensor:
    """A number for the k tokens that end at each site (`ahead`: just before it), int64 `[B, L]`; the start is padded."""
    padded = torch.nn.functional.pad(tokens, (k, 0), value=MASK)
    first = 0 if ahead else 1
    number = torch.zeros_like(tokens)
    for j in range(first, first + k):
        number = number * (MASK + 1) + padded[:, j : j + tokens.shape[1]]
    return number


def _counts(known: Tensor, asked: Tensor) -> Tensor:
    """How often each number of `asked` occurs in `known`, float64."""
    values, counts = known.flatten().unique(return_counts=True)
    place = torch.searchsorted(values, asked).clamp(max=len(values) - 1)
    return torch.where(values[place] == asked, counts[place], 0).double()


def train_prior(
    corpus: Corpus,
    path: str | Path,
    settings: Pretraining,
    *,
    seed: int = 0,
    network: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    on_step: Callable[[int, float], Any] | None = None,
) -> Iterator[Progress]:
    """Train on a corpus and write the prior to `path`; a checkpoint beside it makes it resumable.

    Yields at every validation, the last time when the file is written. The final figures (validation NELBO at `DRAWS` noise
    levels a molecule, Markov chains; nats per token) stand in its header. Weights are written in float16, and the figures
    are those of the rounded weights.

    Args:
        network: keyword arguments of `TransformerDenoiser`.
        start: go on from this prior, "zinc" or a file, instead of an untrained network (`network` is then taken from it).

    Raises:
        StorageError: a checkpoint or `start` that is corrupt or does not fit.
        ValueError: rows of another length than those of `start`.
    """
    path = Path(path)
    length = corpus.tokens.shape[1]
    diffusion = _untrained(length, seed, network or {}) if start is None else _continued(start, length)
    checkpoint = path.with_suffix(".checkpoint.safetensors")
    options: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint, "on_step": on_step}
    for progress in pretrain(diffusion, corpus.draw, corpus.validation, settings, **options):
        if progress.step == progress.total:
            _round(diffusion)
            save_prior(path, diffusion, facts(diffusion, corpus, settings, seed), half=True)
        yield progress


def _round(diffusion: Diffusion) -> None:
    """Weights as they will be read back from the file."""
    with torch.no_grad():
        for weight in diffusion.denoiser.parameters():
            weight.copy_(weight.half().to(weight.dtype))


def _untrained(length: int, seed: int, network: Mapping[str, Any]) -> Diffusion:
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
        torch.manual_seed(seed)
        return build(length, **network)


def _continued(start: str | Path, length: int) -> Diffusion:
    diffusion, _ = read_prior(start)
    if diffusion.shape != (length,):
        raise ValueError(f"The rows have {length} tokens, and prior {start} was trained on {diffusion.shape[0]}.")
    diffusion.denoiser.requires_grad_(True)
    return diffusion


def facts(diffusion: Diffusion, corpus: Corpus, settings: Pretraining, seed: int) -> dict[str, Any]:
    """What the card says: data, validation figures in nats per token, settings."""
    found = nelbo(diffusion, corpus.validation, draws=DRAWS, generator=torch.Generator().manual_seed(seed))
    return {
        "data": corpus.data,
        "training_molecules": len(corpus.tokens),
        "validation_molecules": len(corpus.validation),
        "validation_nelbo": round(float(found.mean()), 4),
        "validation_nelbo_sem": round(float(found.std() / len(found) ** 0.5), 4),
        **{f"markov_{order}": round(markov_nats(corpus, order), 4) for order in range(4)},
        "steps": settings.steps,
        "batch": settings.batch,
        "seed": seed,
    }
