"""Ragged attention over a paged KV cache, one contract for verify, prefill and drafter block rows.

Every query row sees a prefix of its sequence's cache, so causality is only a number per row: position + 1 for a row of
the target, anchor + G for every row of a drafter's bidirectional block. The torch body below serves all devices; a
fused Triton kernel can take its place behind the same contract.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from core.tensors import PagedKV

# Sequences with more rows than this (prefill chunks) are computed one by one, so that they do not pad the others.
LARGEST_SHARED_TILE_ROWS = 16


@dataclass(frozen=True, slots=True)
class Tile:
    """Some sequences computed together as a dense, padded problem.

    rows   i64 [b * R]; row of the ragged batch for each padded place (padding repeats the sequence's first row)
    cache  i64 [b * L]; cache row (block * block_size + offset) for each visible position, padding points anywhere
    mask   [b, 1, R, L] additive, 0 or -inf, repeated for the query heads that share a KV head
    valid  i64; places of the padded [b * R] that are real rows; targets are the ragged rows they belong to
    is_whole  the tile is the whole batch, in order and without padding: nothing is gathered or scattered
    """

    rows: Tensor
    cache: Tensor
    mask: Tensor
    valid: Tensor
    targets: Tensor
    num_sequences: int
    is_whole: bool


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """Where the rows of one forward read and write; made once per forward, shared by all layers.

    write  i64 [N]; cache row that each ragged row's key and value go to
    tiles  the dense problems that together cover all rows
    """

    write: Tensor
    tiles: tuple[Tile, ...]


def plan_attention(kv: PagedKV, cu_rows: Tensor, positions: Tensor, visible: Tensor, group: int) -> AttentionLayout:
    """Lay out ragged rows over the cache.

    kv         the cache as seen by the B sequences of the batch
    cu_rows    i64 [B + 1]
    positions  i64 [N]; where each row's key and value are stored
    visible    i64 [N]; how many cache rows, from the sequence's start, each row sees
    group      query heads per KV head
    """
    counts = cu_rows.diff()
    sequence = torch.repeat_interleave(counts)
    write = cache_rows(kv, sequence, positions)
    sizes = counts.tolist()
    shared = [b for b, rows in enumerate(sizes) if 0 < rows <= LARGEST_SHARED_TILE_ROWS]
    lone = [[b] for b, rows in enumerate(sizes) if rows > LARGEST_SHARED_TILE_ROWS]
    members = ([shared] if shared else []) + lone
    return AttentionLayout(write, tuple(_tile(kv, cu_rows, visible, group, torch.tensor(m)) for m in members))


def cache_rows(kv: PagedKV, sequence: Tensor, positions: Tensor) -> Tensor:
    """Return the flat cache row of each (sequence of the view, position) pair."""
    blocks = kv.block_tables[sequence, positions // kv.block_size]
    return blocks * kv.block_size + positions % kv.block_size


def paged_attention(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, layout: AttentionLayout) -> Tensor:
    """Store k, v [N, Hkv, D] in the cache, then attend with q [N, Hq, D]; returns [N, Hq, D].

    keys, values  [num_blocks, block_size, Hkv, D]; rows layout.write are overwritten
    out_r = softmax(q_r . K[:visible_r] / sqrt(D)) V[:visible_r]; query heads share KV heads consecutively.
    Accumulation is float32 whatever the dtype.
    """
    num_kv_heads, head_dim = k.shape[-2:]
    group = q.shape[-2] // num_kv_heads
    flat_keys, flat_values = keys.view(-1, num_kv_heads, head_dim), values.view(-1, num_kv_heads, head_dim)
    flat_keys.index_copy_(0, layout.write, k)
    flat_values.index_copy_(0, layout.write, v)
    out = torch.empty_like(q)
    for tile in layout.tiles:
        b = tile.num_sequences
        rows = q if tile.is_whole else q.index_select(0, tile.rows)
        # Query heads of one KV head become further rows of it: no key is ever repeated for its group.
        grouped = rows.view(b, -1, num_kv_heads, group, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
        # index_select copies whole rows; plain indexing is several times slower.
        tile_keys, tile_values = (
            cache.index_select(0, tile.cache).view(b, -1, num_kv_heads, head_dim).transpose(1, 2)
            for cache in (flat_keys, flat_values)
        )
        mixed = F.scaled_dot_product_attention(grouped, tile_keys, tile_values, tile.mask)
        mixed = mixed.unflatten(2, (group, -1)).permute(0, 3, 1, 2, 4).reshape(-1, q.shape[-2], head_dim)
        if tile.is_whole:
            return mixed
        out.index_copy_(0, tile.targets, mixed.index_select(0, tile.valid))
    return out


def _tile(kv: PagedKV, cu_rows: Tensor, visible: Tensor, group: int, members: Tensor) -> Tile:
    first, counts = cu_rows[members], cu_rows.diff()[members]
    offsets = torch.arange(int(counts.max()))
    is_row = offsets < counts[:, None]
    rows = (first[:, None] + offsets * is_row).flatten()
    reach = torch.where(is_row, visible[rows].view_as(is_row), 1)
    places = torch.arange(int(reach.max()))
    # Padding reads a row the sequence may see, never one that nobody wrote.
    readable = torch.minimum(places, reach.amax(1, keepdim=True) - 1)
    cache = cache_rows(kv, members[:, None], readable)
    mask = torch.zeros(len(members), 1, len(offsets), len(places), dtype=kv.keys[0].dtype)
    mask.masked_fill_((places >= reach[:, :, None])[:, None], -torch.inf)
    valid = is_row.flatten().nonzero().squeeze(1)
    is_whole = len(valid) == len(rows) == len(visible)
    return Tile(rows, cache.flatten(), mask.repeat(1, 1, group, 1), valid, rows[valid], len(members), is_whole)
