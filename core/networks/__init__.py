"""Small domain-agnostic networks."""

from .conv import ConvDenoiser, ConvValue

__all__ = ["ConvDenoiser", "ConvValue"]
