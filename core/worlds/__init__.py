"""Small worlds where p, V, h, Z and p* are known exactly: the ruler every method is measured with."""

from .masked import MaskedWorld

__all__ = ["MaskedWorld"]
