"""Rewards learned from labels: one to optimise and one of another kind, on other rows, to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .core.storage import write_json
from .dna import encode
from .domains.dna.data import (
    FLANKS,
    commonest,
    expression_families,
    expression_folds,
    load_expression,
    load_motifs,
    load_promoters,
)
from .domains.dna.relatives import split_families
from .parts import Part, bar, motifs_of, write_card
from .rewards.expression import ASSETS, Campaign, train
from .rewards.learned import CnnRegressor, CnnSettings, KmerRidge, agreement, fit_cnn, fit_kmer_ridge

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

OWN = ("oracle", "heldout")
COMMAND = "tiltflow pretrain domain=dna part=oracles data_dir=<folder with dna/>"


@dataclass(frozen=True)
class Oracles(Part):
    """Both oracles, as rewards for `reward=fitted`. Not resumable: it takes minutes."""

    labels: list[str]
    motifs: str | None
    relatives: bool
    fit: CnnSettings

    targets = tuple(f"{name}.safetensors" for name in (*OWN, *ASSETS.values()))

    @property
    def names(self) -> tuple[str, str]:
        """Of the oracle and of its judge: those of the shipped ones, where the data are theirs."""
        return OWN if self.sequences else (ASSETS[False], ASSETS[True])

    def make(self, console: Console) -> None:
        agreements = self._own(console) if self.sequences else self._public(console)
        write_json(self.path.with_name("agreement.json"), agreements)
        for kind, table in agreements.items():
            for head, rows in table.items():
                figures = ", ".join(f"{name} {_figure(row['pearson'])}" for name, row in rows.items())
                console.print(f"{kind}, {head}: Pearson R on held-out families {figures}", highlight=False)
        oracle, judge = (self.path.with_name(f"{name}.safetensors") for name in self.names)
        files = f"reward.file={oracle} heldout.file={judge} reward.name={next(iter(agreements[self.names[0]]))}"
        console.print(f"Use them: tiltflow reward=fitted {files}", highlight=False, soft_wrap=True)

    def _public(self, console: Console) -> dict[str, Any]:
        measured, promoters = load_expression(self.data), load_promoters(self.data)
        family = expression_families(measured)
        campaign = Campaign(
            tokens=measured.tokens,
            labels=measured.expression,
            subset=measured.subset,
            fold=expression_folds(measured, family, self.held_out, self.seed),
            family=family,
            natural=promoters.tokens[commonest(promoters)],
            motifs=load_motifs(self.data),
            flanks=[encode(flank).tolist() for flank in FLANKS],
        )
        with bar("epochs", self.fit.epochs, console) as on_epoch:
            folder = self.path.parent
            figures = train(campaign, folder, command=COMMAND, seed=self.seed, settings=self.fit, progress=on_epoch)
        return {name: figures[name]["test"] for name in self.names}

    def _own(self, console: Console) -> dict[str, Any]:
        found = self.own(self.labels)
        console.print(str(found.report), highlight=False)
        labels = torch.stack([found.labels[name] for name in self.labels], 1)
        share = (1 - self.held_out) / 2
        shares = {"A": share, "B": share, "test": self.held_out}
        family, fold = split_families(found.tokens, shares, self.seed, relatives=self.relatives)
        motifs, source = motifs_of(self.motifs)
        console.print(f"scanners start from motifs: {source}", highlight=False)
        rows = {name: torch.from_numpy(fold == name) for name in shares}
        half = {name: (found.tokens[kept], labels[kept]) for name, kept in rows.items()}
        common: dict[str, Any] = {"names": self.labels, "generator": torch.Generator().manual_seed(self.seed)}
        own: dict[str, Any] = {"settings": self.fit, "motifs": motifs, "flanks": self._flanks(), **common}
        with bar("epochs", self.fit.epochs, console) as on_epoch:
            cnn = fit_cnn(*half["A"], groups=family[fold == "A"], on_epoch=on_epoch, **own)
        cnn.facts["motifs"] = source
        ridge = fit_kmer_ridge(*half["B"], groups=family[fold == "B"], **common)
        made: tuple[CnnRegressor | KmerRidge, ...] = (cnn, ridge)
        return {name: self._keep(name, model, *half["test"]) for name, model in zip(self.names, made, strict=True)}

    def _flanks(self) -> list[list[int]]:
        """The ends of the construct, which the scanners see beside the sequence."""
        return [encode(flank).tolist() if flank else [] for flank in (self.prefix, self.suffix)]

    def _keep(self, name: str, model: CnnRegressor | KmerRidge, tokens: Tensor, labels: Tensor) -> dict[str, Any]:
        """Write a model with its figures and card; returns how well it agrees with the test rows."""
        with torch.no_grad():
            table = agreement(model(tokens), labels, ["all"] * len(tokens), self.labels) if len(tokens) else {}
        model.facts |= {"test": table, "seed": self.seed}
        path = self.path.with_name(f"{name}.safetensors")
        model.save(path)
        write_card(path, {"heads": ", ".join(self.labels), "kind": model.kind, **model.facts})
        return table


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
