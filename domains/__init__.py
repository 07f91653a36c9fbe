"""The domains: each plugs a pretrained model, a codec and metrics into the core."""

from .base import Domain, Drawing, check_reward

__all__ = ["Domain", "Drawing", "check_reward"]
