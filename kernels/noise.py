"""Coupled noise: one Gumbel number per (key, position, child, token), the same for drafter and verifier.

The head and the verifier of a GPU make the numbers themselves (kernels/markov.py, kernels/coupled.py); this kernel is
for whoever wants them in memory.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import ShapeError
from core.random import WORD, Purpose, philox
from core.tensors import CoupledKeys
from kernels.dispatch import takes_triton
from kernels.jit import jit, tl
from kernels.philox import gumbel, row_words

# Philox gives four words at a time. So many groups of four are worked on at once: fewer cost calls, and all of 32
# sequences at 150k tokens would take a gigabyte (measured: 2^15 to 2^18 are equally fast).
WORDS = 4
GROUPS_AT_ONCE = 1 << 16
# Numbers of one program of the kernel.
TILE = 1024


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
    named = coupled_keys(keys, n_index, torch.zeros(batch, dtype=torch.int64, device=device))
    return _numbers(named, torch.from_numpy(positions & WORD).to(device), vocab_size)


def numbers_of(keys: CoupledKeys, width: int, vocab_size: int) -> Tensor:
    """Return the first `width` columns of named noise as numbers, f32 [B, width, V] (`gumbel_noise`)."""
    columns = torch.arange(width, device=keys.first.device).expand(len(keys.first), width)
    return _numbers(keys, columns, vocab_size)


def _numbers(keys: CoupledKeys, positions: Tensor, vocab_size: int) -> Tensor:
    """Return the noise f32 [B, P, V] at positions i64 [B, P], counted from keys.first."""
    if takes_triton(positions):
        return gumbel_noise_triton(keys, positions, vocab_size)
    batch, width = positions.shape
    low, high, child = (each.repeat_interleave(width)[:, None] for each in (keys.low, keys.high, keys.child))
    position = ((positions + keys.first[:, None]) & WORD).reshape(-1, 1)
    group = torch.arange(-(-vocab_size // WORDS), device=positions.device)[None]
    purpose = torch.full((1, 1), int(Purpose.GUMBEL), device=positions.device)
    noise = torch.empty(batch * width, vocab_size, device=positions.device)
    stride = max(1, GROUPS_AT_ONCE // max(1, len(group[0])))
    for start in range(0, len(noise), stride):
        rows = slice(start, start + stride)
        words = philox((group, position[rows], child[rows], purpose), (low[rows], high[rows]))
        noise[rows] = _gumbel(words)[:, :vocab_size]
    return noise.view(batch, width, vocab_size)


def coupled_keys(keys: NDArray[np.uint64], n_index: NDArray[np.int64], first: Tensor) -> CoupledKeys:
    """Return what names the noise of coupled sequences: keys u64 [B], n_index i64 [B], first position i64 [B]."""
    words = np.stack((keys & np.uint64(WORD), keys >> np.uint64(32), (n_index & WORD).astype(np.uint64)))
    low, high, child = torch.from_numpy(words.astype(np.int64)).to(first.device)
    return CoupledKeys(low, high, child, first)


def gumbel_noise_triton(keys: CoupledKeys, positions: Tensor, vocab_size: int) -> Tensor:
    """Return the noise f32 [B, P, V] at positions i64 [B, P], counted from keys.first, each taken modulo 2^32.

    Integers are those of `gumbel_noise`, logarithms are in float64 as there. Twin: equal, unless the device's logarithm
    differs in the last bit of a float64, which in float32 shows once in 10^8 numbers.
    """
    batch, width = positions.shape
    noise = torch.empty((batch, width, vocab_size), dtype=torch.float32, device=positions.device)
    if noise.numel():
        grid = (batch * width, -(-vocab_size // TILE))
        absolute = (positions + keys.first[:, None]).contiguous()
        _noise_kernel[grid](keys.low, keys.high, keys.child, absolute, noise, width, vocab_size, TILE=TILE)
    return noise


@jit()
def _noise_kernel(low, high, child, positions, noise, width, vocab, TILE: tl.constexpr):
    """Write one tile of one row of noise."""
    row = tl.program_id(0).to(tl.int64)
    sequence = row // width
    start = tl.program_id(1) * TILE
    words = row_words(
        tl.load(low + sequence).to(tl.uint32),
        tl.load(high + sequence).to(tl.uint32),
        tl.load(positions + row).to(tl.uint32),
        tl.load(child + sequence).to(tl.uint32),
        start,
        TILE,
    )
    ids = start + tl.arange(0, TILE)
    tl.store(noise + row * vocab + ids, gumbel(words), mask=ids < vocab)


def _gumbel(words: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Turn four words of each group, i64 [R, V / 4], into noise f64 [R, V]."""
    values = torch.empty((*words[0].shape, WORDS), dtype=torch.float64, device=words[0].device)
    for place, word in enumerate(words):
        values[..., place] = word
    values.add_(0.5).mul_(2.0**-32)
    return values.log_().neg_().log_().neg_().flatten(1)
