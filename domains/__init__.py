"""The domains: each plugs a pretrained model, a codec and metrics into the core."""

from .base import Domain, check_reward

__all__ = ["Domain", "check_reward"]
