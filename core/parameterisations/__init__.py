"""From what a network returns to the clean estimate, one file for each kind of process."""

from .base import Parameterisation
from .gaussian import Prediction
from .logits import Logits
from .ratios import Ratios
from .subs import Subs

__all__ = ["Logits", "Parameterisation", "Prediction", "Ratios", "Subs"]
