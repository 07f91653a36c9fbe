"""DNA: regulatory sequences over ACGT. `load("yeast")` gives the shipped 80-bp promoter model."""

from .codec import CodecError, DnaCodec
from .constraints import Template, TemplateError
from .domain import constrain, load
from .pretrain import sequence_corpus, train_prior
from .reference import Reference
from .relatives import families, split_families

__all__ = [
    "CodecError",
    "DnaCodec",
    "Reference",
    "Template",
    "TemplateError",
    "constrain",
    "families",
    "load",
    "sequence_corpus",
    "split_families",
    "train_prior",
]
