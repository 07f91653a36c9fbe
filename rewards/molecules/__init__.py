"""Rewards for molecules: a scorer of structures, what is wanted of it, and the wrapper that makes it a reward of tokens.

drug_like = Molecular(Descriptor("qed"), "maximize")
window = Molecular(Descriptor("logp"), Window(1, 3, slack=1))
several = Molecular(Profile([Part(Descriptor("qed")), Part(Descriptor("sa"), Ramp(zero=6, one=2))]), "maximize")
task = pmo("perindopril_mpo", workers=2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazily import lazily

if TYPE_CHECKING:
    from ...smiles import MoleculeError, parse, problem
    from .curves import Gauss, Peak, Ramp, Sigmoid, Smooth, Window
    from .descriptors import DESCRIPTORS, Descriptor
    from .docking import Docking, DockingError
    from .profile import Part, Profile
    from .properties import PROPERTIES, Property
    from .property_training import train_properties
    from .reward import Molecular, canonical
    from .rules import CATALOGS, Alerts, Formula, HasPattern, ScaffoldLock, Smarts, scaffold
    from .similarity import FINGERPRINTS, Similarity
    from .tasks import PMO, isomer, pmo, pmo_scorer

_HOMES = {
    "curves": ("Gauss", "Peak", "Ramp", "Sigmoid", "Smooth", "Window"),
    "descriptors": ("DESCRIPTORS", "Descriptor"),
    "docking": ("Docking", "DockingError"),
    "profile": ("Part", "Profile"),
    "properties": ("PROPERTIES", "Property"),
    "property_training": ("train_properties",),
    "reward": ("Molecular", "canonical"),
    "rules": ("CATALOGS", "Alerts", "Formula", "HasPattern", "ScaffoldLock", "Smarts", "scaffold"),
    "similarity": ("FINGERPRINTS", "Similarity"),
    "..smiles": ("MoleculeError", "parse", "problem"),
    "tasks": ("PMO", "isomer", "pmo", "pmo_scorer"),
}
__all__ = [
    "CATALOGS",
    "DESCRIPTORS",
    "FINGERPRINTS",
    "PMO",
    "PROPERTIES",
    "Alerts",
    "Descriptor",
    "Docking",
    "DockingError",
    "Formula",
    "Gauss",
    "HasPattern",
    "Molecular",
    "MoleculeError",
    "Part",
    "Peak",
    "Profile",
    "Property",
    "Ramp",
    "ScaffoldLock",
    "Sigmoid",
    "Similarity",
    "Smarts",
    "Smooth",
    "Window",
    "canonical",
    "isomer",
    "parse",
    "pmo",
    "pmo_scorer",
    "problem",
    "scaffold",
    "train_properties",
]


__getattr__, __dir__ = lazily(__name__, _HOMES)
