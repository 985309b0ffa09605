"""Attention of ragged rows over a paged cache as Triton kernels: the body of kernels/attention.py on a GPU.

A program attends with some rows of one sequence, and all query heads of one KV head, to a share of the context: those
are the M rows of one matrix product, so each key is read once for all of them. Where the context is shared between
programs (flash-decoding), each leaves a partial result and a second kernel adds the shares up in order.

In `fast` numerics as many programs share a context as fill the GPU, and a prefill chunk, which fills it alone, is not
shared. In `batch_invariant` numerics shares are cut at multiples of SPLIT_ROWS, by place alone, tiles are of one size,
and who computes a share does not show: a row's bits depend on its context, and on nothing beside it.

Nothing is read back to the host, and shapes depend on numbers of rows and of sequences only.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.tensors import PagedKV
from kernels.attention_layout import LARGEST_SHARED_TILE_ROWS, AttentionLayout, Reach, cache_rows
from kernels.jit import jit, tl

# Places of a context that one partial result covers in batch-invariant numerics.
SPLIT_ROWS = 256
# Programs to aim at: about four for each multiprocessor of the largest GPUs of today.
PROGRAMS = 512
# Places that are worth a program of their own.
LEAST_SHARE = 128
# Bytes of partial results at a time; the rest of the heads come in further launches.
SCRATCH_BYTES = 256 << 20
# More rows than any sequence has.
ANY_NUMBER = 2**31 - 1
LOG2_E = 1.4426950408889634


class TileSizes(NamedTuple):
    """The sizes of one program's products: M query rows, N places at a time; and how it is compiled."""

    queries: int
    places: int
    num_warps: int
    num_stages: int


def tile_sizes(head_dim: int, dtype: torch.dtype, num_queries: int) -> TileSizes:
    """Return the sizes for tiles of up to num_queries query rows; they depend on nothing else.

    No size spills registers or exceeds shared memory on any target (tests/kernels/compiled_layers.py).
    """
    is_wide = head_dim > 128 or dtype == torch.float32
    queries = min(max(_power_of_two(num_queries), 16), 32 if is_wide else 64)
    return TileSizes(queries, 32 if is_wide else 64, 4, 1 if is_wide else 2)


@dataclass(frozen=True, slots=True)
class RaggedTile:
    """All rows of a batch (`AttentionTile`).

    cu_rows    i64 [B + 1]
    sequence   i64 [N]; whose row each is
    most_rows  the most that any sequence has
    """

    tables: Tensor
    block_size: int
    cu_rows: Tensor
    sequence: Tensor
    reach: Reach
    most_rows: int
    is_invariant: bool

    @property
    def targets(self) -> slice:
        """All rows."""
        return slice(0, len(self.sequence))

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Attend with all rows (`AttentionTile.attend`), sums in float32, probabilities rounded to the values' dtype.

        Twin: 1e-5 of the largest value in float32, 2e-3 in float16, 2e-2 in bfloat16. A row that sees nothing is 0.
        """
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if not len(q):
            return out
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        launch = _Launch(self, q, keys, values, out, scale * LOG2_E)
        if self.is_invariant:
            launch.in_fixed_splits()
            return out
        few = min(self.most_rows, LARGEST_SHARED_TILE_ROWS)
        launch.in_even_shares(few)
        if self.most_rows > few:
            launch.whole(few)
        return out


def plan_ragged(
    kv: PagedKV,
    cu_rows: Tensor,
    positions: Tensor,
    reach: Reach,
    most_rows: int | None,
    *,
    is_invariant: bool = False,
) -> AttentionLayout:
    """Lay out ragged rows for the kernels; arguments as in `kernels.attention.plan_attention`.

    Rows past cu_rows[-1], padding to a size that was captured, belong to nobody: they write to block 0, which no
    sequence reads, and what they return is undefined.
    """
    rows = torch.arange(len(positions), device=positions.device)
    last = len(cu_rows) - 2
    sequence = torch.searchsorted(cu_rows[1:], rows, right=True).clamp_(max=last)
    write = cache_rows(kv, sequence, positions) * (rows < cu_rows[-1])
    most = len(positions) if most_rows is None else min(most_rows, len(positions))
    tile = RaggedTile(kv.block_tables, kv.block_size, cu_rows, sequence, reach, most, is_invariant)
    return AttentionLayout(write, (tile,))


class _Launch:
    """The launches of one layer: what they share, and how each cuts rows and contexts."""

    def __init__(self, tile: RaggedTile, q: Tensor, keys: Tensor, values: Tensor, out: Tensor, scale: float) -> None:
        self.tile, self.q, self.out = tile, q, out
        self.num_rows, self.num_heads, self.head_dim = q.shape
        self.num_kv_heads = keys.shape[1]
        self.group = self.num_heads // self.num_kv_heads
        # A pointer that is never read stands in where all rows see their contexts from the start.
        self.first = tile.reach.visible if tile.reach.first is None else tile.reach.first
        self.inputs = q, keys, values, tile.tables, tile.cu_rows, tile.reach.visible, self.first
        self.num_sequences = len(tile.cu_rows) - 1
        self.strides = q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), values.stride(0), values.stride(1)
        self.scale = scale
        self.most_places = tile.tables.shape[1] * tile.block_size
        self.constants: dict[str, Any] = {
            "GROUP": self.group,
            "DIM": self.head_dim,
            "DIM_PADDED": max(16, _power_of_two(self.head_dim)),
            "BLOCK_SIZE": tile.block_size,
            "HAS_FIRST": tile.reach.first is not None,
        }

    def whole(self, least: int) -> None:
        """Attend with the rows of sequences of more than `least`, each in one program."""
        sizes = tile_sizes(self.head_dim, self.q.dtype, ANY_NUMBER)
        self._attend(sizes, (least, ANY_NUMBER), 1, self.num_kv_heads, 0, None)

    def in_even_shares(self, most: int) -> None:
        """Attend with the rows of sequences of up to `most`, contexts shared by as many programs as fill the GPU."""
        sizes = tile_sizes(self.head_dim, self.q.dtype, most * self.group)
        num_programs = self._num_tiles(sizes) * self.num_kv_heads
        num_shares = min(-(-PROGRAMS // num_programs), -(-self.most_places // LEAST_SHARE))
        if num_shares == 1:
            self._attend(sizes, (0, most), 1, self.num_kv_heads, 0, None)
        else:
            self._shared(sizes, (0, most), num_shares, num_shares, 0)

    def in_fixed_splits(self) -> None:
        """Attend with all rows in splits of SPLIT_ROWS places, tiles of one size."""
        sizes = tile_sizes(self.head_dim, self.q.dtype, LARGEST_SHARED_TILE_ROWS * self.group)
        num_splits = -(-self.most_places // SPLIT_ROWS)
        num_programs = self._num_tiles(sizes) * self.num_kv_heads
        num_shares = min(-(-PROGRAMS // num_programs), num_splits)
        self._shared(sizes, (0, ANY_NUMBER), num_shares, num_splits, SPLIT_ROWS)

    def _num_tiles(self, sizes: TileSizes) -> int:
        """Return a bound on the tiles of all sequences that the host knows: each may have one begun tile."""
        return self.num_rows // (sizes.queries // self.group) + self.num_sequences

    def _shared(self, sizes: TileSizes, counts: tuple[int, int], num_shares: int, num_parts: int, split: int) -> None:
        bytes_per_head = num_parts * self.num_rows * self.group * (self.head_dim + 2) * 4
        step = min(self.num_kv_heads, max(1, SCRATCH_BYTES // bytes_per_head))
        shape = num_parts, self.num_rows, step * self.group
        mixed = torch.empty((*shape, self.head_dim), dtype=torch.float32, device=self.q.device)
        norms = torch.empty((*shape, 2), dtype=torch.float32, device=self.q.device)
        for head in range(0, self.num_kv_heads, step):
            heads = min(step, self.num_kv_heads - head)
            self._attend(sizes, counts, num_shares, heads, head, (mixed, norms), split)
            _add_up_kernel[(self.num_rows, heads)](
                mixed,
                norms,
                self.tile.cu_rows,
                self.tile.sequence,
                self.tile.reach.visible,
                self.first,
                self.out,
                self.num_rows,
                num_parts,
                step * self.group,
                self.num_heads,
                head,
                counts[1],
                SPLIT=split,
                GROUP_PADDED=_power_of_two(self.group),
                **{name: self.constants[name] for name in ("GROUP", "DIM", "DIM_PADDED", "HAS_FIRST")},
            )

    def _attend(
        self,
        sizes: TileSizes,
        counts: tuple[int, int],
        num_shares: int,
        num_heads: int,
        head: int,
        parts: tuple[Tensor, Tensor] | None,
        split: int = 0,
    ) -> None:
        # Where nothing is shared, programs write their rows themselves.
        mixed, norms = (self.out, self.out) if parts is None else parts
        _attend_kernel[(self._num_tiles(sizes), num_heads, num_shares)](
            *self.inputs,
            mixed,
            norms,
            self.num_rows,
            self.num_sequences,
            self.tile.tables.stride(0),
            *self.strides,
            self.num_heads if parts is None else norms.shape[2],
            head,
            self.scale,
            *counts,
            IS_WHOLE=parts is None,
            SPLIT=split,
            QUERIES=sizes.queries,
            PLACES=sizes.places,
            PRECISION="ieee" if self.q.dtype == torch.float32 else "tf32",
            num_warps=sizes.num_warps,
            num_stages=sizes.num_stages,
            **self.constants,
        )


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


@jit()
def _find_tile(cu_rows, num_sequences, tile, ROWS: tl.constexpr):
    """Return the sequence whose begun tiles are counted before `tile`, and the tile's place in it."""
    # Not the constant 0, which would be no tensor where there is one sequence only.
    low, high = num_sequences * 0, num_sequences
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(cu_rows + middle) // ROWS + middle <= tile:
            low = middle
        else:
            high = middle
    return low, tile - (tl.load(cu_rows + low) // ROWS + low)


@jit()
def _attend_to(
    begin,
    end,
    first_place,
    query,
    seen_from,
    seen_to,
    keys,
    values,
    table,
    key_stride,
    value_stride,
    scale,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    PLACES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend to places begin..end - 1, of which those before first_place are not read.

    Returns the maximum of the scores in powers of two, the sum of exponentials and of them times the values.
    """
    dim = tl.arange(0, DIM_PADDED)
    is_dim = dim < DIM
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, DIM_PADDED), tl.float32)
    for start in range(begin, end, PLACES):
        place = start + tl.arange(0, PLACES)
        # What nobody wrote may be nan, which no weight of 0 would silence.
        is_place = (place >= first_place) & (place < end)
        block = tl.load(table + place // BLOCK_SIZE, mask=is_place, other=0)
        cell = block * BLOCK_SIZE + place % BLOCK_SIZE
        key = tl.load(
            keys + cell[None, :] * key_stride + dim[:, None], mask=is_place[None, :] & is_dim[:, None], other=0.0
        )
        score = tl.dot(query, key, input_precision=PRECISION) * scale
        is_seen = (place[None, :] < seen_to[:, None]) & (place[None, :] >= seen_from[:, None]) & is_place[None, :]
        score = tl.where(is_seen, score, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(score, 1))
        # A row may see nothing of the first tiles: the difference of two -inf would be nan.
        base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weight = tl.exp2(score - base[:, None])
        decay = tl.exp2(largest - base)
        largest = new_largest
        total = total * decay + tl.sum(weight, 1)
        value = tl.load(
            values + cell[:, None] * value_stride + dim[None, :], mask=is_place[:, None] & is_dim[None, :], other=0.0
        )
        mixed = mixed * decay[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
    return largest, total, mixed


@jit(do_not_specialize=("num_rows", "num_sequences", "head_base", "least_rows", "most_rows"))
def _attend_kernel(
    q,
    keys,
    values,
    tables,
    cu_rows,
    visible,
    first,
    out,
    norms,
    num_rows,
    num_sequences,
    table_stride,
    q_stride,
    q_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    num_out_heads,
    head_base,
    scale,
    least_rows,
    most_rows,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    SPLIT: tl.constexpr,
    QUERIES: tl.constexpr,
    PLACES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend with one tile of rows and one KV head: to all its context, to an even share, or to every n-th split.

    Only sequences of more than least_rows and up to most_rows rows are this launch's.
    """
    ROWS: tl.constexpr = QUERIES // GROUP
    sequence, tile = _find_tile(cu_rows, num_sequences, tl.program_id(0), ROWS)
    row_base = tl.load(cu_rows + sequence)
    count = tl.load(cu_rows + sequence + 1) - row_base
    if (tile * ROWS >= count) | (count <= least_rows) | (count > most_rows):
        return
    local_head = tl.program_id(1)
    head = head_base + local_head
    index = tl.arange(0, QUERIES)
    is_query = (index < ROWS * GROUP) & (tile * ROWS + index // GROUP < count)
    row = row_base + tile * ROWS + index // GROUP  # i64
    dim = tl.arange(0, DIM_PADDED)
    is_cell = is_query[:, None] & (dim < DIM)[None, :]
    query_head = head * GROUP + index % GROUP
    query = tl.load(
        q + row[:, None] * q_stride + query_head[:, None] * q_head_stride + dim[None, :], mask=is_cell, other=0.0
    )
    seen_to = tl.load(visible + row, mask=is_query, other=0).to(tl.int32)
    seen_from = tl.zeros_like(seen_to)
    begin = 0
    if HAS_FIRST:
        seen_from = tl.load(first + row, mask=is_query, other=2147483647).to(tl.int32)
        begin = tl.min(seen_from, 0)
    end = tl.max(seen_to, 0)
    # Tiles of places stand at fixed places, whichever row is asked for.
    aligned = begin // PLACES * PLACES
    keys += head.to(tl.int64) * key_head_stride
    values += head.to(tl.int64) * value_head_stride
    table = tables + sequence.to(tl.int64) * table_stride
    num_shares, share = tl.num_programs(2), tl.program_id(2)
    out_cell = row * num_out_heads + local_head * GROUP + index % GROUP
    part_stride = num_rows.to(tl.int64) * num_out_heads
    if SPLIT == 0:
        length = tl.cdiv(tl.cdiv(end - aligned, num_shares), PLACES) * PLACES
        share_begin = aligned + share * length
        share_end = tl.minimum(share_begin + length, end)
        largest, total, mixed = _attend_to(
            share_begin, share_end, begin, query, seen_from, seen_to, keys, values, table, key_stride, value_stride, scale,
            DIM, DIM_PADDED, BLOCK_SIZE, QUERIES, PLACES, PRECISION,
        )  # fmt: skip
        if IS_WHOLE:
            out_cell = row * num_out_heads + query_head
            mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
            tl.store(out + out_cell[:, None] * DIM + dim[None, :], mixed.to(out.dtype.element_ty), mask=is_cell)
        else:
            cell = share * part_stride + out_cell
            tl.store(norms + cell * 2, largest, mask=is_query)
            tl.store(norms + cell * 2 + 1, total, mask=is_query)
            tl.store(out + cell[:, None] * DIM + dim[None, :], mixed, mask=is_cell)
    else:
        for split in range(aligned // SPLIT + share, tl.cdiv(end, SPLIT), num_shares):
            split_begin = tl.maximum(split * SPLIT, aligned)
            split_end = tl.minimum((split + 1) * SPLIT, end)
            largest, total, mixed = _attend_to(
                split_begin, split_end, begin, query, seen_from, seen_to, keys, values, table, key_stride, value_stride, scale,
                DIM, DIM_PADDED, BLOCK_SIZE, QUERIES, PLACES, PRECISION,
            )  # fmt: skip
            cell = split * part_stride + out_cell
            tl.store(norms + cell * 2, largest, mask=is_query)
            tl.store(norms + cell * 2 + 1, total, mask=is_query)
            tl.store(out + cell[:, None] * DIM + dim[None, :], mixed, mask=is_cell)


@jit(do_not_specialize=("num_rows", "num_parts", "head_base", "most_rows"))
def _add_up_kernel(
    mixed,
    norms,
    cu_rows,
    sequence,
    visible,
    first,
    out,
    num_rows,
    num_parts,
    num_part_heads,
    num_heads,
    head_base,
    most_rows,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Add up the partial results of one row and one KV head in order of place.

    With fixed splits only those that the row sees are there to be read; even shares all are.
    """
    row = tl.program_id(0).to(tl.int64)
    owner = tl.load(sequence + row)
    end = tl.load(cu_rows + owner + 1)
    if (row >= end) | (end - tl.load(cu_rows + owner) > most_rows):
        return
    start, stop = 0, num_parts
    if SPLIT > 0:
        stop = tl.cdiv(tl.load(visible + row), SPLIT).to(tl.int32)
        if HAS_FIRST:
            start = (tl.load(first + row) // SPLIT).to(tl.int32)
    local_head = tl.program_id(1)
    index = tl.arange(0, GROUP_PADDED)
    is_head = index < GROUP
    dim = tl.arange(0, DIM_PADDED)
    is_cell = is_head[:, None] & (dim < DIM)[None, :]
    base = row * num_part_heads + local_head * GROUP + index
    part_stride = num_rows.to(tl.int64) * num_part_heads
    largest = tl.full((GROUP_PADDED,), float("-inf"), tl.float32)
    for part in range(start, stop):
        cell = base + part * part_stride
        largest = tl.maximum(largest, tl.load(norms + cell * 2, mask=is_head, other=float("-inf")))
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.zeros((GROUP_PADDED,), tl.float32)
    result = tl.zeros((GROUP_PADDED, DIM_PADDED), tl.float32)
    for part in range(start, stop):
        cell = base + part * part_stride
        weight = tl.exp2(tl.load(norms + cell * 2, mask=is_head, other=float("-inf")) - largest)
        total += weight * tl.load(norms + cell * 2 + 1, mask=is_head, other=0.0)
        result += weight[:, None] * tl.load(mixed + cell[:, None] * DIM + dim[None, :], mask=is_cell, other=0.0)
    result = result / tl.where(total > 0.0, total, 1.0)[:, None]
    out_cell = row * num_heads + (head_base + local_head) * GROUP + index
    tl.store(out + out_cell[:, None] * DIM + dim[None, :], result.to(out.dtype.element_ty), mask=is_cell)
