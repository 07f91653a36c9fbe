"""Training-time methods: change the model until it is p*. One loop, and one file for each family of objectives."""

from .adapters import LoRA, load_adapter, merged, save_adapter
from .backprop import DRAKES, REFL, AlignProp, RewardBackprop
from .base import Loss, Progress, Tuning, fit, train
from .forward import EPG, RAFT, RAM, RWR, Bounds, DiffusionNFT
from .gradients import GumbelSoftmax, Reinforce
from .observers import HeldOut, KeepBest, KLBudget
from .policy_gradient import DDPO, GRPO, PolicyGradient
from .preference import DiffusionDPO, Pairs
from .roles import Roles

__all__ = [
    "DDPO",
    "DRAKES",
    "EPG",
    "GRPO",
    "RAFT",
    "RAM",
    "REFL",
    "RWR",
    "AlignProp",
    "Bounds",
    "DiffusionDPO",
    "DiffusionNFT",
    "GumbelSoftmax",
    "HeldOut",
    "KLBudget",
    "KeepBest",
    "LoRA",
    "Loss",
    "Pairs",
    "PolicyGradient",
    "Progress",
    "Reinforce",
    "RewardBackprop",
    "Roles",
    "Tuning",
    "fit",
    "load_adapter",
    "merged",
    "save_adapter",
    "train",
]
