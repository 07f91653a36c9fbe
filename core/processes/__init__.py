"""How data is noised: one class a process."""

from .base import Process
from .masked import Masked

__all__ = ["Masked", "Process"]
