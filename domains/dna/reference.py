"""What natural promoters look like, in numbers small enough to ship: the yardstick of `metrics`.

One safetensors file holds k-mer spectra, one sequence per gene, and motifs with how often each occurs. Every gene
counts alike in the spectra and rates: some have fifty almost equal alleles in the data, others one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.storage import StorageError, load_tensors, save_tensors
from ...dna import Pwm, motif_counts, read_pfms
from .data import gene_families, load_promoters, split_by_gene
from .statistics import checked, kmer_spectrum

KIND = "dna reference"
SPECTRA = (1, 3, 6)
P_VALUE = 1e-4  # of a motif hit, per start and strand; 1e-3 hardly tells natural promoters from a Markov chain
MOTIFS = Path("dna", "motifs", "JASPAR2022_fungi.pfm")
SOURCES = {
    "promoters": "Vaishnav et al., Nature 603:455 (2022), github.com/1edv/evolution, MIT licence",
    "matrices": (
        "JASPAR 2022 CORE fungi, Castro-Mondragon et al., Nucleic Acids Res. 50:D165 (2022), CC BY 4.0; "
        "changed: counts turned into log odds (pseudocount 0.8, uniform background)"
    ),
}


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of natural promoters, every gene weighted alike."""

    tokens: Tensor  # int64 [G, L], the commonest allele of each gene
    genes: tuple[str, ...]  # G names
    spectra: Mapping[int, Tensor]  # k -> float64 [4^k] k-mer frequencies, on the strand given
    motifs: tuple[Pwm, ...] = ()  # M motifs
    motif_rate: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # [M] mean hits a sequence
    p_value: float = P_VALUE  # threshold of `motif_rate`: see `tiltflow.dna.motif_counts`
    info: Mapping[str, Any] = field(default_factory=dict)  # where it comes from: source, licence, counts; JSON

    @classmethod
    def build(
        cls,
        tokens: Tensor,
        groups: Sequence[str],
        motifs: Sequence[Pwm] = (),
        isolates: Tensor | None = None,
        p_value: float = P_VALUE,
        info: Mapping[str, Any] | None = None,
    ) -> Reference:
        """Statistics of `tokens` int64 [N, L] whose genes (or families) are `groups`, N names.

        `isolates` [N]: how many individuals carry each sequence; the most carried one stands for its gene among the
        neighbours (default: the first one met).
        Raises: DnaError for unfinished sequences; ValueError unless there are as many groups and isolates as sequences.
        """
        tokens = checked(tokens)
        carried = torch.ones(len(tokens)) if isolates is None else isolates
        if not len(tokens) == len(groups) == len(carried):
            raise ValueError(
                f"{len(tokens)} sequences, {len(groups)} groups, {len(carried)} isolates: give one per row"
            )
        genes, member, size = _grouped(groups)
        weights = 1 / size[member].double()
        motifs = tuple(_as_stored(pwm) for pwm in motifs)
        hits = motif_counts(tokens, motifs, p_value) if motifs else torch.zeros(len(tokens), 0)
        rate = weights @ hits.double() / len(genes)
        spectra = {k: kmer_spectrum(tokens, k, weights) for k in SPECTRA if k <= tokens.shape[1]}
        counts = {"sequences": len(tokens), "genes": len(genes), "length": tokens.shape[1], "motifs": len(motifs)}
        typical = tokens[_commonest(member, carried, len(genes))]
        return cls(typical, genes, spectra, motifs, rate, p_value, counts | dict(info or {}))

    def spectrum(self, k: int) -> Tensor:
        """Natural k-mer frequencies, float64 [4^k]. Raises: ValueError for a k that was not counted."""
        if k not in self.spectra:
            raise ValueError(f"the reference has k-mer spectra for k in {sorted(self.spectra)}, not for {k}")
        return self.spectra[k]

    def motif_hits(self, tokens: Tensor) -> Tensor:
        """Hits of each motif in each of `tokens` int64 [B, L], at the threshold of `motif_rate`: int64 [B, M]."""
        if not self.motifs:
            return torch.zeros(len(tokens), 0, dtype=torch.int64)
        return motif_counts(tokens, self.motifs, self.p_value)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all. Raises: StorageError if it cannot be written."""
        tensors = {f"spectrum_{k}": spectrum for k, spectrum in self.spectra.items()}
        tensors |= {"sequences": _pack(self.tokens), "motif_rate": self.motif_rate}
        if self.motifs:
            tensors["motif_log_odds"] = torch.cat([pwm.log_odds for pwm in self.motifs]).float()
        save_tensors(path, tensors, self._metadata())

    def _metadata(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "genes": self.genes,
            "length": self.tokens.shape[1],
            "motifs": [[m.name, m.width, list(m.background), m.pseudocount] for m in self.motifs],
            "p_value": self.p_value,
            "info": dict(self.info),
        }

    @classmethod
    def load(cls, path: str | Path | None = None) -> Reference:
        """The reference in a file, or the shipped one of yeast promoters.

        Raises: StorageError, a ValueError, for a file that is corrupt or something else; FileNotFoundError.
        """
        if path is not None:
            return cls._read(Path(path))
        with resources.as_file(resources.files(__package__) / "assets" / "reference.safetensors") as shipped:
            return cls._read(shipped)

    @classmethod
    def _read(cls, path: Path) -> Reference:
        tensors, metadata = load_tensors(path, KIND)
        try:
            return cls._from_parts(tensors, metadata)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StorageError(
                f"{path} is not a whole reference ({type(error).__name__}: {error}). Make it again with Reference.save."
            ) from error

    @classmethod
    def _from_parts(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Reference:
        genes, tokens = tuple(facts["genes"]), _unpack(tensors["sequences"], facts["length"])
        spectra = {k: tensors[f"spectrum_{k}"] for k in SPECTRA if f"spectrum_{k}" in tensors}
        rate = tensors["motif_rate"]
        if len(genes) != len(tokens) or len(rate) != len(facts["motifs"]):
            raise ValueError("numbers of genes, sequences, motifs and rates disagree")
        if any(spectrum.shape != (4**k,) for k, spectrum in spectra.items()):
            raise ValueError("a spectrum has the wrong length")
        motifs = tuple(_motifs(facts["motifs"], tensors.get("motif_log_odds", torch.zeros(0, 4))))
        return cls(tokens, genes, spectra, motifs, rate, facts["p_value"], facts["info"])


def _motifs(facts: Sequence[Sequence[Any]], log_odds: Tensor) -> list[Pwm]:
    """The matrices cut out of `log_odds` float32 [sum of widths, 4]."""
    blocks = log_odds.double().split([width for _, width, _, _ in facts]) if facts else ()
    return [Pwm(name, block, tuple(bg), pseudo) for (name, _, bg, pseudo), block in zip(facts, blocks, strict=True)]


def _as_stored(pwm: Pwm) -> Pwm:
    """`pwm` at the precision of the file, so that a loaded reference counts exactly what the built one counted."""
    return Pwm(pwm.name, pwm.log_odds.float().double(), pwm.background, pwm.pseudocount)


def _grouped(groups: Sequence[str]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Sorted names, the group of each member int64 [N], and the sizes int64 [G]."""
    names = tuple(sorted(set(groups)))
    number = {name: i for i, name in enumerate(names)}
    member = torch.tensor([number[group] for group in groups])
    return names, member, member.bincount(minlength=len(names))


def _commonest(member: Tensor, carried: Tensor, groups: int) -> Tensor:
    """Index [G] of the most carried sequence of each group, the first of equals."""
    order = carried.argsort(descending=True, stable=True)
    order = order[member[order].argsort(stable=True)]
    return order[torch.searchsorted(member[order], torch.arange(groups))]


def _pack(tokens: Tensor) -> Tensor:
    """uint8 [G, ceil(L / 4)]: four bases a byte, the first in the high bits."""
    padded = F.pad(tokens, (0, -tokens.shape[1] % 4))
    return (padded.unflatten(1, (-1, 4)) * torch.tensor([64, 16, 4, 1])).sum(2).to(torch.uint8)


def _unpack(packed: Tensor, length: int) -> Tensor:
    """int64 [G, L] from `_pack`."""
    if packed.ndim != 2 or packed.dtype != torch.uint8 or packed.shape[1] != -(-length // 4):
        raise ValueError(f"packed sequences {packed.dtype} {list(packed.shape)} do not hold {length} bases")
    return ((packed.long()[..., None] // torch.tensor([64, 16, 4, 1])) % 4).flatten(1)[:, :length]


def build_reference(data_dir: str | Path, held_out: float = 0.1, seed: int = 0) -> Reference:
    """The reference of the training genes among the natural yeast promoters under `data_dir`.

    Homologous genes stay on one side of the split, the same split as the prior's for the same `held_out` and `seed`.
    Motifs come from `data_dir`/dna/motifs/JASPAR2022_fungi.pfm.

    Raises: FileNotFoundError and DataError of `load_promoters`; DnaError, OSError of `read_pfms`.
    """
    promoters = load_promoters(data_dir)
    motifs = read_pfms(Path(data_dir) / MOTIFS)
    train, _ = split_by_gene(gene_families(promoters), held_out, seed)
    genes = [gene for gene, kept in zip(promoters.genes, train.tolist(), strict=True) if kept]
    facts = {"held_out": held_out, "seed": seed, **SOURCES}
    return Reference.build(promoters.tokens[train], genes, motifs, promoters.isolates[train], info=facts)
