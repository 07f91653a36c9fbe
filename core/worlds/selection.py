"""Laws of one out of M independent draws, computed: softmax selection by quadrature, argmax by order statistics.

Kernels are float64 `[R, m]`, row r the masses of m outcomes; a dense kernel has m = S, a sparse one lists its outcomes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def select_one(kernel: Tensor, log_w: Tensor, candidates: int, step: float = 0.25) -> Tensor:
    """Law of one of M draws kept with probability proportional to its weight (SVDD, importance resampling), exactly.

    q_j = M P_j w_j * integral over s > 0 of exp(-s w_j) phi(s)^(M - 1) ds, phi(s) = sum_k P_k exp(-s w_k), which is
    E[w_j / sum of weights] written with 1/S = integral of exp(-s S).

    Args:
        kernel: P, float64 `[R, m]`; log_w: `[m]` or `[R, m]`, -inf for never (where all M draws are, one of them at
            random); candidates: M.
        step: of the quadrature, a trapezoid in log s. The integrand is analytic for |Im log s| < pi / 2, so the error is
            of the order exp(-pi^2 / step).

    Returns:
        q, float64 `[R, m]`, rows sum to 1 to about 1e-12.
    """
    log_w = log_w.expand_as(kernel)
    peak = torch.where(kernel > 0, log_w, -math.inf).amax(1, keepdim=True)
    log_w = torch.where(peak == -math.inf, 0.0, log_w - peak)
    w = log_w.clamp(max=0).exp() * (kernel > 0)
    low = float(w[w > 0].amin().log())
    u = torch.arange(-34.0, math.log(40.0) - low + step, step, dtype=torch.float64)
    total, decay = torch.zeros_like(kernel), torch.empty_like(kernel)
    for s in u.exp().tolist():  # trapezoid in u = log s: ds = s du
        torch.mul(w, -s, out=decay).exp_()
        phi = torch.linalg.vecdot(kernel, decay).unsqueeze(1)
        total.addcmul_(decay, phi ** (candidates - 1), value=s)
    never = kernel * (w == 0)
    return candidates * kernel * w * total * step + never * never.sum(1, keepdim=True) ** (candidates - 1)


def select_best(kernel: Tensor, score: Tensor, candidates: int) -> Tensor:
    """Law of the best of M draws (best-of-N, argmax picks), ties going to the first drawn: float64 `[R, m]`.

    P(the maximum is score_j) = P(score <= score_j)^M - P(score < score_j)^M, shared among tied outcomes by their mass.

    Args:
        kernel: float64 `[R, m]`; score: `[m]` or `[R, m]`; candidates: M.
    """
    score, order = score.expand_as(kernel).sort(1)
    mass = kernel.gather(1, order)
    total = torch.nn.functional.pad(mass.cumsum(1), (1, 0))
    at_most = total.gather(1, torch.searchsorted(score, score.contiguous(), right=True))
    below = total.gather(1, torch.searchsorted(score, score.contiguous(), right=False))
    tied = (at_most - below).clamp(min=1e-300)
    best = (at_most**candidates - below**candidates) * mass / tied
    return torch.empty_like(kernel).scatter_(1, order, best)
