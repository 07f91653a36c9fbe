"""The molecule domain: a prior over SELFIES words, with codec, constraints, metrics and figures around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from ...core.diffusion import Diffusion
from ...core.samplers import Ancestral, FirstHitting
from ...molecules import ALPHABET, decode, package
from ..base import Domain, Drawing, unrestricted
from .codec import MoleculeCodec
from .constraints import Template, TemplateError, grow_from, link, parse
from .metrics import METRICS, evaluate
from .prior import read_prior, save_prior
from .properties import DESCRIPTORS, alert_names, properties
from .reference import Reference

_SAMPLERS: Mapping[str, type[Ancestral] | type[FirstHitting]] = {"ancestral": Ancestral, "first_hitting": FirstHitting}


def load(
    prior: str | Path = "zinc",
    *,
    steps: int = 64,
    template: str | None = None,
    scaffold: str | None = None,
    linker: str | None = None,
    linker_words: int = 3,
    reference: str | Path | None = None,
    sampler: Literal["ancestral", "first_hitting"] = "first_hitting",
    top_p: float = 1.0,
) -> Domain:
    """A domain of molecules, ready to sample, steer and tune.

    Args:
        prior: name of a shipped prior ("zinc": drug-like molecules, "qm9": at most nine heavy atoms), or a file made by
            `tiltflow pretrain domain=molecules`.
        steps: reverse steps of the ancestral sampler.
        template: SELFIES symbols that the sampler fixes at their places, such as "[C][=Branch1][C][=O] *4 [N]", with *
            for free sites; see `constraints` for what that promises.
        scaffold: SMILES with one *, such as "*c1ccc2[nH]ccc2c1": every molecule contains it, grown at *.
        linker: two SMILES with one * each, such as "*c1ccccc1.*N1CCOCC1": every molecule joins them.
        linker_words: words of the alphabet between the two.
        reference: statistics to compare with, a file made by `tiltflow pretrain domain=molecules` (default: the shipped ones
            that belong to the prior).
        sampler: "first_hitting" draws one word at a time whatever `steps` is, which is nearest to the model and the exact
            conditional law under a template; "ancestral" fills the sites in `steps` steps, several at once where they are few.
        top_p: draw among the likeliest symbols that together have this probability (nucleus sampling). Less than 1 gives
            cleaner molecules of a less varied law, which is then the one that is steered; tuning needs 1.

    Raises:
        ValueError: an unknown prior or sampler, a corrupt file, or a template or scaffold that cannot be honoured.
        ModuleNotFoundError: selfies is not installed.
    """
    package()  # before anything is read
    diffusion, facts = read_prior(prior, steps)
    if sampler not in _SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}; expected {' or '.join(_SAMPLERS)}.")
    diffusion = replace(diffusion, sampler=_SAMPLERS[sampler](top_p=top_p))
    codec = MoleculeCodec(diffusion.shape[0])
    statistics = Reference.load(reference, str(prior))
    domain = Domain(
        name="molecules",
        diffusion=diffusion,
        alphabet=ALPHABET,
        codec=codec,
        metrics=MoleculeMetrics(statistics),
        export=partial(_export, codec),
        reference=statistics,
        figures=partial(_figures, statistics),
        describe=partial(describe, statistics),
        site="token",
        unit="molecule",
        source=_source(prior, facts),
        save=_save,
    )
    return constrain(domain, template=template, scaffold=scaffold, linker=linker, linker_words=linker_words)


def constrain(
    domain: Domain,
    *,
    template: str | None = None,
    scaffold: str | None = None,
    linker: str | None = None,
    linker_words: int = 3,
) -> Domain:
    """The same domain whose sampler fixes what one of these says, as in `load`; with none, the domain itself.

    Raises:
        TemplateError: several, or one that cannot be honoured.
    """
    given = [name for name, text in (("template", template), ("scaffold", scaffold), ("linker", linker)) if text]
    if len(given) > 1:
        raise TemplateError(f"{' and '.join(given)} came together; each is a template of its own, so give one of them")
    length = domain.diffusion.shape[0]
    if scaffold is not None:
        return _restricted(domain, grow_from(scaffold, length))
    if linker is not None:
        return _restricted(domain, link(linker, linker_words, length))
    return domain if template is None else _restricted(domain, parse(template, length))


def _restricted(domain: Domain, template: Template) -> Domain:
    return replace(domain, diffusion=domain.diffusion.restrict(template.allowed), constraints=template.words)


@dataclass(frozen=True)
class MoleculeMetrics:
    """The metrics of a domain with this reference; see `metrics.evaluate`."""

    reference: Reference
    meanings: ClassVar[Mapping[str, str]] = METRICS

    def __call__(self, x: Tensor, **scores: Tensor | None) -> Mapping[str, float | int | None]:
        return evaluate(x.cpu(), self.reference, **scores)


def _figures(reference: Reference, sets: Mapping[str, Any]) -> Iterable[Drawing]:
    from .plots import report_figures

    return report_figures(sets, reference)


def describe(reference: Reference, x: Tensor) -> dict[str, list[Any]]:
    """What samples.csv says of each molecule of x `[B, L]` beside its reward; empty cells for what is no molecule.

    QED, logP, weight (Da), the structural alerts it raises, the nearest molecule of the reference with the Tanimoto
    similarity to it, and whether it is one that the prior was trained on (where that is known).
    """
    smiles = decode(x)
    valid = list(dict.fromkeys(filter(None, smiles)))
    rows: dict[str, dict[str, Any]] = {
        "": dict.fromkeys((*_SAID, "alerts", "nearest", "nearest_similarity", "in_training"))
    }
    for text, (near, similarity) in zip(valid, reference.nearest(valid), strict=True):
        values = dict(zip(DESCRIPTORS, properties(text).descriptors.tolist(), strict=True))
        known = None if reference.known is None else text in reference.known
        rows[text] = {
            **{name: values[name] for name in _SAID},
            "alerts": "; ".join(alert_names(text)),
            "nearest": near,
            "nearest_similarity": similarity,
            "in_training": known,
        }
    return {name: [rows[text][name] for text in smiles] for name in rows[""]}


_SAID = ("qed", "logp", "weight")


def _export(codec: MoleculeCodec, folder: Path, samples: Any, columns: Mapping[str, Any]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"design_{i + 1:04d}" for i in range(len(samples.x))]
    structures, table = folder / "samples.sdf", folder / "samples.csv"
    codec.write_sdf(structures, samples, columns, names, overwrite=True)
    codec.write_csv(table, {"name": names, "smiles": codec.decode(samples.x), **columns}, overwrite=True)
    return [structures, table]


def _save(path: Path, diffusion: Diffusion, facts: Mapping[str, Any]) -> None:
    """The network without a template: who loads it may ask for another one."""
    save_prior(path, unrestricted(diffusion), facts)


def _source(prior: str | Path, facts: Mapping[str, Any]) -> str:
    """Where a prior came from and how good it is, in words; what its file does not say is left out."""
    said = [f"{prior}: {facts.get('data', 'no description')}"]
    if "training_molecules" in facts:
        said.append(f"learned from {facts['training_molecules']:,} of them")
    if "validation_nelbo" in facts:
        bound = f"{facts.get('validation_molecules', 'others')} held out cost {facts['validation_nelbo']:.4f} nats per token"
        chain = f" (a Markov chain of order 3: {facts['markov_3']:.4f})" if "markov_3" in facts else ""
        said.append(bound + chain)
    return "; ".join(said)
