"""Small worlds where p, V, h, Z and p* are known exactly: the ruler every method is measured with."""

from .base import World, relative_entropy, total_variation
from .landscape import LandscapeWorld
from .masked import MaskedWorld
from .mixture import MixtureWorld
from .selection import select_best, select_one
from .trainable import TableReward, trainable_tilt
from .uniform import UniformWorld

__all__ = [
    "LandscapeWorld",
    "MaskedWorld",
    "MixtureWorld",
    "TableReward",
    "UniformWorld",
    "World",
    "relative_entropy",
    "select_best",
    "select_one",
    "total_variation",
    "trainable_tilt",
]
