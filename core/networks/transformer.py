"""A small transformer over token sequences: every site sees every other one, at any distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..states import is_discrete


class _Attention(nn.Module):
    """Self-attention with rotary positions (Su et al. 2021): `[B, L, D] -> [B, L, D]`, all sites see all."""

    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        half = width // heads // 2
        angles = torch.outer(torch.arange(length).double(), 100.0 ** -(torch.arange(half).double() / half))
        # One turn is 2 pi sites for the fastest pair and about 600 for the slowest: these sequences are short.
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, heads, L, D / heads]
        mixed = F.scaled_dot_product_attention(self._turned(q), self._turned(k), v)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _turned(self, h: Tensor) -> Tensor:
        """Pairs of channels turned by an angle that grows with the position, so that products see distances only."""
        left, right = h.chunk(2, dim=-1)
        return torch.cat([left * self.cos - right * self.sin, left * self.sin + right * self.cos], dim=-1)


class _Layer(nn.Module):
    """Attention and a two-layer network, each after a normalisation and added to what came: `[B, L, D] -> [B, L, D]`."""

    def __init__(self, width: int, heads: int, length: int, expand: int, dropout: float):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), _Attention(width, heads, length)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, expand * width), nn.GELU(), nn.Linear(expand * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.dropout(self.attention(self.attention_norm(h)))
        return h + self.dropout(self.mlp(self.mlp_norm(h)))


class TransformerDenoiser(nn.Module):
    """Masked-diffusion denoiser: tokens to logits. Does not look at the time, so estimates can be reused.

    Pre-normalised layers, rotary positions. An untrained network gives every token the same probability.

    Args:
        vocab: tokens K, the mask not counted; length: L; width: D, a multiple of twice the heads; layers, heads.
        expand: how many times wider the inner layer of the two-layer networks is.
        dropout: during training only.

    Forward: x int64 `[B, L]` or relaxed `[B, L, K + 1]`, t ignored -> logits `[B, L, K]`.

    Raises:
        ValueError: a width that the heads do not divide into pairs; sequences of another length.
    """

    time_invariant = True

    def __init__(
        self,
        vocab: int,
        length: int,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        expand: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if heads < 1 or width % (2 * heads):
            raise ValueError(
                f"width={width} and heads={heads}: expected a width that is a multiple of twice the heads, such as "
                f"{max(1, width // (2 * max(1, heads))) * 2 * max(1, heads)}."
            )
        self.settings = {
            "vocab": vocab,
            "length": length,
            "width": width,
            "layers": layers,
            "heads": heads,
            "expand": expand,
            "dropout": dropout,
        }
        self.length = length
        self.embed = nn.Embedding(vocab + 1, width)
        self.layers = nn.Sequential(*(_Layer(width, heads, length, expand, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab)
        self._start(layers)

    def _start(self, layers: int) -> None:
        """Small first weights: what each layer adds is scaled so that the sum over layers does not grow with their number."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(
                    module.weight, std=0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5
                )
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.2.weight")):
                nn.init.normal_(weight, std=(2 * layers * weight.shape[1]) ** -0.5)
        nn.init.zeros_(self.head.weight)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights `[out, in]` of its layers, for `optimisers.Muon`."""
        return [weight for weight in self.layers.parameters() if weight.dim() == 2]

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        if x.shape[1] != self.length:
            raise ValueError(f"Sequences have length {x.shape[1]}; this network was built for {self.length}.")
        h = self.embed(x) if is_discrete(x) else x.to(self.embed.weight.dtype) @ self.embed.weight
        return self.head(self.norm(self.layers(h)))
