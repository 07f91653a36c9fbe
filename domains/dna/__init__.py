"""DNA: regulatory sequences over ACGT. `load("yeast")` gives the shipped 80-bp promoter model."""

from .codec import DnaCodec
from .constraints import Template
from .domain import constrain, load
from .reference import Reference

__all__ = ["DnaCodec", "Reference", "Template", "constrain", "load"]
