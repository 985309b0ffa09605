"""Losses over large vocabularies, a chunk of rows at a time: logits of all rows at once would fill the memory.

Each chunk's logits are computed, reduced to a few numbers per row and forgotten; the backward pass computes them again.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits that may be held at once, f32: 2^24 are 64 MiB, and a loss holds about six tensors of that size.
CHUNK_LOGITS = 2**24


def chunk_rows(num_slots: int, vocab_size: int) -> int:
    """Return how many rows of so many slots are one chunk."""
    return max(1, CHUNK_LOGITS // (num_slots * vocab_size))


def over_chunks(
    compute: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...], size: int
) -> tuple[Tensor, ...]:
    """Return what `compute` returns of tensors [R, ...], each [R, ...] again, computed `size` rows at a time."""
    if tensors[0].shape[0] <= size:
        return compute(*tensors)
    pieces = [
        checkpoint(compute, *piece, use_reentrant=False) if torch.is_grad_enabled() else compute(*piece)
        for piece in zip(*(tensor.split(size) for tensor in tensors), strict=True)
    ]
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
