"""How data is noised: one class a process."""

from .base import Process
from .gaussian import Gaussian, Reweighted
from .masked import Masked
from .times import LogitNormal, UniformLogSnr, UniformShare, UniformTime

__all__ = ["Gaussian", "LogitNormal", "Masked", "Process", "Reweighted", "UniformLogSnr", "UniformShare", "UniformTime"]
