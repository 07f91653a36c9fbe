"""Training the promoter prior: which sequences are seen how often, and how good the result is against Markov chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.diffusion import Diffusion
from ...core.pretraining import Pretraining, Progress, nelbo, pretrain
from ...dna import reverse_complement
from .data import commonest, gene_families, load_promoters, split_by_gene
from .prior import build, read_prior, save_prior
from .relatives import split_families

DRAWS = 64  # noise levels a sequence behind the validation figure of a card


@dataclass(frozen=True)
class Corpus:
    """Sequences to learn from, in groups of relatives that count as one.

    Attributes:
        tokens: int64 `[N, L]`, training sequences sorted by group.
        starts, counts: int64 `[G]`: group g is rows starts[g] to starts[g] + counts[g].
        validation: int64 `[V, L]`, one sequence for each held-out group.
        both_strands: also learn the reverse complements.
        data: where the sequences came from.
    """

    tokens: Tensor
    starts: Tensor
    counts: Tensor
    validation: Tensor
    both_strands: bool
    data: str

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n training sequences `[n, L]`: a group uniformly, then one of its members, then a strand."""
        group = torch.randint(len(self.starts), (n,), generator=generator)
        within = torch.rand(n, dtype=torch.float64, generator=generator) * self.counts[group]
        x = self.tokens[self.starts[group] + within.long()]
        if not self.both_strands:
            return x
        flip = torch.rand(n, generator=generator) < 0.5
        return torch.where(flip.unsqueeze(1), reverse_complement(x), x)


def corpus(
    tokens: Tensor, groups: Sequence[str], held_out: Tensor, validation: Tensor, both_strands: bool, data: str
) -> Corpus:
    """Sort the rows that are not held out (bool `[N]`) by group; `validation` are row numbers."""
    names = {name: index for index, name in enumerate(sorted(set(groups)))}
    number = torch.tensor([names[group] for group in groups])
    rows = (~held_out).nonzero().flatten()
    rows = rows[number[rows].argsort(stable=True)]
    _, counts = number[rows].unique_consecutive(return_counts=True)
    return Corpus(tokens[rows], counts.cumsum(0) - counts, counts, tokens[validation], both_strands, data)


def promoter_corpus(data_dir: str | Path, held_out: float = 0.1, seed: int = 0, both_strands: bool = True) -> Corpus:
    """Natural yeast promoters: every gene counts once, a tenth of the genes (whole families) held out."""
    promoters = load_promoters(data_dir)
    _, away = split_by_gene(gene_families(promoters), held_out, seed)
    best = commonest(promoters)
    data = "natural 80-bp yeast promoters of 1 011 isolates (Vaishnav et al. 2022, MIT)"
    return corpus(promoters.tokens, promoters.genes, away, best[away[best]], both_strands, data)


def sequence_corpus(
    tokens: Tensor, held_out: float = 0.1, seed: int = 0, both_strands: bool = True, relatives: bool = True
) -> Corpus:
    """A user's own sequences int64 `[N, L]`, equal ones counted once, whole families of relatives held out.

    Args:
        held_out: fraction of the distinct sequences to validate on.
        relatives: keep relatives on one side, see `relatives.split_families`; False holds single sequences out.

    Raises:
        ValueError: too few distinct sequences to hold any out, or all of them relatives of one another.
    """
    distinct = tokens.unique(dim=0)
    if len(distinct) < 20 or held_out * len(distinct) < 1:
        raise ValueError(
            f"{len(distinct)} distinct sequences are too few to learn from and hold some out; give at least 20."
        )
    family, part = split_families(distinct, {"train": 1 - held_out, "out": held_out}, seed, relatives=relatives)
    away = torch.from_numpy(part == "out")
    if not bool(away.any()):
        raise ValueError(
            f"All {len(distinct)} distinct sequences are relatives of one another, so that none can be held out fairly. With "
            "relatives=false single ones are: the validation then measures memory, too."
        )
    names = [str(i) for i in range(len(distinct))]
    data = f"{len(distinct)} sequences of the user"
    data += f" ({len(set(family.tolist()))} families of relatives)" if relatives else " (relatives not kept together)"
    return corpus(distinct, names, away, away.nonzero().flatten(), both_strands, data)


def markov_nats(corpus: Corpus, order: int, pseudocount: float = 0.05) -> float:
    """Nats per base of a Markov chain fitted to the same training sequences (same weights, both strands) on the validation set.

    The first `order` bases are scored by the chains of lower order.
    """
    weight = (1 / corpus.counts.double()).repeat_interleave(corpus.counts)
    strands = [corpus.tokens, reverse_complement(corpus.tokens)] if corpus.both_strands else [corpus.tokens]
    total = torch.zeros(len(corpus.validation), dtype=torch.float64)
    length = corpus.tokens.shape[1]
    for k in range(order + 1):
        counts = torch.full((4**k, 4), pseudocount / 4, dtype=torch.float64)
        for tokens in strands:
            words = _words(tokens, k + 1)
            flat = torch.zeros(4 ** (k + 1), dtype=torch.float64)
            flat.scatter_add_(0, words.flatten(), weight.unsqueeze(1).expand_as(words).flatten())
            counts += flat.reshape(-1, 4) / len(strands)
        table = (counts / counts.sum(1, keepdim=True)).log().flatten()
        scored = table[_words(corpus.validation, k + 1)]
        total += scored[:, 0] if k < order else scored.sum(1)
    return float(-total.mean()) / length


def _words(tokens: Tensor, k: int) -> Tensor:
    """Number of the word of k letters that starts at each position: int64 `[B, L - k + 1]`."""
    base = 4 ** torch.arange(k - 1, -1, -1)
    return (tokens.unfold(1, k, 1) * base).sum(-1)


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
    levels a sequence, Markov chains; nats per base) stand in its header.

    Args:
        network: keyword arguments of `ConvDenoiser`.
        start: go on from this prior, "yeast" or a file, instead of an untrained network (`network` is then taken from it).

    Raises:
        StorageError: a checkpoint or `start` that is corrupt or does not fit.
        ValueError: sequences of another length than those of `start`.
    """
    path = Path(path)
    length = corpus.tokens.shape[1]
    diffusion = _untrained(length, seed, network or {}) if start is None else _continued(start, length)
    checkpoint = path.with_suffix(".checkpoint.safetensors")
    options: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint, "on_step": on_step}
    for progress in pretrain(diffusion, corpus.draw, corpus.validation, settings, **options):
        if progress.step == progress.total:
            save_prior(path, diffusion, facts(diffusion, corpus, settings, seed))
        yield progress


def _untrained(length: int, seed: int, network: Mapping[str, Any]) -> Diffusion:
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
        torch.manual_seed(seed)
        return build(length, **network)


def _continued(start: str | Path, length: int) -> Diffusion:
    diffusion, _ = read_prior(start)
    if diffusion.shape != (length,):
        raise ValueError(f"The sequences have {length} bases, and prior {start} was trained on {diffusion.shape[0]}.")
    diffusion.denoiser.requires_grad_(True)
    return diffusion


def facts(diffusion: Diffusion, corpus: Corpus, settings: Pretraining, seed: int) -> dict[str, Any]:
    """What the card says: data, validation figures in nats per base, settings."""
    found = nelbo(diffusion, corpus.validation, draws=DRAWS, generator=torch.Generator().manual_seed(seed))
    return {
        "data": corpus.data,
        "training_sequences": len(corpus.tokens),
        "training_groups": len(corpus.starts),
        "validation_sequences": len(corpus.validation),
        "validation_nelbo": round(float(found.mean()), 4),
        "validation_nelbo_sem": round(float(found.std() / len(found) ** 0.5), 4),
        **{f"markov_{order}": round(markov_nats(corpus, order), 4) for order in (0, 3, 5)},
        "steps": settings.steps,
        "batch": settings.batch,
        "seed": seed,
    }
