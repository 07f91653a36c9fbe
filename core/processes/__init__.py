"""How data is noised: one class a process."""

from .base import Process
from .ctmc import Ctmc
from .gaussian import Gaussian, Reweighted
from .masked import Masked
from .times import LogitNormal, UniformLogSnr, UniformShare, UniformTime
from .uniform import Uniform

__all__ = [
    "Ctmc",
    "Gaussian",
    "LogitNormal",
    "Masked",
    "Process",
    "Reweighted",
    "Uniform",
    "UniformLogSnr",
    "UniformShare",
    "UniformTime",
]
