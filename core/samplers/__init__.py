"""Unguided samplers, one file each. Single-step ones give a transition and can be steered."""

from .ancestral import Ancestral
from .base import Sampler, complete, denoise
from .confidence import Confidence
from .ddim import DDIM
from .dpm import DPMSolver
from .first_hitting import FirstHitting
from .ode import EulerODE, HeunODE
from .per_part import PerPart
from .remasking import Remasking
from .sde import EulerMaruyama, ExponentialSDE, InterpolantSDE
from .tau_leaping import EulerCtmc, TauLeaping

__all__ = [
    "DDIM",
    "Ancestral",
    "Confidence",
    "DPMSolver",
    "EulerCtmc",
    "EulerMaruyama",
    "EulerODE",
    "ExponentialSDE",
    "FirstHitting",
    "HeunODE",
    "InterpolantSDE",
    "PerPart",
    "Remasking",
    "Sampler",
    "TauLeaping",
    "complete",
    "denoise",
]
