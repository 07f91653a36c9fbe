"""The DNA domain: a prior over sequences, with codec, constraints, metrics and figures around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ...core.diffusion import Diffusion
from ...dna import ALPHABET
from ..base import Domain, Drawing, unrestricted
from .codec import DnaCodec
from .constraints import Template, check
from .metrics import METRICS, evaluate
from .prior import read_prior, save_prior
from .reference import Reference


def load(
    prior: str | Path = "yeast",
    *,
    steps: int = 64,
    template: str | Mapping[int | str, str] | None = None,
    forbidden: Iterable[str] = (),
    reference: str | Path | None = None,
) -> Domain:
    """A DNA domain, ready to sample, steer and tune.

    Args:
        prior: name of a shipped prior ("yeast": 80-bp promoters) or a file made by `tiltflow pretrain`.
        steps: reverse steps of the sampler.
        template: IUPAC template that the sampler enforces, such as "N20 TATAWAW N53" or {21: "TATAWAW"} (from 1).
        forbidden: sites or enzymes that must be avoidable under the template (the reward `ForbiddenSites` avoids them).
        reference: statistics to compare with, a file made by `tiltflow pretrain` (default: the shipped ones).

    Raises:
        ValueError: an unknown prior, a corrupt file, or a template that contradicts itself or `forbidden`.
    """
    diffusion, facts = read_prior(prior, steps)
    codec = DnaCodec(diffusion.shape[0])
    statistics = Reference.load(reference)
    domain = Domain(
        name="dna",
        diffusion=diffusion,
        alphabet=ALPHABET,
        codec=codec,
        metrics=DnaMetrics(statistics),
        export=partial(_export, codec),
        reference=statistics,
        figures=_figures,
        site="base",
        source=_source(prior, facts),
        save=_save,
    )
    return domain if template is None else constrain(domain, template, forbidden)


def constrain(domain: Domain, template: str | Mapping[int | str, str], forbidden: Iterable[str] = ()) -> Domain:
    """The same domain whose sampler honours an IUPAC template at every site.

    Raises:
        TemplateError: the template cannot be read, contradicts itself, or makes a forbidden site unavoidable.
    """
    parsed = Template.parse(template, length=domain.diffusion.shape[0])
    if forbidden:
        check(parsed, forbidden)
    return replace(domain, diffusion=domain.diffusion.restrict(parsed.allowed), constraints=parsed.echo())


@dataclass(frozen=True)
class DnaMetrics:
    """The metrics of a domain with this reference; see `metrics.evaluate`."""

    reference: Reference
    meanings: ClassVar[Mapping[str, str]] = METRICS

    def __call__(self, x: Tensor, **scores: Tensor | None) -> Mapping[str, float | int | None]:
        return evaluate(x, self.reference, **scores)


def _figures(sets: Mapping[str, Any]) -> Iterable[Drawing]:
    from .plots import report_figures

    return report_figures(sets)


def _export(codec: DnaCodec, folder: Path, samples: Any, columns: Mapping[str, Any]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"design_{i + 1:04d}" for i in range(len(samples.x))]
    fasta, table = folder / "samples.fasta", folder / "samples.csv"
    codec.write_fasta(fasta, samples, names=names, overwrite=True)
    codec.write_csv(table, {"name": names, "sequence": codec.decode(samples.x), **columns}, overwrite=True)
    return [fasta, table]


def _save(path: Path, diffusion: Diffusion, facts: Mapping[str, Any]) -> None:
    """The network without a template: who loads it may ask for another one."""
    save_prior(path, unrestricted(diffusion), facts)


def _source(prior: str | Path, facts: Mapping[str, Any]) -> str:
    """Where a prior came from and how good it is, in words; what its file does not say is left out."""
    known = {name: value for name, value in facts.items() if isinstance(value, int | float)}
    if known.get("training_groups") == known.get("training_sequences"):
        known.pop("training_groups", None)  # each sequence counts by itself
    learned = _join(known, ("training_sequences", "learned from {:,} of them"), ("training_groups", "in {:,} groups"))
    bound = _join(known, ("validation_nelbo", "{:.4f}"), ("validation_nelbo_sem", "+- {:.4f}"))
    chain = _join(known, ("markov_5", " (a Markov chain of order 5: {:.4f})"))
    figure = (
        f"{known.get('validation_sequences', 'others')} held out cost {bound} nats per base{chain}" if bound else ""
    )
    return "; ".join(filter(None, (f"{prior}: {facts.get('data', 'no description')}", learned, figure)))


def _join(known: Mapping[str, float], *parts: tuple[str, str]) -> str:
    """The parts whose figure is known, written out."""
    return " ".join(form.format(known[name]) for name, form in parts if name in known)
