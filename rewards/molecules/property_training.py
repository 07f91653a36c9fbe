"""How the shipped oracles of measured properties are made: data, split by scaffold, fit, figures and cards.

tiltflow pretrain domain=molecules part=properties data_dir=data
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.storage import save_tensors, write_text
from ...smiles import MoleculeError, parse
from .properties import (
    FORMAT,
    PROPERTIES,
    SEEN,
    Floats,
    KernelModel,
    asset_name,
    descriptors,
    folded,
    kernel,
    read_model,
    standardised,
)
from .rules import scaffold

COMMAND = "tiltflow pretrain domain=molecules part=properties data_dir=<folder with molecules/>"
FOLDS = {"oracle": 0.55, "judge": 0.25, "calibration": 0.1, "test": 0.1}
PENALTIES = (0.03, 0.1, 0.3, 1.0)
_SALT = "folds of measured properties: "
COVERAGE = 0.9
WIDTH = 3.0


class Source(NamedTuple):
    """A public table: file, separator, columns of the SMILES and of the number, and what it is."""

    file: str
    separator: str
    smiles: str
    value: str
    text: str


SOURCES = {
    "logd": Source(
        "lipo.csv",
        ",",
        "smiles",
        "exp",
        "4 200 compounds of ChEMBL deposited by AstraZeneca, in the edition of MoleculeNet (Wu et al., Chemical Science "
        "9:513, 2018), https://github.com/aspuru-guzik-group/selfies, tests/test_sets/molnet/lipo.csv; ChEMBL is CC BY-SA 3.0",
    ),
    "logs": Source(
        "solubility_aqsoldb.tab",
        "\t",
        "Drug",
        "Y",
        "AqSolDB, 9 982 compounds of nine collections (Sorkun, Khetan and Er, Scientific Data 6:143, 2019; CC0), in the edition "
        "of https://github.com/wenhao-gao/mol_opt, main/reinvent_transformer/data/solubility_aqsoldb.tab",
    ),
}
# The judge sees pairs of atoms instead of surroundings of atoms, and no descriptors, so that it does not err alike.
# It keeps fewer landmarks, since a molecule has many more pairs than surroundings to store.
_SEES = {False: ("ecfp4", 0.5), True: ("ap", 1.0)}
_LANDMARKS = {False: 1500, True: 650}


@dataclass(frozen=True)
class Measured:
    """N distinct molecules with a measured value.

    Attributes:
        counts: by fingerprint, uint8 `[N, BITS]`; described: `[N, D]`, raw; values: `[N]`; fold: `[N]`, of `FOLDS`.
        unread: how many rows of the table were no molecule or repeated one.
    """

    counts: Mapping[str, NDArray[np.uint8]]
    described: Floats
    values: Floats
    fold: NDArray[np.str_]
    unread: int = 0


def train_properties(
    data_dir: str | Path,
    out_dir: str | Path,
    *,
    seed: int = 0,
    progress: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Fit the oracles and judges of all properties, measure them, and write them with their cards. A few CPU minutes.

    Args:
        data_dir: folder with the tables, or with `molecules/` that has them; see `SOURCES`. out_dir: for the oracles.
        progress: called with a line for each oracle.

    Returns:
        Their figures, by file name.

    Raises:
        FileNotFoundError: a table is missing; says where it is published.
        ValueError: a table that cannot be read; names file and line.
    """
    figures = {}
    for name in PROPERTIES:
        measured = read_measured(name, Path(data_dir))
        models = {held: fit(measured, held, torch.Generator().manual_seed(seed)) for held in (False, True)}
        between = _correlation(*(_predicted(model, measured, measured.fold == "test") for model in models.values()))
        for held, model in models.items():
            facts = {**model.facts, "property": name, "seed": seed, "between": between, "unread": measured.unread}
            path = Path(out_dir) / f"{asset_name(name, held)}.safetensors"
            save_model(replace(model, facts=facts), path)
            write_text(path.with_suffix(".md"), card(read_model(path)))
            figures[path.stem] = facts
            if progress is not None:
                progress(f"{path.stem}: R {facts['r']:.3f}, RMSE {facts['rmse']:.3f}, coverage {facts['coverage']:.3f}")
    return figures


def read_measured(name: str, folder: Path) -> Measured:
    """The table of a property, in `folder` or its folder `molecules`: one row a molecule, repeated measurements averaged."""
    source = SOURCES[name]
    path = next(
        (place for place in (folder / "molecules" / source.file, folder / source.file) if place.is_file()), None
    )
    if path is None:
        raise FileNotFoundError(f"no {folder / source.file}; it is published: {source.text}")
    found: dict[str, list[float]] = {}
    rows = 0
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file, delimiter=source.separator), 2):
            rows += 1
            try:
                text, value = _canonical(row[source.smiles]), float(row[source.value])
            except MoleculeError:
                continue
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}:{line}: expected columns {source.smiles} and {source.value} ({error})"
                ) from None
            found.setdefault(text, []).append(value)
    return _measured(found, rows - len(found))


def _measured(found: Mapping[str, list[float]], unread: int) -> Measured:
    mols = [parse(text) for text in found]
    return Measured(
        counts={kind: np.stack([folded(mol, kind) for mol in mols]) for kind, _ in _SEES.values()},
        described=np.stack([descriptors(mol) for mol in mols]),
        values=np.array([np.mean(values) for values in found.values()]),
        fold=np.array([fold_of(scaffold(mol) or text) for mol, text in zip(mols, found, strict=True)]),
        unread=unread,
    )


def _canonical(smiles: str) -> str:
    from rdkit import Chem

    return str(Chem.MolToSmiles(parse(smiles)))


def fold_of(group: str) -> str:
    """Which of `FOLDS` a scaffold belongs to, by its hash: molecules that share it stay together in every data set."""
    place = int(hashlib.sha256(f"{_SALT}{group}".encode()).hexdigest()[:12], 16) / 16**12
    for name, share in FOLDS.items():
        if place < share:
            return name
        place -= share
    return list(FOLDS)[-1]


def fit(measured: Measured, heldout: bool, generator: torch.Generator) -> KernelModel:
    """An oracle or a judge with its figures; the penalty is the best on a fifth of its own molecules, set aside for that."""
    kind, share = _SEES[heldout]
    rows = np.flatnonzero(measured.fold == ("judge" if heldout else "oracle"))
    if len(rows) < 10:
        raise ValueError(f"{len(rows)} molecules to fit: expected at least 10")
    order = rows[torch.randperm(len(rows), generator=generator).numpy()]
    mean, std = measured.described[rows].mean(0), measured.described[rows].std(0)
    std = np.where(std > 0, std, 1.0)
    scaled = np.round(standardised(measured.described, mean, std), 3)
    chosen = order[: _LANDMARKS[heldout]]
    counts = measured.counts[kind]
    table = kernel(counts[order], scaled[order], counts[chosen], scaled[chosen], share, WIDTH)
    aside = len(order) // 5
    values = measured.values[order]
    own = table[: len(chosen)]  # the landmarks are the first molecules
    missed = {penalty: _missed(table, own, values, aside, penalty) for penalty in PENALTIES}
    penalty = min(missed, key=lambda each: missed[each])
    weights, offset = _solve(table, own, values, penalty)
    facts = {
        "penalty": penalty,
        "kind": kind,
        "share": share,
        "width": WIDTH,
        "offset": offset,
        "landmarks": len(chosen),
    }
    model = KernelModel(kind, share, WIDTH, counts[chosen], scaled[chosen], mean, std, weights, offset, facts)
    return replace(model, facts={**facts, "trained_on": len(rows), **_figures(model, measured)})


def _solve(table: Floats, own: Floats, values: Floats, penalty: float) -> tuple[Floats, float]:
    """Weights `[M]` and offset, from the kernel `[N, M]` with the landmarks and theirs with each other, `[M, M]`."""
    offset = float(values.mean())
    left = table.T @ table + penalty * own + 1e-6 * np.eye(len(own))
    return np.linalg.solve(left, table.T @ (values - offset)).astype(np.float64), offset


def _missed(table: Floats, own: Floats, values: Floats, aside: int, penalty: float) -> float:
    """Mean squared error on the last `aside` rows of a fit on the others."""
    weights, offset = _solve(table[:-aside], own, values[:-aside], penalty)
    return float(((table[-aside:] @ weights + offset - values[-aside:]) ** 2).mean())


def _predicted(model: KernelModel, measured: Measured, rows: NDArray[np.bool_]) -> Floats:
    counts, scaled = measured.counts[model.kind][rows], standardised(measured.described[rows], model.mean, model.std)
    return (
        kernel(counts, scaled, model.counts, model.described, model.share, model.width) @ model.weights + model.offset
    )


def _figures(model: KernelModel, measured: Measured) -> dict[str, Any]:
    """How good it is on scaffolds that it has not seen; the interval comes from the calibration fold, its coverage not."""
    fold, values = measured.fold, measured.values
    misses = {
        name: _predicted(model, measured, fold == name) - values[fold == name] for name in ("calibration", "test")
    }
    count = len(misses["calibration"])
    # The split-conformal quantile (Lei et al., Journal of the American Statistical Association 113:1094, 2018).
    level = min(1.0, np.ceil((count + 1) * COVERAGE) / max(count, 1))
    half = float(np.quantile(np.abs(misses["calibration"]), level, method="higher"))
    test = values[fold == "test"]
    return {
        "folds": {name: int((fold == name).sum()) for name in FOLDS},
        "r": _correlation(test + misses["test"], test),
        "rmse": float(np.sqrt((misses["test"] ** 2).mean())),
        "mae": float(np.abs(misses["test"]).mean()),
        "spread": float(test.std()),
        "half_width": half,
        "coverage": float((np.abs(misses["test"]) <= half).mean()),
    }


def _correlation(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def save_model(model: KernelModel, path: Path) -> None:
    """Write safetensors; counts are stored where they are not zero."""
    rows, features = np.nonzero(model.counts)
    arrays = {
        "lengths": np.bincount(rows, minlength=len(model.counts)).astype(np.int32),
        "features": features.astype(np.int16),
        "counts": model.counts[rows, features],
        "described": model.described.astype(np.float16),
        "mean": model.mean.astype(np.float32),
        "std": model.std.astype(np.float32),
        "weights": model.weights.astype(np.float32),
    }
    facts = {**model.facts, "format": FORMAT}
    save_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, facts)


_CARD = """# {title}

Predicts {meaning}. {role}

* **Model**: kernel ridge regression on {landmarks} landmark molecules (`tiltflow.rewards.molecules.properties`). It sees
  {sees}.
* **Data**: {source}. Rows that are no molecule of 1 to 200 heavy atoms, or repeat one: {unread}.
* **Licence** of this file: Apache-2.0, as the rest of tiltflow.
* **Trained on** {trained_on} molecules. Folds by Bemis-Murcko scaffold (oracle, judge, calibration, test: {folds}); the two
  oracles share no molecule and no scaffold. Molecules without rings are divided one by one, so relatives among them may be
  on both sides.
* **Made by** `{command}` (seed {seed}).

The kind of model, the kernel's share and width were chosen on other folds of the same data.

| on test scaffolds | |
|---|---|
| Pearson R | {r:.3f} |
| root mean squared error | {rmse:.3f} |
| mean absolute error | {mae:.3f} |
| standard deviation of the measured values | {spread:.3f} |
| half width of the 90 % interval (split conformal, calibration scaffolds) | {half_width:.3f} |
| share of test molecules inside it | {coverage:.3f} |
| Pearson R between oracle and judge | {between:.3f} |

The interval is the same for every molecule and holds on average over molecules like these. Designs far from all landmarks
are predicted near the average of the data (offset {offset:.2f}), with larger errors than the table says.
"""


def card(model: KernelModel) -> str:
    """Markdown card of an oracle that `train_properties` made."""
    facts, held = model.facts, model.kind == _SEES[True][0]
    sees = "counts of atom pairs" if held else f"counts of circular surroundings (radius 2), and {', '.join(SEEN)}"
    folds = ", ".join(map(str, facts["folds"].values()))
    role = "Held out: to judge designs by, never to optimise." if held else "To optimise."
    title = f"{facts['property']}{' (held-out judge)' if held else ' oracle'}"
    source, meaning = SOURCES[facts["property"]].text, PROPERTIES[facts["property"]]
    shown = {**facts, "folds": folds, "source": source, "meaning": meaning, "sees": sees, "role": role, "title": title}
    return _CARD.format(command=COMMAND, **shown)
