"""The 20 objectives of the PMO benchmark that need nothing but the structure.

Gao, Fu, Sun and Coley, Sample Efficiency Matters, NeurIPS 2022 Datasets and Benchmarks. All but QED are goal-directed tasks
of GuacaMol (Brown, Fiscato, Segler and Vaucher, Journal of Chemical Information and Modeling 59:1096, 2019), with geometric
means. The other three of its 23 tasks (DRD2, GSK3B, JNK3) are classifiers whose files cannot be shipped.

All scores are between 0 and 1, higher is better. The fingerprints are those of the benchmark: unfolded counts, and for the
hops the bits of 2-D pharmacophores.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from functools import cache

from ...smiles import MAX_ATOMS, reference
from ..budget import Budget
from .curves import Curve, Gauss, Ramp
from .descriptors import Descriptor
from .profile import Part, Profile, Scorer
from .reward import Molecular
from .rules import Formula, HasPattern
from .similarity import Fingerprint, Similarity

_ALBUTEROL = "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1"
_AMLODIPINE = r"Clc1ccccc1C2C(=C(/N/C(=C2/C(=O)OCC)COCCN)C)\C(=O)OC"
_CAMPHOR = "CC1(C)C2CCC1(C)C(=O)C2"
_CELECOXIB = "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F"
_FEXOFENADINE = "CC(C)(C(=O)O)c1ccc(cc1)C(O)CCCN2CCC(CC2)C(O)(c3ccccc3)c4ccccc4"
_MENTHOL = "CC(C)C1CCC(C)CC1O"
_MESTRANOL = "COc1ccc2[C@H]3CC[C@@]4(C)[C@@H](CC[C@@]4(O)C#C)[C@@H]3CCc2c1"
_OSIMERTINIB = "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34"
_PERINDOPRIL = "O=C(OCC)C(NC(C(=O)N1C(C(=O)O)CC2CCCCC12)C)CCC"
_RANOLAZINE = "COc1ccccc1OCC(O)CN2CCN(CC(=O)Nc3c(C)cccc3C)CC2"
_SILDENAFIL = "CCCC1=NN(C2=C1N=C(NC2=O)C3=C(C=CC(=C3)S(=O)(=O)N4CCN(CC4)C)OCC)C"
_SITAGLIPTIN = "Fc1cc(c(F)cc1F)CC(N)CC(=O)N3Cc2nnc(n2CC3)C(F)(F)F"
_TADALAFIL = "O=C1N(CC(N2C1CC3=C(C2C4=CC5=C(OCO5)C=C4)NC6=C3C=CC=C6)=O)C"
_THIOTHIXENE = "CN(C)S(=O)(=O)c1ccc2Sc3ccccc3C(=CCCN4CCN(C)CC4)c2c1"
_TROGLITAZONE = "Cc1c(C)c2OC(C)(COc3ccc(CC4SC(=O)NC4=O)cc3)CCc2c(C)c1O"
_ZALEPLON = "O=C(C)N(CC)C1=CC=CC(C2=CC=NC3=C(C=NN23)C#N)=C1"

_HOP = "CCCOc1cc2ncnc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C"
_HOP_SCAFFOLD = "[#7]-c1n[c;h1]nc2[c;h1]c(-[#8])[c;h0][c;h1]c12"
_HOP_DECORATION = "[#6]-[#6]-[#6]-[#8]-[#6]~[#6]~[#6]~[#6]~[#6]-[#7]-c1ccc2ncsc2c1"
_HOP_UNWANTED = ("CS([#6])(=O)=O", "[#7]-c1ccc2ncsc2c1")
_VALSARTAN = "CN(C=O)Cc1ccc(c2ccccc2)cc1"

_ABSENT = Ramp(zero=1, one=0)


def pmo(
    task: str,
    invalid: float = 0.0,
    max_atoms: int = MAX_ATOMS,
    workers: int = 1,
    timeout: float | None = None,
    memory: float | None = None,
    cache_file: str | os.PathLike[str] | None = None,
    budget: Budget | None = None,
) -> Molecular:
    """One task of the benchmark as a reward; what is no molecule scores 0, as in the benchmark.

    Args:
        task: one of `PMO`.
        invalid, max_atoms, workers, timeout, memory, cache_file, budget: see `Molecular`.

    Raises:
        ValueError: no such task; names the nearest.
    """
    return Molecular(
        pmo_scorer(task),
        "maximize",
        invalid=invalid,
        max_atoms=max_atoms,
        workers=workers,
        timeout=timeout,
        memory=memory,
        cache_file=cache_file,
        budget=budget,
        name=task,
    )


@cache
def pmo_scorer(task: str) -> Scorer:
    """One task of the benchmark as a scorer, Mol -> 0 to 1."""
    if task not in _TASKS:
        near = difflib.get_close_matches(str(task), PMO, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no PMO task {task!r}; choose one of {', '.join(PMO)}{hint}")
    return _TASKS[task]()


def isomer(formula: str) -> Profile:
    """Closeness to a molecular formula such as C7H8N2O2, 1 for its isomers.

    Geometric mean of Gauss(n, 1) for the count of each element and Gauss(N, 2) for that of all atoms.

    Raises:
        ValueError: not a formula.
    """
    if not re.fullmatch(r"([A-Z][a-z]?\d*)+", formula):
        raise ValueError(f"{formula!r} is not a formula; expected elements and counts, such as C7H8N2O2")
    counts = {element: int(count or 1) for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}
    parts = [Part(Formula(element), Gauss(count, 1), name=element) for element, count in counts.items()]
    return Profile([*parts, Part(Formula("*"), Gauss(sum(counts.values()), 2), name="atoms")])


def _like(
    smiles: str, fingerprint: Fingerprint = "ecfp4", curve: Curve | None = None, name: str = "similarity"
) -> Part:
    return Part(Similarity(smiles, fingerprint), curve, name=name)


def _own(name: str, curve: Curve) -> Part:
    return Part(Descriptor(name), curve)


def _has(smarts: str, wanted: bool, name: str) -> Part:
    return Part(HasPattern(smarts), None if wanted else _ABSENT, name=name)


def _as_in(smiles: str, name: str, sigma: float) -> Part:
    """A descriptor that should be what it is in another molecule."""
    return _own(name, Gauss(Descriptor(name)(reference(smiles)), sigma))


def _rediscovery(smiles: str) -> Callable[[], Scorer]:
    return lambda: Similarity(smiles, "ecfp4")


def _similarity(smiles: str, fingerprint: Fingerprint) -> Callable[[], Scorer]:
    return lambda: Profile([_like(smiles, fingerprint, Ramp(0, 0.75))], "mean")


def _median(one: str, other: str, fingerprint: Fingerprint) -> Callable[[], Scorer]:
    return lambda: Profile([_like(one, fingerprint, name="first"), _like(other, fingerprint, name="second")])


def _osimertinib() -> Profile:
    near = _like(_OSIMERTINIB, "fcfp4", Ramp(0, 0.8), name="similar")
    not_too_near = _like(_OSIMERTINIB, "ecfp6", Gauss(0.85, 0.1, "above"), name="not too similar")
    return Profile([near, not_too_near, _own("tpsa", Gauss(100, 10, "below")), _own("logp", Gauss(1, 1, "above"))])


def _fexofenadine() -> Profile:
    near = _like(_FEXOFENADINE, "ap", Ramp(0, 0.8))
    return Profile([near, _own("tpsa", Gauss(90, 10, "below")), _own("logp", Gauss(4, 1, "above"))])


def _ranolazine() -> Profile:
    near, fluorine = _like(_RANOLAZINE, "ap", Ramp(0, 0.7)), Part(Formula("F"), Gauss(1, 1), name="fluorine")
    return Profile([near, _own("logp", Gauss(7, 1, "below")), _own("tpsa", Gauss(95, 20, "below")), fluorine])


def _perindopril() -> Profile:
    return Profile([_like(_PERINDOPRIL), _own("aromatic_rings", Gauss(2, 0.5))])


def _amlodipine() -> Profile:
    return Profile([_like(_AMLODIPINE), _own("rings", Gauss(3, 0.5))])


def _sitagliptin() -> Profile:
    unlike = _like(_SITAGLIPTIN, "ecfp4", Gauss(0, 0.1), name="dissimilarity")
    formula = Part(isomer("C16H15F6N5O"), name="formula")
    return Profile([unlike, _as_in(_SITAGLIPTIN, "logp", 0.2), _as_in(_SITAGLIPTIN, "tpsa", 5), formula])


def _zaleplon() -> Profile:
    return Profile([_like(_ZALEPLON), Part(isomer("C19H17N3O2"), name="formula")])


def _valsartan() -> Profile:
    same = [_as_in(_SITAGLIPTIN, name, sigma) for name, sigma in (("logp", 0.2), ("tpsa", 5), ("bertz", 30))]
    return Profile([_has(_VALSARTAN, True, "pattern"), *same])


def _deco_hop() -> Profile:
    others = [_has(smarts, False, f"unwanted {number}") for number, smarts in enumerate(_HOP_UNWANTED, 1)]
    near, scaffold = _like(_HOP, "pharmacophore", Ramp(0, 0.85)), _has(_HOP_SCAFFOLD, True, "scaffold")
    return Profile([near, *others, scaffold], "mean")


def _scaffold_hop() -> Profile:
    near, kept = _like(_HOP, "pharmacophore", Ramp(0, 0.75)), _has(_HOP_DECORATION, True, "decoration")
    return Profile([near, kept, _has(_HOP_SCAFFOLD, False, "no scaffold")], "mean")


_TASKS: dict[str, Callable[[], Scorer]] = {
    "albuterol_similarity": _similarity(_ALBUTEROL, "fcfp4"),
    "amlodipine_mpo": _amlodipine,
    "celecoxib_rediscovery": _rediscovery(_CELECOXIB),
    "deco_hop": _deco_hop,
    "fexofenadine_mpo": _fexofenadine,
    "isomers_c7h8n2o2": lambda: isomer("C7H8N2O2"),
    "isomers_c9h10n2o2pf2cl": lambda: isomer("C9H10N2O2PF2Cl"),
    "median1": _median(_CAMPHOR, _MENTHOL, "ecfp4"),
    "median2": _median(_TADALAFIL, _SILDENAFIL, "ecfp6"),
    "mestranol_similarity": _similarity(_MESTRANOL, "ap"),
    "osimertinib_mpo": _osimertinib,
    "perindopril_mpo": _perindopril,
    "qed": lambda: Descriptor("qed"),
    "ranolazine_mpo": _ranolazine,
    "scaffold_hop": _scaffold_hop,
    "sitagliptin_mpo": _sitagliptin,
    "thiothixene_rediscovery": _rediscovery(_THIOTHIXENE),
    "troglitazone_rediscovery": _rediscovery(_TROGLITAZONE),
    "valsartan_smarts": _valsartan,
    "zaleplon_mpo": _zaleplon,
}

#: Names of the tasks.
PMO: tuple[str, ...] = tuple(_TASKS)
