"""Dilated convolutions over token sequences: the smallest network that sees motifs and their spacing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..states import is_discrete, one_hot


class _Block(nn.Module):
    """Normalise, mix neighbours, mix channels, add: [B, C, L] -> [B, C, L]."""

    def __init__(self, channels: int, kernel: int, dilation: int, dropout: float):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.mix = nn.Conv1d(channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.out = nn.Conv1d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.out(self.dropout(nn.functional.gelu(self.mix(self.norm(h)))))


class _Trunk(nn.Module):
    """Tokens `[B, L]` or relaxed `[B, L, K + 1]` to features `[B, C, L]`, with a learned embedding of the position."""

    def __init__(self, vocab: int, length: int, channels: int, kernel: int, dilations: tuple[int, ...], dropout: float):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}; expected an odd number, so that the length is kept.")
        self.states = vocab + 1
        self.length = length
        self.embed = nn.Conv1d(self.states, channels, kernel, padding=kernel // 2)
        self.position = nn.Parameter(torch.zeros(channels, length))
        self.blocks = nn.Sequential(*(_Block(channels, kernel, dilation, dropout) for dilation in dilations))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.length:
            raise ValueError(f"Sequences have length {x.shape[1]}; this network was built for {self.length}.")
        states = one_hot(x, self.states, self.position.dtype) if is_discrete(x) else x
        return self.blocks(self.embed(states.transpose(1, 2)) + self.position)


class ConvDenoiser(nn.Module):
    """Masked-diffusion denoiser: tokens to logits. Does not look at the time, so estimates can be reused.

    Args:
        vocab: tokens K, the mask not counted; length: L; channels: width; kernel: odd; dilations: one block each.
        dropout: during training only.

    Forward: x int64 `[B, L]` or relaxed `[B, L, K + 1]`, t ignored -> logits `[B, L, K]`.
    """

    time_invariant = True

    def __init__(
        self,
        vocab: int,
        length: int,
        channels: int = 64,
        kernel: int = 9,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 1),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.settings = {
            "vocab": vocab,
            "length": length,
            "channels": channels,
            "kernel": kernel,
            "dilations": list(dilations),
            "dropout": dropout,
        }
        self.trunk = _Trunk(vocab, length, channels, kernel, tuple(dilations), dropout)
        self.head = nn.Sequential(nn.GroupNorm(1, channels), nn.GELU(), nn.Conv1d(channels, vocab, 1))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.head(self.trunk(x)).transpose(1, 2)


class ConvValue(nn.Module):
    """Value network for `fit_value`: x int64 `[B, L]` or relaxed `[B, L, K + 1]`, t `[B]` -> `[B]`.

    The number of masks tells it the time. `offset` and `scale` set where an untrained network starts and the size of its
    outputs, in units of the reward.
    """

    def __init__(
        self,
        vocab: int,
        length: int,
        channels: int = 32,
        kernel: int = 9,
        dilations: tuple[int, ...] = (1, 4),
        offset: float = 0.0,
        scale: float = 1.0,
    ):
        super().__init__()
        self.trunk = _Trunk(vocab, length, channels, kernel, tuple(dilations), 0.0)
        self.head = nn.Sequential(nn.Linear(channels + 1, channels), nn.GELU(), nn.Linear(channels, 1))
        self.offset, self.scale = offset, scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = self.trunk(x).mean(-1)
        time = t.to(features.dtype).reshape(-1, 1)
        return self.offset + self.scale * self.head(torch.cat([features, time], 1)).squeeze(-1)
