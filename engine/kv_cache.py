"""The KV tensors, one group for the target and one per drafter, all addressed by one block table.

Knows nothing of who uses a block; that is engine/blocks.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.tensors import PagedKV


class KVGroup:
    """Keys and values [num_blocks, block_size, Hkv, D] of each layer of one network; layers are their (Hkv, D)."""

    def __init__(
        self,
        layers: Sequence[tuple[int, int]],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        shapes = [(num_blocks, block_size, *layer) for layer in layers]
        self.keys = tuple(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes)
        self.values = tuple(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes)
        self.block_size = block_size

    @property
    def num_bytes(self) -> int:
        """Memory that the group reserves."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def view(self, block_tables: Tensor) -> PagedKV:
        """Return the group as seen through block tables i64 [B, max_blocks]."""
        return PagedKV(self.keys, self.values, block_tables, self.block_size)


def kv_bytes(layers: Sequence[tuple[int, int]], num_blocks: int, block_size: int, dtype: torch.dtype) -> int:
    """Return the memory that a group of such layers reserves."""
    return 2 * num_blocks * block_size * sum(heads * head_dim for heads, head_dim in layers) * dtype.itemsize
