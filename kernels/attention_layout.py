"""What a body of attention over a paged cache lays out before a forward: where rows write, and the parts of the work.

The contract is that of kernels/attention.py, whose twin and whose kernel share these.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from core.tensors import PagedKV

# Sequences with more rows than this (prefill chunks) are computed one by one, so that they do not pad the others.
LARGEST_SHARED_TILE_ROWS = 16


class Reach(NamedTuple):
    """What each of N rows sees of its context: places first..visible - 1, both i64 [N]; first None is 0 for all."""

    visible: Tensor
    first: Tensor | None


class AttentionTile(Protocol):
    """Some sequences of a batch, ready to be attended together."""

    @property
    def targets(self) -> slice | Tensor:
        """Where its M rows lie among the N of the batch: a range, or i64 [M]."""
        ...

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """Return the tile's rows [M, Hq, D] from q [N, Hq, D] and caches [num_cache_rows, Hkv, D].

        scale multiplies the scores; None is 1 / sqrt(D).
        """
        ...


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """Where the rows of one forward read and write; made once per forward, shared by all layers.

    write  i64 [N]; cache row that each ragged row's key and value go to
    tiles  the dense problems that together cover all rows; a single one has them in their order
    """

    write: Tensor
    tiles: tuple[AttentionTile, ...]

    def storing(self, stores: Tensor) -> "AttentionLayout":
        """Return the layout in which only rows with `stores` bool [N] write; the others write to cache row 0.

        It lies in block 0, which no sequence reads.
        """
        return replace(self, write=self.write * stores)


def first_seen(positions: Tensor, window: int | None, skips: int) -> Tensor | None:
    """Return the first place i64 [N] that rows at `positions` i64 [N] see; None if that is 0 for all."""
    if window is None:
        return torch.full_like(positions, skips) if skips else None
    return (positions + 1 - window).clamp_(min=skips)


def cache_rows(kv: PagedKV, sequence: Tensor, positions: Tensor) -> Tensor:
    """Return the flat cache row of each (sequence of the view, position) pair."""
    blocks = kv.block_tables[sequence, positions // kv.block_size]
    return blocks * kv.block_size + positions % kv.block_size
