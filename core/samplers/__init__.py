"""Unguided samplers, one file each. Single-step ones give a transition and can be steered."""

from .ancestral import Ancestral
from .base import Sampler, complete, denoise
from .confidence import Confidence
from .first_hitting import FirstHitting

__all__ = ["Ancestral", "Confidence", "FirstHitting", "Sampler", "complete", "denoise"]
