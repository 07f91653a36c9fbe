"""How data is noised: one class a process."""

from .base import Process
from .ctmc import Ctmc
from .gaussian import Gaussian, Reweighted
from .masked import Masked
from .product import Product
from .times import LogitNormal, UniformLogSnr, UniformShare, UniformTime
from .uniform import Uniform

__all__ = [
    "Ctmc",
    "Gaussian",
    "LogitNormal",
    "Masked",
    "Process",
    "Product",
    "Reweighted",
    "Uniform",
    "UniformLogSnr",
    "UniformShare",
    "UniformTime",
]
