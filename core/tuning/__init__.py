"""Training-time methods: change the model until it is p*. One loop, and one file for each family of objectives."""

from .backprop import DRAKES, REFL, AlignProp, RewardBackprop
from .base import Loss, Progress, Tuning, fit, train
from .gradients import GumbelSoftmax, Reinforce
from .observers import HeldOut, KeepBest, KLBudget
from .roles import Roles

__all__ = [
    "DRAKES",
    "REFL",
    "AlignProp",
    "GumbelSoftmax",
    "HeldOut",
    "KLBudget",
    "KeepBest",
    "Loss",
    "Progress",
    "Reinforce",
    "RewardBackprop",
    "Roles",
    "Tuning",
    "fit",
    "train",
]
