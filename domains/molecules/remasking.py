"""Words of molecules masked again, so that a model draws them anew: fragment remasking (Lee et al. 2025, GenMol).

    again = domain.diffusion.infill(remask(x, share=0.3, slack=2, generator=generator)).sample(len(x), generator=generator)

A run of words that follow one another is a piece of a molecule, often a branch or a ring with what hangs on it. What is drawn
is the model's law given all other words. Not to be confused with the sampler `ReMDM`, which masks again while it samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.transitions import uniform
from ...molecules import MASK, PAD


def remask(
    tokens: Tensor,
    *,
    share: float | None = None,
    words: int | None = None,
    generator: torch.Generator,
    span: bool = True,
    slack: int = 0,
    keep: Tensor | None = None,
) -> Tensor:
    """Molecules int64 `[B, L]` with some of their words masked: a template `[B, L]` for `Diffusion.infill`.

    Padding inside of a molecule moves to its end first and is never masked, so the number of words stays, but for `slack`.

    Args:
        share, words: how many words of each molecule, as a share of its words (0 to 1, rounded, at least one word) or as a
            number (all, where it has fewer); one of the two.
        span: mask words that follow one another, from a place drawn evenly; otherwise words drawn evenly.
        slack: of a span, up to so many masks are put in or left out, drawn evenly, so that what is drawn there may have
            another number of words. At least one mask stays, and all words fit in L.
        keep: bool `[B, L]`, sites that are never masked; a span ends before them.

    Raises:
        ValueError: both or neither of `share` and `words`, impossible numbers, or slack without a span.
    """
    _check(tokens, share, words, slack, span, keep)
    is_word = tokens != PAD
    order = (~is_word).to(torch.int8).argsort(dim=1, stable=True)
    tokens, is_word = tokens.gather(1, order), is_word.gather(1, order)
    free = is_word if keep is None else is_word & ~keep.gather(1, order)
    length = is_word.sum(1, keepdim=True)  # [B, 1]
    count = (length * share).round().long() if share is not None else torch.full_like(length, words or 0)
    count = count.clamp(min=1).minimum(length)
    if not span:
        place = torch.where(free, uniform(tuple(tokens.shape), tokens, generator), 2.0).argsort(1).argsort(1)
        return torch.where(free & (place < count), MASK, tokens)
    run = _run(free, length, count, generator)
    return _resized(tokens, run, length, slack, generator)


def _run(free: Tensor, length: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
    """Which sites the spans take, bool `[B, L]`: from a free site on `count` `[B, 1]`, or as many as are free in a row."""
    sites = torch.arange(free.shape[1], device=free.device)
    whole = free & (sites <= length - count)  # where a span of this length may begin
    starts = torch.where(whole.any(1, keepdim=True), whole, free)
    first = torch.where(starts, uniform(tuple(free.shape), free, generator), -1.0).argmax(1, keepdim=True)
    blocked = (~free & (sites >= first)).cumsum(1) > 0
    return (sites >= first) & (sites < first + count) & ~blocked


def _resized(tokens: Tensor, run: Tensor, length: Tensor, slack: int, generator: torch.Generator) -> Tensor:
    """The spans masked, each with up to `slack` masks more or fewer; what stands behind moves along."""
    size = tokens.shape[1]
    sites = torch.arange(size, device=tokens.device)
    old = run.sum(1, keepdim=True)
    first = run.int().argmax(1, keepdim=True)
    change = (uniform((len(tokens), 1), tokens, generator) * (2 * slack + 1)).long() - slack
    new = torch.where(old > 0, (old + change).clamp(min=1).minimum(old + size - length), 0)
    source = torch.where(sites < first, sites, sites - new + old)
    moved = torch.where(source < size, tokens.gather(1, source.clamp(0, size - 1)), PAD)
    return torch.where((sites >= first) & (sites < first + new), MASK, moved)


def _check(tokens: Tensor, share: float | None, words: int | None, slack: int, span: bool, keep: Tensor | None) -> None:
    if tokens.dtype != torch.int64 or tokens.dim() != 2 or bool(((tokens < 0) | (tokens >= MASK)).any()):
        raise ValueError(
            f"{tokens.dtype} {tuple(tokens.shape)}; expected finished molecules, int64 [B, L] without masks"
        )
    if (share is None) == (words is None):
        raise ValueError(f"share={share}, words={words}; expected one of them")
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"share={share}; expected a share of the words, above 0 and at most 1")
    if words is not None and (isinstance(words, bool) or not isinstance(words, int) or words < 1):
        raise ValueError(f"words={words!r}; expected a whole number of at least 1")
    if isinstance(slack, bool) or not isinstance(slack, int) or slack < 0 or (slack and not span):
        raise ValueError(f"slack={slack!r}, span={span}; expected a whole number of at least 0, above 0 for spans only")
    if keep is not None and (keep.dtype != torch.bool or keep.shape != tokens.shape):
        raise ValueError(f"keep is {keep.dtype} {tuple(keep.shape)}; expected bool {tuple(tokens.shape)}")
