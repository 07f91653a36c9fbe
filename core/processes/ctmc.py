"""The continuous-time Markov chain of any rate matrix, on each site."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..parameterisations.logits import Logits
from ..schedules import Linear, Schedule
from ..states import is_discrete, safe_log
from ..transitions import CategoricalTransition
from .chain import WIPED, SiteChain, between


@dataclass(frozen=True)
class _Dense:
    """Kernels as matrices, float64 `[b, S, S]`, b = 1 or B."""

    table: Tensor

    def row(self, x: Tensor) -> Tensor:
        return self.table[self._which(x), x]

    def column(self, x: Tensor) -> Tensor:
        return self.table.mT[self._which(x), x]

    def push(self, weights: Tensor) -> Tensor:
        return weights @ self.table

    def pull(self, masses: Tensor) -> Tensor:
        return masses @ torch.linalg.pinv(self.table, rtol=WIPED)

    def _which(self, x: Tensor) -> Tensor:
        b = len(self.table)
        return torch.arange(b, device=x.device).expand(len(x)).unsqueeze(-1) if b > 1 else torch.zeros_like(x)


@dataclass(frozen=True, eq=False)
class Ctmc(SiteChain):
    """q(x_t^i | x0^i) = exp(-log alpha(t) Q)[x0^i, x_t^i], independently at each site (Campbell et al. 2022).

    For small alphabets: a step costs S x S operations a site. Reversible or not. Q = 1/K - I is `Uniform`, and Q = "to state
    K at rate 1" with vocab = K is `Masked`, which are faster. Scale Q so that its slowest relaxation is at a rate of about 1:
    else the change from noise to data happens in a small part of the time axis.

    States are int64 `[B, L]` in 0..S - 1, or relaxed `[B, L, S]` on the simplex. The clean estimate is log p(x0^i | x_t),
    `[B, L, K]`.

    Args:
        rate_matrix: Q, `[S, S]`: Q[j, k] >= 0 is the rate of j -> k, rows sum to 0.
        schedule: alpha(t); the integrated rate is -log alpha(t).
        vocab: K, number of tokens that data take (default S); states K and above are noise only.

    Raises:
        ValueError: not a rate matrix, more tokens than states, or more than one stationary law.
    """

    rate_matrix: Tensor
    schedule: Schedule = field(default_factory=Linear)
    vocab: int = 0

    def __post_init__(self) -> None:
        rates = torch.as_tensor(self.rate_matrix, dtype=torch.float64).clone()
        _check_rates(rates)
        rates = rates - rates.sum(1).diag()  # rows of a float32 matrix sum to 0 only nearly
        vocab = self.vocab or len(rates)
        if isinstance(vocab, bool) or not isinstance(vocab, int) or not 2 <= vocab <= len(rates):
            raise ValueError(f"vocab is {self.vocab!r}; expected an integer from 2 to the {len(rates)} states.")
        object.__setattr__(self, "rate_matrix", rates)
        object.__setattr__(self, "vocab", vocab)
        if float((self._forever - self._forever[0]).abs().max()) > 1e-9:
            raise ValueError(
                "The chain has more than one stationary law: what it ends in depends on where it starts, so no prior can "
                "be drawn. Connect its states."
            )

    @property
    def states(self) -> int:
        return len(self.rate_matrix)

    @property
    def stationary(self) -> Tensor:
        return self._forever[0]

    @cached_property
    def _forever(self) -> Tensor:
        """exp(t Q) as t grows without end, `[S, S]`."""
        table = expm(self.rate_matrix, torch.ones(1, dtype=torch.float64))[0]
        for _ in range(60):
            table = table @ table
            table = table / table.sum(-1, keepdim=True)
        return table

    @cached_property
    def _jumps(self) -> Tensor:
        """Q without its diagonal."""
        return self.rate_matrix - self.rate_matrix.diagonal().diag()

    @cached_property
    def reach(self) -> Tensor:
        """bool `[K, S]`: token j can become state k."""
        return expm(self.rate_matrix, torch.ones(1, dtype=torch.float64))[0, : self.vocab] > 0

    def kernel(self, left: Tensor) -> _Dense:
        table = expm(self.rate_matrix.to(left.device), -left.clamp(min=1e-300).log())
        gone = (left <= 0).reshape(-1, 1, 1)
        return _Dense(torch.where(gone, self._forever.to(left.device), table))

    def into(self, x: Tensor) -> Tensor:
        return torch.nn.functional.embedding(x, self._jumps.mT.to(x.device))

    def out_of(self, x: Tensor) -> Tensor:
        return torch.nn.functional.embedding(x, self._jumps.to(x.device))

    def transition(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> CategoricalTransition:
        """p(x_s^i | x_t), the mean of q(x_s^i | x_t^i, x0^i) over the clean estimate; on a relaxed state, over the state too."""
        if is_discrete(x):
            return CategoricalTransition(safe_log(self._step(clean, x, t, s)).to(clean.dtype))
        size = self.states
        every = torch.arange(size, device=x.device).repeat(x.shape[1]).expand(len(x), -1)
        steps = self._step(clean.repeat_interleave(size, 1), every, t, s).reshape(*x.shape, size)
        probs = torch.einsum("blj,bljk->blk", x.double(), steps.nan_to_num())  # NaN: states of mass zero only
        return CategoricalTransition(safe_log(probs / probs.sum(-1, keepdim=True)).to(clean.dtype))

    def _step(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
        """float64 probabilities `[B, L, S]`."""
        now, later = self.alpha(t, x), self.alpha(s, x)
        weights = self._over(self.kernel(now), clean, x)
        weights = weights / weights.detach().amax(-1, keepdim=True)
        probs = self.kernel(between(now, later)).column(x) * self.kernel(later).push(self._padded(weights))
        return probs / probs.sum(-1, keepdim=True)

    def _parameterisation(self) -> Logits:
        return Logits(self.vocab, self.reach)


def _check_rates(rates: Tensor) -> None:
    if rates.ndim != 2 or rates.shape[0] != rates.shape[1] or len(rates) < 2:
        raise ValueError(f"The rate matrix has shape {tuple(rates.shape)}; expected [S, S] with at least two states.")
    off = rates - rates.diagonal().diag()
    if not bool(rates.isfinite().all()) or bool((off < 0).any()):
        raise ValueError("The rate matrix has an entry off its diagonal that is negative or not finite; rates are not.")
    if float(rates.sum(1).abs().max()) > 1e-5 * float(off.max()):
        raise ValueError(
            "The rows of the rate matrix do not sum to 0. Q[j, k] is the rate of j -> k, and Q[j, j] minus the sum of the "
            "others in the row."
        )


def expm(rates: Tensor, time: Tensor) -> Tensor:
    """exp(time Q) for times float64 `[b]` >= 0: `[b, S, S]`.

    Taylor series and squarings of Q + c I >= 0, in which nothing is ever subtracted: the smallest probability keeps its
    relative precision, and none is negative.
    """
    fastest = max(float(-rates.diagonal().min()), 1e-300)
    longest = float(time.max()) * fastest
    halvings = 1 + max(0, math.ceil(math.log2(longest))) if longest > 0 else 0
    short = (time / 2**halvings).reshape(-1, 1, 1)
    eye = torch.eye(len(rates), dtype=rates.dtype, device=rates.device)
    step = (rates + fastest * eye).clamp(min=0) * short
    table = term = eye.expand(len(time), -1, -1)
    for order in range(1, 17):
        term = term @ step / order
        table = table + term
    table = table / table.sum(-1, keepdim=True)
    for _ in range(halvings):
        table = table @ table
    return table / table.sum(-1, keepdim=True)
