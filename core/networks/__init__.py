"""Small domain-agnostic networks."""

from .conditioned import Conditioned
from .conv import ConvDenoiser, ConvValue
from .sequence_regressor import SequenceRegressor
from .transformer import TransformerDenoiser

__all__ = ["Conditioned", "ConvDenoiser", "ConvValue", "SequenceRegressor", "TransformerDenoiser"]
