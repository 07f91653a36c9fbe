"""Training-time methods: change the model until it is p*. One loop, and one file for each family of objectives."""

from .backprop import DRAKES, REFL, AlignProp, RewardBackprop
from .base import Loss, Progress, Tuning, fit, train
from .gradients import GumbelSoftmax, Reinforce
from .observers import HeldOut, KeepBest, KLBudget
from .policy_gradient import DDPO, GRPO, PolicyGradient
from .roles import Roles

__all__ = [
    "DDPO",
    "DRAKES",
    "GRPO",
    "REFL",
    "AlignProp",
    "GumbelSoftmax",
    "HeldOut",
    "KLBudget",
    "KeepBest",
    "Loss",
    "PolicyGradient",
    "Progress",
    "Reinforce",
    "RewardBackprop",
    "Roles",
    "Tuning",
    "fit",
    "train",
]
