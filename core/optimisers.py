"""An optimiser for networks whose weights are mostly matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

#: Coefficients of the Newton-Schulz iteration, chosen for speed near zero (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """Muon for the hidden matrices, AdamW for everything else (Jordan et al. 2024, "Muon: an optimizer for hidden layers").

    A matrix moves along its averaged gradient with all singular values made about equal, so that rare directions are
    learned as fast as frequent ones. torch.optim.Muon does the same in bfloat16, which is slow on most CPUs; this one keeps
    the precision of the weights and takes matrices of one shape together.

    Args:
        matrices: weights `[out, in]` inside a network; not embeddings and not the last layer.
        others: all other weights.
        lr: learning rate of the others.
        ratio: learning rate of the matrices over `lr`; every group keeps its own as `ratio`.
        momentum: of the averaged gradient of the matrices (Nesterov's).
        weight_decay, betas: see AdamW.

    Raises:
        ValueError: no matrices, or some that are none.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        *,
        ratio: float = 8.0,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        hidden = list(matrices)
        if not hidden or any(weight.dim() != 2 for weight in hidden):
            shapes = [tuple(weight.shape) for weight in hidden]
            raise ValueError(f"Muon takes matrices [out, in], and these came: {shapes}.")
        self.momentum = momentum
        groups: list[dict[str, Any]] = [{"params": list(others), "ratio": 1.0}, {"params": hidden, "ratio": ratio}]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; gradients of the matrices are None after it."""
        group = self.param_groups[1]
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                by_shape.setdefault(tuple(weight.shape), []).append(weight)
        rate = group["lr"] * group["ratio"]
        for (out, width), weights in by_shape.items():
            step = rate * max(1.0, out / width) ** 0.5
            directions = orthogonal(torch.stack([self._direction(weight) for weight in weights]))
            for weight, direction in zip(weights, directions, strict=True):
                weight.mul_(1 - rate * group["weight_decay"]).add_(direction, alpha=-step)
                weight.grad = None  # what is left is AdamW's
        return super().step(closure)

    def _direction(self, weight: nn.Parameter) -> Tensor:
        """Nesterov's average of the gradients so far."""
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros(())  # AdamW looks for it in every state that it loads
        average: Tensor = state["momentum"].mul_(self.momentum).add_(weight.grad)
        return weight.grad + self.momentum * average


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with singular values near 1 (between .7 and 1.2), `[..., M, N]` to the same."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


def hidden_matrices(network: object) -> list[nn.Parameter]:
    """The matrices that a network names in its `hidden_matrices`, for `Muon`.

    Raises:
        ValueError: the network names none.
    """
    named = getattr(network, "hidden_matrices", None)
    if named is None:
        raise ValueError(
            f"optimiser=muon needs a network that says which matrices are inside it, and {type(network).__name__} has no "
            "`hidden_matrices`. Use optimiser=adamw."
        )
    return list(named())
