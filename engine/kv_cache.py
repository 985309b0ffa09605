"""The KV tensors, one group for the target and one per drafter, all addressed by one block table.

Knows nothing of who uses a block; that is engine/blocks.py.
"""

import torch
from torch import Tensor

from core.tensors import PagedKV


class KVGroup:
    """Keys and values [num_blocks, block_size, Hkv, D] of each layer of one network."""

    def __init__(
        self, layers: int, num_blocks: int, block_size: int, heads: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        shape = (num_blocks, block_size, heads, head_dim)
        self.keys = tuple(torch.zeros(shape, dtype=dtype) for _ in range(layers))
        self.values = tuple(torch.zeros(shape, dtype=dtype) for _ in range(layers))
        self.block_size = block_size

    @property
    def num_bytes(self) -> int:
        """Memory that the group reserves."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def view(self, block_tables: Tensor) -> PagedKV:
        """Return the group as seen through block tables i64 [B, max_blocks]."""
        return PagedKV(self.keys, self.values, block_tables, self.block_size)
