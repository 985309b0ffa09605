"""Attention of ragged rows over a paged cache by Triton kernels: the body of kernels/attention.py on a GPU.

A program attends with some rows of one sequence, and all query heads of one KV head, to a share of the context: those
are the M rows of one matrix product, so each key is read once for all of them. Where the context is shared between
programs (flash-decoding), each leaves a partial result and a second kernel adds the shares up in order.

In `fast` numerics as many programs share a context as fill the GPU, and a prefill chunk, which fills it alone, is not
shared. In `batch_invariant` numerics shares are cut at multiples of SPLIT_ROWS, by place alone, tiles are of one size,
and who computes a share does not show: a row's bits depend on its context, and on nothing beside it.

Nothing is read back to the host, and shapes depend on numbers of rows and of sequences only.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.tensors import PagedKV
from kernels.attention_layout import LARGEST_SHARED_TILE_ROWS, AttentionLayout, Reach, cache_rows
from kernels.flash_decoding import add_up_kernel, attend_kernel

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


def tile_sizes(head_dim: int, dtype: torch.dtype, num_queries: int, *, has_first: bool, is_shared: bool) -> TileSizes:
    """Return the sizes for tiles of up to num_queries query rows; they depend on nothing else.

    is_shared  the launch cuts contexts into even shares, or would if there were fewer sequences
    No size spills registers or exceeds shared memory on any target (tests/kernels/compiled_layers.py).
    """
    is_float, is_wide = dtype == torch.float32, head_dim > 128
    queries = min(max(_power_of_two(num_queries), 16), 64 >> is_float >> is_wide)
    places = 32 if is_float or is_wide or (queries > 16 and (has_first or is_shared)) else 64
    num_warps = 8 if is_float or queries == (32 if is_wide and has_first else 64) else 4
    if queries == 16 and not is_wide:
        # With the other number ptxas settles on 80 registers for sm_90 and spills some.
        num_warps = 8 if head_dim <= 64 else 4
    # With two stages ptxas of Triton 3.6 settles on 168 registers for 16 wide rows with a window and spills some.
    is_deep = head_dim <= 64 or (is_wide and has_first and queries == 16)
    num_stages = 1 if is_float else 3 if is_deep else 2
    return TileSizes(queries, places, num_warps, num_stages)


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
        sizes = self._sizes(ANY_NUMBER, is_shared=False)
        self._attend(sizes, (least, ANY_NUMBER), 1, self.num_kv_heads, 0, None)

    def in_even_shares(self, most: int) -> None:
        """Attend with the rows of sequences of up to `most`, contexts shared by as many programs as fill the GPU."""
        sizes = self._sizes(most * self.group, is_shared=True)
        num_programs = self._num_tiles(sizes) * self.num_kv_heads
        num_shares = min(-(-PROGRAMS // num_programs), -(-self.most_places // LEAST_SHARE))
        if num_shares == 1:
            self._attend(sizes, (0, most), 1, self.num_kv_heads, 0, None)
        else:
            self._shared(sizes, (0, most), num_shares, num_shares, 0)

    def in_fixed_splits(self) -> None:
        """Attend with all rows in splits of SPLIT_ROWS places, tiles of one size."""
        sizes = self._sizes(LARGEST_SHARED_TILE_ROWS * self.group, is_shared=False)
        num_splits = -(-self.most_places // SPLIT_ROWS)
        num_programs = self._num_tiles(sizes) * self.num_kv_heads
        num_shares = min(-(-PROGRAMS // num_programs), num_splits)
        self._shared(sizes, (0, ANY_NUMBER), num_shares, num_splits, SPLIT_ROWS)

    def _sizes(self, num_queries: int, *, is_shared: bool) -> TileSizes:
        has_first = self.tile.reach.first is not None
        return tile_sizes(self.head_dim, self.q.dtype, num_queries, has_first=has_first, is_shared=is_shared)

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
            add_up_kernel[(self.num_rows, heads)](
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
        attend_kernel[(self._num_tiles(sizes), num_heads, num_shares)](
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
