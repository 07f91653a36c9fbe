"""Inference-time methods: draw from p* and leave the model alone. One file each."""

from .base import Steering, sample, steps
from .best_of_n import BestOfN, ImportanceResampling
from .doob import Doob
from .smc import SMC
from .svdd import SVDD

__all__ = ["SMC", "SVDD", "BestOfN", "Doob", "ImportanceResampling", "Steering", "sample", "steps"]
