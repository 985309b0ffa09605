"""Attention whose every row is the same bits whatever else is in the batch: the second body of kernels/attention.py.

A sequence's context is cut into splits of a fixed size, by position alone, and its rows into tiles of a fixed size. One
tile against one split is a matrix product whose shape never changes; where a row sees nothing of a split, the split
adds exact zeros. Splits are added up in order, so neither the rows beside a row, nor the padding after its context,
nor the chunks in which the context was computed can move a bit of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import PagedKV
from kernels.attention import context_rows
from kernels.attention_layout import LARGEST_SHARED_TILE_ROWS, AttentionLayout, Reach, cache_rows, first_seen
from kernels.dispatch import takes_triton
from kernels.ragged_attention import plan_ragged

# Both are multiples of 16, the widest vector of float32: no row ends in a vector's tail.
SPLIT_ROWS = 64
TILE_ROWS = 8


@dataclass(frozen=True, slots=True)
class SplitTile:
    """Some sequences computed together: b sequences of t tiles of TILE_ROWS rows over s splits of SPLIT_ROWS.

    rows     i64 [b * t * TILE_ROWS]; row of the ragged batch for each padded place
    cache    i64 [b * s * SPLIT_ROWS]; cache row of each place of the context, padding points at readable rows
    hidden   bool [t, b, s, 1, group * TILE_ROWS, SPLIT_ROWS]; what a row does not see; it sees at least one place
    valid    i64; padded places that are real rows; targets are the ragged rows they belong to
    """

    rows: Tensor
    cache: Tensor
    hidden: Tensor
    valid: Tensor
    targets: Tensor

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Attend with the tile's rows (`AttentionTile.attend`), in float32 whatever the dtype."""
        t, b = self.hidden.shape[:2]
        num_kv_heads, head_dim = keys.shape[1:]
        # Keys and values are [b, s, Hkv, SPLIT_ROWS, D], tiles of queries t times [b, Hkv, group * TILE_ROWS, D].
        split_keys, split_values = (
            cache.index_select(0, self.cache).float().view(b, -1, SPLIT_ROWS, num_kv_heads, head_dim).transpose(2, 3)
            for cache in (keys, values)
        )
        rows = q.index_select(0, self.rows).float().mul_(head_dim**-0.5 if scale is None else scale)
        tiles = rows.view(b, t, TILE_ROWS, num_kv_heads, -1, head_dim).permute(1, 0, 3, 4, 2, 5).flatten(3, 4)
        mixed = torch.stack([self._mix(index, tile, split_keys, split_values) for index, tile in enumerate(tiles)], 1)
        mixed = mixed.unflatten(3, (-1, TILE_ROWS)).permute(0, 1, 4, 2, 3, 5).reshape(-1, *q.shape[1:])
        return mixed.index_select(0, self.valid).to(q.dtype)

    def _mix(self, index: int, tile: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return one tile's output [b, Hkv, M, D], M = group * TILE_ROWS, from its queries of that shape."""
        queries = tile[:, None].expand(-1, keys.shape[1], -1, -1, -1)
        scores = (queries @ keys.transpose(-1, -2)).masked_fill_(self.hidden[index], -torch.inf)
        # A maximum has no rounding, so the splits may share it.
        weights = scores.sub_(scores.amax((1, 4), keepdim=True)).exp_()
        parts = torch.cat((weights @ values, weights.sum(-1, keepdim=True)), -1)
        total = torch.zeros_like(parts[:, 0])
        for part in parts.unbind(1):
            total += part
        return total[..., :-1] / total[..., -1:]


def plan_split_attention(
    kv: PagedKV,
    cu_rows: Tensor,
    positions: Tensor,
    visible: Tensor,
    group: int,
    window: int | None = None,
    skips: int = 0,
    most_rows: int | None = None,
) -> AttentionLayout:
    """Lay out ragged rows over the cache for batch-invariant attention; arguments as in `plan_attention`."""
    # Windows and skips only hide: which places make a split must not depend on who shares the batch.
    reach = Reach(visible, first_seen(positions, window, skips))
    if takes_triton(positions):
        return plan_ragged(kv, cu_rows, positions, reach, most_rows, is_invariant=True)
    counts = cu_rows.diff()
    write = cache_rows(kv, torch.repeat_interleave(counts), positions)
    sizes = counts.tolist()
    shared = [b for b, rows in enumerate(sizes) if 0 < rows <= LARGEST_SHARED_TILE_ROWS]
    lone = [[b] for b, rows in enumerate(sizes) if rows > LARGEST_SHARED_TILE_ROWS]
    members = ([shared] if shared else []) + lone
    return AttentionLayout(write, tuple(_tile(kv, cu_rows, reach, group, torch.tensor(m)) for m in members))


def _tile(kv: PagedKV, cu_rows: Tensor, reach: Reach, group: int, members: Tensor) -> SplitTile:
    first, counts = cu_rows[members], cu_rows.diff()[members]
    offsets = torch.arange(_padded(int(counts.max()), TILE_ROWS))
    is_row = offsets < counts[:, None]
    rows = (first[:, None] + offsets * is_row).flatten()
    visible = torch.where(is_row, reach.visible[rows].view_as(is_row), 1)
    places = torch.arange(_padded(int(visible.max()), SPLIT_ROWS))
    longest = visible.amax(1, keepdim=True)
    valid = is_row.flatten().nonzero().squeeze(1)
    splits = places.view(-1, 1, 1, SPLIT_ROWS)
    hidden = splits >= _as_queries(visible, group)
    if reach.first is None:
        cache = context_rows(kv, members, longest, len(places)).flatten()
    else:
        since = reach.first[rows].view_as(is_row)
        cache = _written_rows(kv, members, (since.amin(1, keepdim=True), longest), places).flatten()
        hidden |= splits < _as_queries(torch.where(is_row, since, 0), group)
    return SplitTile(rows, cache, hidden, valid, rows[valid])


def _written_rows(kv: PagedKV, members: Tensor, seen: tuple[Tensor, Tensor], places: Tensor) -> Tensor:
    """Return the cache rows i64 [b, L] of places i64 [L]; those outside `seen`, first and end i64 [b, 1], are first's.

    A hidden place has weight 0, but what nobody wrote need not be a number.
    """
    first, end = seen
    return cache_rows(kv, members[:, None], torch.where((places >= first) & (places < end), places, first))


def _as_queries(limits: Tensor, group: int) -> Tensor:
    """Lay numbers per row [b, t * TILE_ROWS] out as the queries lie: t times [b, 1, 1, group * TILE_ROWS, 1]."""
    return limits.unflatten(1, (-1, TILE_ROWS)).transpose(0, 1).repeat(1, 1, group)[:, :, None, None, :, None]


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
