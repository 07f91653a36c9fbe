"""Training-time methods: change the model until it is p*. One loop, and one file for each family of objectives."""

from .adapters import LoRA, load_adapter, merged, save_adapter
from .backprop import DRAKES, REFL, AlignProp, RewardBackprop
from .base import Loss, Progress, Tuning
from .conditions import Conditions, Labelled
from .ctrl import CTRL, ClassifierFree
from .forward import EPG, RAFT, RAM, RWR, Bounds, DiffusionNFT
from .gradients import GumbelSoftmax, Reinforce
from .loop import fit, train
from .observers import HeldOut, KeepBest, KLBudget
from .policy_gradient import DDPO, GRPO, PolicyGradient
from .preference import DiffusionDPO, Pairs
from .published import PublishedDRAKES
from .roles import Guidance, Roles
from .vard import VARD

__all__ = [
    "CTRL",
    "DDPO",
    "DRAKES",
    "EPG",
    "GRPO",
    "RAFT",
    "RAM",
    "REFL",
    "RWR",
    "VARD",
    "AlignProp",
    "Bounds",
    "ClassifierFree",
    "Conditions",
    "DiffusionDPO",
    "DiffusionNFT",
    "Guidance",
    "GumbelSoftmax",
    "HeldOut",
    "KLBudget",
    "KeepBest",
    "Labelled",
    "LoRA",
    "Loss",
    "Pairs",
    "PolicyGradient",
    "Progress",
    "PublishedDRAKES",
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
