"""Molecules as SELFIES tokens. `load("zinc")` gives the shipped model of drug-like molecules."""

from .codec import CodecError, MoleculeCodec, Molecules
from .constraints import Template, TemplateError
from .data import Library, read_set, scaffolds, split_by_scaffold
from .domain import constrain, load
from .fragments import GrowthError, grow, links
from .pretrain import molecule_corpus, train_prior
from .reference import Reference
from .remasking import remask
from .words import learn_words

__all__ = [
    "CodecError",
    "GrowthError",
    "Library",
    "MoleculeCodec",
    "Molecules",
    "Reference",
    "Template",
    "TemplateError",
    "constrain",
    "grow",
    "learn_words",
    "links",
    "load",
    "molecule_corpus",
    "read_set",
    "remask",
    "scaffolds",
    "split_by_scaffold",
    "train_prior",
]
