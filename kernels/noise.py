"""Coupled noise: one Gumbel number per (key, position, child, token), the same for drafter and verifier.

No Triton kernel serves this yet: the numbers are made by torch, on whichever device is asked for.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import ShapeError
from core.random import WORD, Purpose, philox

# Philox gives four words at a time. So many groups of four are worked on at once: fewer cost calls, and all of 32
# sequences at 150k tokens would take a gigabyte (measured: 2^15 to 2^18 are equally fast).
WORDS = 4
GROUPS_AT_ONCE = 1 << 16


def gumbel_noise(
    keys: NDArray[np.uint64],
    positions: NDArray[np.int64],
    n_index: NDArray[np.int64],
    vocab_size: int,
    device: torch.device,
) -> Tensor:
    """Return standard Gumbel noise f32 [B, P, V] on `device`: entry [b, p, v] is for token v at positions[b, p].

    keys        u64 [B]; the coupled key of each request
    positions   i64 [B, P]; absolute, of the token to be drawn; taken modulo 2^32
    n_index     i64 [B]; which child of its request
    -log(-log u), where u = (word + 1/2) / 2^32 lies inside (0, 1), both logarithms in float64: the noise lies in
    -3.13..22.88 and is a pure function of (key, position, n_index, token), whatever else is asked for at once.
    Key: the key. Counter: (token // 4, position, n_index, GUMBEL); word token % 4.
    Raises ShapeError if the arrays do not fit each other. About 10 ns per number on one core with AVX-512.
    """
    batch = len(keys)
    if positions.ndim != 2 or not keys.shape == n_index.shape == (batch,) == positions.shape[:1]:
        raise ShapeError(
            f"gumbel_noise takes keys [B], positions [B, P], n_index [B], "
            f"got {list(keys.shape)}, {list(positions.shape)}, {list(n_index.shape)}"
        )
    width = positions.shape[1]
    low, high = (torch.from_numpy(half.astype(np.int64)) for half in (keys & np.uint64(WORD), keys >> np.uint64(32)))
    child = torch.from_numpy(n_index & WORD)
    low, high, child = (each.to(device).repeat_interleave(width)[:, None] for each in (low, high, child))
    position = torch.from_numpy(positions & WORD).to(device).reshape(-1, 1)
    group = torch.arange(-(-vocab_size // WORDS), device=device)[None]
    purpose = torch.full((1, 1), int(Purpose.GUMBEL), device=device)
    noise = torch.empty(batch * width, vocab_size, device=device)
    stride = max(1, GROUPS_AT_ONCE // max(1, len(group[0])))
    for start in range(0, len(noise), stride):
        rows = slice(start, start + stride)
        words = philox((group, position[rows], child[rows], purpose), (low[rows], high[rows]))
        noise[rows] = _gumbel(words)[:, :vocab_size]
    return noise.view(batch, width, vocab_size)


def _gumbel(words: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Turn four words of each group, i64 [R, V / 4], into noise f64 [R, V]."""
    values = torch.empty((*words[0].shape, WORDS), dtype=torch.float64, device=words[0].device)
    for place, word in enumerate(words):
        values[..., place] = word
    values.add_(0.5).mul_(2.0**-32)
    return values.log_().neg_().log_().neg_().flatten(1)
