"""Log ratios of probabilities: how networks trained by score entropy (SEDD) are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..states import is_discrete, log_normalise, one_hot
from .subs import Subs

if TYPE_CHECKING:
    from ..processes.chain import SiteChain
    from ..processes.masked import Masked


@dataclass(frozen=True)
class Ratios:
    """The output is log p_t(x with k at site i) / p_t(x), `[B, L, S]` (SEDD, Lou et al. 2024).

    For given other sites, the ratios are p_t(x^i = k | the rest) up to a constant. Undoing the noise of site i gives
    p(x0^i | the rest), and the likelihood of what is at site i the clean estimate. For a masked process this comes to
    reading log ratios as logits (`Subs`). What is at x itself, log 1, is not read from the network.

    Ratios that belong to no law, as those of a trained network, leave negative masses when the noise is undone: they are
    set to 0 and the rest is renormalised, so that the estimate is a law, and its own ratios are other than the network's.
    The inversion divides by alpha(t): where alpha is below 1e-12 the ratios say nothing, p(x0^i | the rest) is taken to
    be uniform, and with a network errors are large long before. Prefer a schedule that ends above 0, such as `LogLinear`.

    Use: `Denoiser(network, Ratios(process))`.

    Args:
        process: `Masked`, `Uniform` or `Ctmc`.
    """

    process: Masked | SiteChain

    @property
    def _masked(self) -> bool:
        return hasattr(self.process, "mask")

    def clean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """log p(x0^i | x_t) `[B, L, K]`.

        Raises:
            ValueError: an output of another shape than `[B, L, S]`, or a relaxed state (other than of a masked process).
        """
        if self._masked:
            return Subs(self.process.vocab).clean(output, x, t)
        process: SiteChain = self.process  # type: ignore[assignment]
        if not is_discrete(x):
            raise ValueError("Ratios are defined at tokens, not at a relaxed state; use a network that returns logits.")
        if tuple(output.shape) != (*x.shape, process.states):
            raise ValueError(
                f"The network returned {tuple(output.shape)}; expected log ratios {[*x.shape, process.states]}, one for each "
                "state that a site can be in."
            )
        there = one_hot(x, process.states, torch.bool)
        mass = process.left_out(log_normalise(output.double().masked_fill(there, 0.0)).exp(), x, t)
        likelihood = process.likelihood(x, t)
        posterior = mass.clamp(min=0) * likelihood
        lost = posterior.sum(-1, keepdim=True) <= 0
        return log_normalise(torch.where(lost, likelihood, posterior).log()).to(output.dtype)

    def output(self, clean: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """The way back: log ratios `[B, L, S]`, float64, from the clean estimate `[B, L, K]` at tokens x `[B, L]`.

        -inf where the reverse process of a masked one cannot jump.
        """
        if not self._masked:
            return self.process.ratios(clean, x, t).log()  # type: ignore[union-attr]
        process: Masked = self.process  # type: ignore[assignment]
        alpha = process.schedule.alpha(torch.as_tensor(t, dtype=torch.float64, device=x.device)).reshape(-1, 1, 1)
        open_site = torch.nn.functional.pad(clean.double() + alpha.log() - torch.log1p(-alpha), (0, 1))
        held = one_hot(x, process.vocab + 1, torch.float64).log()
        return torch.where((x == process.mask).unsqueeze(-1), open_site, held)

    def settled(self, x: Tensor) -> Tensor | None:
        return Subs(self.process.vocab).settled(x) if self._masked else None

    def settled_clean(self, x: Tensor) -> Tensor:
        return Subs(self.process.vocab).settled_clean(x)
