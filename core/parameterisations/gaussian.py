"""What a network on an affine path x_t = a x0 + s eps may predict, and the way from each to every other.

Each kind fixes the pair (x0, eps) together with x_t:

    x0          the posterior mean E[x0 | x_t], the clean estimate itself
    eps         the posterior mean of the noise (Ho et al. 2020)
    score       grad log p_t(x_t) = -eps / s (Song et al. 2021)
    velocity    the drift of the probability flow, a' x0 + s' eps (Lipman et al. 2023)
    v           (a eps - s x0) / sqrt(a^2 + s^2): on VP paths the v of Salimans and Ho (2022); where a = 1, minus the output
                that Karras et al. (2022) train, at unit data variance

v and velocity determine x0 and eps at both ends of time. x0 says nothing of eps where s = 0, and eps nothing of x0 where
a = 0. Coefficients are made in float64 and then rounded to the dtype of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..paths import Path

Kind = Literal["x0", "eps", "v", "velocity", "score"]
KINDS: tuple[str, ...] = get_args(Kind)
_TINY = 1e-30  # where s = 0, x - a x0 is 0 too, and the noise is taken to be 0


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` is one of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"A network cannot predict {kind!r}; expected one of {', '.join(KINDS)}.")


def on_sites(t: float | Tensor, x: Tensor) -> Tensor:
    """Time as float64 `[1 or B, 1, ...]` on x's device, from a number or `[B]`: not rounded to the dtype of x.

    Raises:
        ValueError: a time tensor whose shape is neither [] nor [B].
    """
    time = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    if time.ndim > 1 or (time.ndim == 1 and time.shape != x.shape[:1]):
        raise ValueError(f"Time has shape {tuple(time.shape)}; expected a number or [{len(x)}], one per sample.")
    return time.reshape(-1, *([1] * (x.ndim - 1)))


def combine(x: Tensor, y: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """p x + q y, `[B, *shape]`; p, q float64, broadcastable."""
    return p.to(x.dtype) * x + q.to(y.dtype) * y


def to_x0(path: Path, kind: str, output: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """x0 `[B, *shape]` from a prediction at x `[B, *shape]`."""
    if kind == "x0":
        return output
    time = on_sites(t, x)
    a, s = path.a(time), path.s(time)
    if kind == "eps":
        return combine(x, output, 1 / a, -s / a)
    if kind == "score":
        return combine(x, output, 1 / a, s**2 / a)
    if kind == "v":
        square = a**2 + s**2
        return combine(x, output, a / square, -s / square.sqrt())
    wronskian = a * path.ds(time) - s * path.da(time)  # positive, since a / s falls
    return combine(x, output, path.ds(time) / wronskian, -s / wronskian)


def to_eps(path: Path, kind: str, output: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
    """eps `[B, *shape]` from a prediction at x `[B, *shape]`."""
    if kind == "eps":
        return output
    time = on_sites(t, x)
    a, s = path.a(time), path.s(time)
    if kind == "score":
        return -s.to(x.dtype) * output
    if kind == "x0":
        return (x - a.to(x.dtype) * output) / s.clamp(min=_TINY).to(x.dtype)
    if kind == "v":
        square = a**2 + s**2
        return combine(x, output, s / square, a / square.sqrt())
    wronskian = a * path.ds(time) - s * path.da(time)
    return combine(x, output, -path.da(time) / wronskian, a / wronskian)


def convert(path: Path, output: Tensor, source: str, target: str, x: Tensor, t: float | Tensor) -> Tensor:
    """A prediction of one kind as another, `[B, *shape]`.

    Args:
        output, x: `[B, *shape]`; t: a number or `[B]`.

    Raises:
        ValueError: an unknown kind.
    """
    check_kind(source)
    check_kind(target)
    if source == target:
        return output
    if target == "x0":
        return to_x0(path, source, output, x, t)
    eps = to_eps(path, source, output, x, t)
    if target == "eps":
        return eps
    time = on_sites(t, x)
    if target == "score":
        return -eps / path.s(time).to(x.dtype)
    x0 = to_x0(path, source, output, x, t)
    if target == "velocity":
        return combine(x0, eps, path.da(time), path.ds(time))
    a, s = path.a(time), path.s(time)
    norm = (a**2 + s**2).sqrt()
    return combine(x0, eps, -s / norm, a / norm)


@dataclass(frozen=True)
class Prediction:
    """A network on `path` that predicts `kind`.

    Raises:
        ValueError: an unknown kind, or one that does not determine x0 at t = 1 on this path.
    """

    path: Path
    kind: Kind

    def __post_init__(self) -> None:
        check_kind(self.kind)
        end = float(self.path.a(torch.ones((), dtype=torch.float64)))
        if self.kind in ("eps", "score") and end == 0:
            raise ValueError(
                f"A network that predicts {self.kind} says nothing of the data at t = 1, where {type(self.path).__name__} "
                "leaves no signal. Predict 'v', 'velocity' or 'x0', or end the path earlier, as VPCosine(end=0.999) does."
            )

    def clean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if output.shape != x.shape:
            raise ValueError(
                f"The network returned {tuple(output.shape)} for states {tuple(x.shape)}; expected the same shape. A network "
                "that also returns variances must be wrapped so that it returns its prediction only."
            )
        return to_x0(self.path, self.kind, output, x, t)

    def settled(self, x: Tensor) -> Tensor | None:
        return None

    def settled_clean(self, x: Tensor) -> Tensor:
        return x
