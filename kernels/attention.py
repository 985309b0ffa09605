"""Ragged attention over a paged KV cache, one contract for verify, prefill and drafter block rows.

Every query row sees a prefix of its sequence's cache, so causality is only a number per row: position + 1 for a row of
the target, anchor + G for every row of a drafter's bidirectional block. A sliding window cuts off what lies further
back than it reaches from the row's own position, and a cache may begin with places that hold nothing. The twin is
below; on a GPU kernels/ragged_attention.py takes its place. kernels/split_attention.py lays the same rows out so that
no result depends on what else is in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from core.tensors import PagedKV
from kernels.attention_layout import (
    LARGEST_SHARED_TILE_ROWS,
    AttentionLayout,
    AttentionTile,
    Reach,
    cache_rows,
    first_seen,
)
from kernels.dispatch import takes_triton
from kernels.ragged_attention import plan_ragged


@dataclass(frozen=True, slots=True)
class LoneTile:
    """One sequence, computed by itself: its rows are a range of the batch, and so may be its context of the cache.

    targets  range of the ragged batch
    cache  range of cache rows where the sequence's blocks follow each other, else i64 [L]
    mask   [M, L] additive, 0 or -inf, for the M = R * group query rows of each KV head; None where every row sees all
    """

    targets: slice
    cache: slice | Tensor
    mask: Tensor | None

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Attend with the tile's rows (`AttentionTile.attend`)."""
        seen = [
            cache[self.cache] if isinstance(self.cache, slice) else cache.index_select(0, self.cache)
            for cache in (keys, values)
        ]
        num_kv_heads, head_dim = keys.shape[1:]
        # Query heads of one KV head become further rows of it: no key is ever repeated for its group.
        grouped = q[self.targets].view(-1, num_kv_heads, q.shape[1] // num_kv_heads, head_dim)
        own_keys, own_values = (x.transpose(0, 1).unsqueeze(0) for x in seen)
        if len(grouped) == 1:
            # The views below, and back, would leave a single row as it is.
            mixed = F.scaled_dot_product_attention(grouped, own_keys, own_values, self.mask, scale=scale)
            return mixed.view(1, *q.shape[1:])
        rows = grouped.permute(1, 2, 0, 3).flatten(1, 2).unsqueeze(0)
        mixed = F.scaled_dot_product_attention(rows, own_keys, own_values, self.mask, scale=scale).squeeze(0)
        return mixed.unflatten(1, (grouped.shape[2], -1)).permute(2, 0, 1, 3).reshape(-1, *q.shape[1:])


@dataclass(frozen=True, slots=True)
class PaddedTile:
    """Some sequences of few rows, computed together as a dense, padded problem.

    rows   i64 [b * R]; row of the ragged batch for each padded place (padding repeats the sequence's first row)
    cache  i64 [b * L]; cache row (block * block_size + offset) for each visible position, padding points anywhere
    mask   [b, 1, M, L] additive, 0 or -inf; M is 1 where all rows of each sequence see the same, else R, repeated for
           the query heads that share a KV head
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

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Attend with the tile's rows (`AttentionTile.attend`)."""
        b, (num_kv_heads, head_dim) = self.num_sequences, keys.shape[1:]
        group = q.shape[1] // num_kv_heads
        rows = q if self.is_whole else q.index_select(0, self.rows)
        # Query heads of one KV head become further rows of it: no key is ever repeated for its group.
        grouped = rows.view(b, -1, num_kv_heads, group, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
        # index_select copies whole rows; plain indexing is several times slower.
        tile_keys, tile_values = (
            cache.index_select(0, self.cache).view(b, -1, num_kv_heads, head_dim).transpose(1, 2)
            for cache in (keys, values)
        )
        mixed = F.scaled_dot_product_attention(grouped, tile_keys, tile_values, self.mask, scale=scale)
        mixed = mixed.unflatten(2, (group, -1)).permute(0, 3, 1, 2, 4).reshape(-1, *q.shape[1:])
        return mixed if self.is_whole else mixed.index_select(0, self.valid)


def plan_attention(
    kv: PagedKV,
    cu_rows: Tensor,
    positions: Tensor,
    visible: Tensor,
    group: int,
    window: int | None = None,
    skips: int = 0,
    most_rows: int | None = None,
) -> AttentionLayout:
    """Lay out ragged rows over the cache, for Triton on a GPU without a word to the host, for the twin elsewhere.

    kv         the cache as seen by the B sequences of the batch
    cu_rows    i64 [B + 1]
    positions  i64 [N]; where each row's key and value are stored
    visible    i64 [N]; how many cache rows, from the sequence's start, each row sees
    group      query heads per KV head
    window     rows see nothing further back than this many positions, their own included; None sees all
    skips      no row sees, and nobody writes, so many places at a sequence's start
    most_rows  the most that any sequence has, where the caller knows: a GPU then launches no more than is needed
    """
    if takes_triton(positions):
        return plan_ragged(kv, cu_rows, positions, Reach(visible, first_seen(positions, window, skips)), most_rows)
    if len(positions) == len(cu_rows) - 1 == 1:
        return _lone_row(kv, int(positions), int(visible), window, skips)
    counts = cu_rows.diff()
    sizes = counts.tolist()
    write = cache_rows(kv, torch.repeat_interleave(counts, output_size=len(positions)), positions)
    few = [b for b, rows in enumerate(sizes) if 0 < rows <= LARGEST_SHARED_TILE_ROWS]
    shared = few if len(few) > 1 else []
    reach = Reach(visible, first_seen(positions, window, skips))
    tiles: list[AttentionTile] = [_padded_tile(kv, cu_rows, reach, group, torch.tensor(shared))] if shared else []
    starts = cu_rows.tolist()
    for b, rows in enumerate(sizes):
        if rows and b not in shared:
            tiles.append(_lone_tile(kv, b, slice(starts[b], starts[b + 1]), reach, group))
    return AttentionLayout(write, tuple(tiles))


def window_rows(kv: PagedKV, members: Tensor, first: Tensor, lengths: Tensor, num_places: int) -> Tensor:
    """Return the flat cache rows i64 [b, num_places] of parts of contexts, first..lengths - 1, both i64 [b, 1].

    Places past a context repeat its first row.
    """
    offsets = torch.arange(num_places)
    positions = torch.where(offsets < lengths - first, first + offsets, first)
    return cache_rows(kv, members[:, None], positions)


def context_rows(kv: PagedKV, members: Tensor, lengths: Tensor, num_places: int) -> Tensor:
    """Return the flat cache rows i64 [b, num_places] of the contexts of some sequences.

    members  i64 [b]; into kv.block_tables
    lengths  i64 [b, 1]; places past a context repeat its first row, so that nobody reads what was never written
    """
    # Places may go beyond the table, never a context.
    columns = torch.arange(-(-num_places // kv.block_size)).clamp_(max=kv.block_tables.shape[1] - 1)
    blocks = kv.block_tables[members[:, None], columns]
    rows = (blocks[:, :, None] * kv.block_size + torch.arange(kv.block_size)).flatten(1)[:, :num_places]
    return torch.where(torch.arange(num_places) < lengths, rows, rows[:, :1])


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: AttentionLayout,
    scale: float | None = None,
) -> Tensor:
    """Store k, v [N, Hkv, D] in the cache, then attend with q [N, Hq, D]; returns [N, Hq, D].

    keys, values  [num_blocks, block_size, Hkv, D]; rows layout.write are overwritten
    scale         of the scores; None is 1 / sqrt(D)
    out_r = softmax(scale * q_r . K[first_r:visible_r]) V[first_r:visible_r]; query heads share KV heads consecutively.
    Accumulation is float32 whatever the dtype.
    """
    num_kv_heads, head_dim = k.shape[-2:]
    flat_keys, flat_values = keys.view(-1, num_kv_heads, head_dim), values.view(-1, num_kv_heads, head_dim)
    flat_keys.index_copy_(0, layout.write, k)
    flat_values.index_copy_(0, layout.write, v)
    return attend_rows(q, flat_keys, flat_values, layout, scale)


def attend_rows(q: Tensor, keys: Tensor, values: Tensor, layout: AttentionLayout, scale: float | None = None) -> Tensor:
    """Attend with q [N, Hq, D] over caches [num_cache_rows, Hkv, D] that hold the new rows too (`paged_attention`)."""
    if len(layout.tiles) == 1:
        return layout.tiles[0].attend(q, keys, values, scale)
    out = torch.empty_like(q)
    for tile in layout.tiles:
        out[tile.targets] = tile.attend(q, keys, values, scale)
    return out


def _lone_row(kv: PagedKV, position: int, visible: int, window: int | None, skips: int) -> AttentionLayout:
    """Lay out a batch of one row, the step of a single request, in few operations: it sees all that it reads."""
    start = skips if window is None else max(position + 1 - window, skips)
    block, offset = divmod(position, kv.block_size)
    write = kv.block_tables[0, block : block + 1] * kv.block_size + offset
    return AttentionLayout(write, (LoneTile(slice(0, 1), _context(kv, 0, start, visible), None),))


def _context(kv: PagedKV, sequence: int, start: int, stop: int) -> slice | Tensor:
    """Return the cache rows of places start..stop - 1: a range where the sequence's blocks follow each other."""
    first_block = start // kv.block_size
    blocks = kv.block_tables[sequence, first_block : -(-stop // kv.block_size)].tolist()
    if blocks != list(range(blocks[0], blocks[0] + len(blocks))):
        bounds = torch.tensor([[start]]), torch.tensor([[stop]])
        return window_rows(kv, torch.tensor([sequence]), *bounds, stop - start).squeeze(0)
    offset = (blocks[0] - first_block) * kv.block_size
    return slice(offset + start, offset + stop)


def _lone_tile(kv: PagedKV, sequence: int, rows: slice, reach: Reach, group: int) -> LoneTile:
    visible = reach.visible[rows]
    least, most = (int(bound) for bound in visible.aminmax())
    start = 0 if reach.first is None else int(reach.first[rows].min())
    cache = _context(kv, sequence, start, most)
    places = torch.arange(start, most)
    hidden = None if least == most else places >= visible[:, None]
    if reach.first is not None and int(reach.first[rows].max()) > start:
        before = places < reach.first[rows, None]
        hidden = before if hidden is None else hidden | before
    return LoneTile(rows, cache, None if hidden is None else _mask(hidden, kv).repeat(group, 1))


def _padded_tile(kv: PagedKV, cu_rows: Tensor, reach: Reach, group: int, members: Tensor) -> PaddedTile:
    first, counts = cu_rows[members], cu_rows.diff()[members]
    offsets = torch.arange(int(counts.max()))
    is_row = offsets < counts[:, None]
    rows = (first[:, None] + offsets * is_row).flatten()
    visible = reach.visible[rows].view_as(is_row)
    longest = visible.amax(1, keepdim=True)
    if reach.first is None:
        places = torch.arange(int(longest.max()))
        cache = context_rows(kv, members, longest, len(places))
        if torch.equal(visible, longest.expand_as(visible)):
            visible, group = longest, 1
        hidden = places >= visible[:, :, None]
    else:
        since = reach.first[rows].view_as(is_row)
        start = since.amin(1, keepdim=True)
        offsets = torch.arange(int((longest - start).max()))
        cache = window_rows(kv, members, start, longest, len(offsets))
        seen = (start + offsets)[:, None]
        hidden = (seen >= visible[:, :, None]) | (seen < since[:, :, None])
    mask = _mask(hidden, kv)[:, None].repeat(1, 1, group, 1)
    valid = is_row.flatten().nonzero().squeeze(1)
    is_whole = len(valid) == len(rows) == len(reach.visible)
    return PaddedTile(rows, cache.flatten(), mask, valid, rows[valid], len(members), is_whole)


def _mask(hidden: Tensor, kv: PagedKV) -> Tensor:
    """Return what to add to scores: -inf where `hidden`, else 0."""
    return torch.zeros(hidden.shape, dtype=kv.keys[0].dtype).masked_fill_(hidden, -torch.inf)
