"""tiltflow: steer and tune diffusion models toward a reward, p*(x) ~ p(x) exp(r(x) / alpha).

Importing the package is quick: everything heavy is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runs import load as load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from .runs import load

        return load
    raise AttributeError(f"module 'tiltflow' has no attribute {name!r}")
