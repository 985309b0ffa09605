"""Norm of query and key heads, their rotation by position, and the write of keys and values to the cache, in one pass.

On a GPU one kernel reads a projection once and leaves queries and cache rows. Elsewhere models compose the same steps
of torch operations (models/layers.py); `rope_store_twin` is that composition, the specification.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.jit import jit, tl

# Rows of one program.
ROWS = 8


@dataclass(frozen=True, slots=True)
class Projected:
    """Heads as a projection left them: queries, keys, values.

    heads      [N, num_heads + 2 * num_kv_heads, D]; num_heads may be 0: rows that are only to be attended to
    q_weight   [D]; of the norm of query heads, None where heads have no norms
    k_weight   [D]; with q_weight, or alone where there are no query heads
    rotation   cos and signed sin [N, 1, D]: x turns into x cos + roll(x, D / 2) sin
    """

    heads: Tensor
    num_heads: int
    num_kv_heads: int
    q_weight: Tensor | None
    k_weight: Tensor | None
    eps: float
    rotation: tuple[Tensor, Tensor]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding to x [..., heads, D]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def rope_store_twin(projected: Projected, keys: Tensor, values: Tensor, write: Tensor) -> Tensor:
    """Return roped queries [N, num_heads, D]; keys and values, both [num_cache_rows, Hkv, D], are written in place.

    write  i64 [N]; the cache row of each row. Where several are one, which of them stays is undefined
    q = rotate(rms_norm(q)), k = rotate(rms_norm(k)); values are copied.
    """
    sizes = (projected.num_heads, projected.num_kv_heads, projected.num_kv_heads)
    q, k, v = projected.heads.split(sizes, -2)
    if projected.k_weight is not None:
        k = F.rms_norm(k, k.shape[-1:], projected.k_weight, projected.eps)
    if projected.q_weight is not None:
        q = F.rms_norm(q, q.shape[-1:], projected.q_weight, projected.eps)
    keys.index_copy_(0, write, rotate(k, *projected.rotation))
    values.index_copy_(0, write, v)
    return rotate(q, *projected.rotation)


def rope_store_triton(projected: Projected, keys: Tensor, values: Tensor, write: Tensor) -> Tensor:
    """Do what `rope_store_twin` does, in float32 and rounded once. Twin: two units in the last place of the dtype."""
    heads, (num_rows, _, head_dim) = projected.heads, projected.heads.shape
    num_heads, num_kv_heads = projected.num_heads, projected.num_kv_heads
    q = torch.empty((num_rows, num_heads, head_dim), dtype=heads.dtype, device=heads.device)
    if not num_rows:
        return q
    cos, sin = (table.reshape(num_rows, head_dim) for table in projected.rotation)
    k_weight = projected.k_weight
    # A pointer that is never read stands in for a weight that is not there.
    weights = [heads if weight is None else weight for weight in (projected.q_weight, k_weight)]
    _rope_store_kernel[(-(-num_rows // ROWS), num_heads + 2 * num_kv_heads)](
        heads,
        *weights,
        cos,
        sin,
        write,
        q,
        keys,
        values,
        num_rows,
        num_heads,
        num_kv_heads,
        heads.stride(0),
        heads.stride(1),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        projected.eps,
        HAS_NORM=k_weight is not None,
        HALF=head_dim // 2,
        HALF_PADDED=1 << (head_dim // 2 - 1).bit_length(),
        ROWS=ROWS,
    )
    return q


@jit(do_not_specialize=("num_rows",))
def _rope_store_kernel(
    heads,
    q_weight,
    k_weight,
    cos,
    sin,
    write,
    q,
    keys,
    values,
    num_rows,
    num_heads,
    num_kv_heads,
    row_stride,
    head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    eps,
    HAS_NORM: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Place one head of a tile of rows: queries, keys and values in the order of the projection."""
    head = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    half = tl.arange(0, HALF_PADDED)
    is_cell = (row < num_rows)[:, None] & (half < HALF)[None, :]
    source = heads + row[:, None] * row_stride + head * head_stride + half[None, :]
    low = tl.load(source, mask=is_cell, other=0.0)
    high = tl.load(source + HALF, mask=is_cell, other=0.0)
    cell = tl.load(write + row, mask=row < num_rows, other=0)
    if head >= num_heads + num_kv_heads:
        place = values + (head - num_heads - num_kv_heads) * value_head_stride
        place = place + cell[:, None] * value_stride + half[None, :]
        tl.store(place, low, mask=is_cell)
        tl.store(place + HALF, high, mask=is_cell)
        return
    low, high = low.to(tl.float32), high.to(tl.float32)
    if HAS_NORM:
        mean = (tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF)
        inverse = tl.rsqrt(mean + eps)[:, None]
        weight = q_weight if head < num_heads else k_weight
        low *= inverse * tl.load(weight + half, mask=half < HALF, other=0.0).to(tl.float32)[None, :]
        high *= inverse * tl.load(weight + HALF + half, mask=half < HALF, other=0.0).to(tl.float32)[None, :]
    table = row[:, None] * (2 * HALF) + half[None, :]
    turned_low = low * tl.load(cos + table, mask=is_cell, other=0.0).to(tl.float32)
    turned_low += high * tl.load(sin + table, mask=is_cell, other=0.0).to(tl.float32)
    turned_high = high * tl.load(cos + table + HALF, mask=is_cell, other=0.0).to(tl.float32)
    turned_high += low * tl.load(sin + table + HALF, mask=is_cell, other=0.0).to(tl.float32)
    if head < num_heads:
        place = q + (row[:, None] * num_heads + head) * (2 * HALF) + half[None, :]
    else:
        place = keys + (head - num_heads) * key_head_stride + cell[:, None] * key_stride + half[None, :]
    tl.store(place, turned_low.to(q.dtype.element_ty), mask=is_cell)
    tl.store(place + HALF, turned_high.to(q.dtype.element_ty), mask=is_cell)
