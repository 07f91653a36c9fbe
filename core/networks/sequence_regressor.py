"""A small network that reads numbers off sequences: motif scanners, their arrangement, a linear read-out by position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..states import is_discrete, one_hot

_POOL = (2, 4)  # after the scanners, and before the read-out


class _Scanners(nn.Module):
    """Weights `[scanners, K, kernel]` and bias `[scanners]`."""

    def __init__(self, vocab: int, scanners: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(scanners, vocab, kernel) / (kernel**0.5))
        self.bias = nn.Parameter(torch.zeros(scanners))


class SequenceRegressor(nn.Module):
    """Tokens `[B, L]` or relaxed `[B, L, K]` to `[B, heads]`.

    Scanners of `kernel` letters slide over the sequence; with `both_strands` each of them also reads the reverse
    complement, with the same weights. A residual convolution sees how hits lie to each other, and the read-out keeps
    where they are: an element may count in one place and not in another.

    Args:
        vocab: letters K. With `both_strands` the complement of letter i must be K - 1 - i, as it is in ACGT.
        length: L, at least 8.
        heads: numbers to predict.
        scanners, kernel: number and (odd) width of the motif scanners.
        channels, hidden: width of the convolution and of the read-out.
        dropout: during training only.
        flanks: tokens that always stand before and after the sequence (the ends of the construct it was measured in).
    """

    def __init__(
        self,
        vocab: int,
        length: int,
        heads: int = 1,
        scanners: int = 64,
        kernel: int = 13,
        channels: int = 64,
        hidden: int = 64,
        dropout: float = 0.2,
        both_strands: bool = False,
        flanks: Sequence[Sequence[int]] = ((), ()),
    ):
        super().__init__()
        places = length // _POOL[0] // _POOL[1]
        if kernel % 2 == 0 or places < 1:
            raise ValueError(f"kernel={kernel}, length={length}: expected an odd kernel and 8 letters or more.")
        self.settings = {
            "vocab": vocab,
            "length": length,
            "heads": heads,
            "scanners": scanners,
            "kernel": kernel,
            "channels": channels,
            "hidden": hidden,
            "dropout": dropout,
            "both_strands": both_strands,
            "flanks": [list(flank) for flank in flanks],
        }
        self.vocab, self.length, self.both_strands = vocab, length, both_strands
        half = kernel // 2  # letters of the flanks that a scanner can reach from inside the sequence
        self.register_buffer("before", _flank(flanks[0], vocab, half, last=True), persistent=False)
        self.register_buffer("after", _flank(flanks[1], vocab, half, last=False), persistent=False)
        self.scan = _Scanners(vocab, scanners, kernel)
        self.mix = nn.Linear(scanners * (2 if both_strands else 1), channels)
        self.norm = nn.GroupNorm(1, channels)
        self.arrange = nn.Conv1d(channels, channels, 7, padding=3)
        self.drop = nn.Dropout1d(dropout / 2)  # whole scanners at a time
        self.read = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels * places, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, heads),
        )

    before: Tensor  # [kernel // 2, K]
    after: Tensor

    def forward(self, x: Tensor) -> Tensor:
        states = one_hot(x, self.vocab, self.before.dtype) if is_discrete(x) else x.to(self.before.dtype)
        if states.dim() != 3 or states.shape[1:] != (self.length, self.vocab):
            raise ValueError(
                f"Input of shape {list(x.shape)}: this network reads sequences of length {self.length}, tokens [B, "
                f"{self.length}] or relaxed [B, {self.length}, {self.vocab}]."
            )
        hits = _mean_of(self._scan(states).relu_(), _POOL[0])
        hits = self.drop(hits.transpose(1, 2)).transpose(1, 2)
        h = F.gelu(self.mix(hits)).transpose(1, 2)
        h = h + F.gelu(self.arrange(self.norm(h)))
        return self.read(F.avg_pool1d(h, _POOL[1]).flatten(1))

    def _scan(self, states: Tensor) -> Tensor:
        """Score of each scanner at each letter: `[B, L, K] -> [B, L, scanners * strands]`.

        One matrix product over unfolded windows: on a CPU several times faster than a convolution of four channels.
        """
        rows = len(states)
        padded = torch.cat([self.before.expand(rows, -1, -1), states, self.after.expand(rows, -1, -1)], 1)
        weight: Tensor = self.scan.weight  # [scanners, K, kernel]
        bias: Tensor = self.scan.bias
        if self.both_strands:
            weight, bias = torch.cat([weight, weight.flip(1, 2)]), bias.repeat(2)
        return F.linear(padded.unfold(1, weight.shape[2], 1).flatten(2), weight.flatten(1), bias)


def _mean_of(h: Tensor, n: int) -> Tensor:
    """Mean over every n neighbours: `[B, L, C] -> [B, L // n, C]`."""
    whole = h.shape[1] // n * n
    return sum(h[:, start:whole:n] for start in range(n)) / n  # type: ignore[return-value]


def _flank(tokens: Sequence[int], vocab: int, width: int, last: bool) -> Tensor:
    """One-hot `[width, K]` of the letters next to the sequence; zeros where the flank is shorter than `width`."""
    near = list(tokens)[-width:] if last else list(tokens)[:width]
    hot = torch.zeros(width, vocab)
    start = width - len(near) if last else 0
    hot[range(start, start + len(near)), near] = 1.0
    return hot
