"""Which KV blocks are free. Knows ids only, no tensors and no tokens."""

from core.errors import OutOfBlocks

# Block 0 pads block tables; it is never given out, so padding can be read but never belongs to anyone.
NULL_BLOCK = 0


class BlockPool:
    """Hands out block ids 1..num_blocks - 1 and takes them back."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.num_usable = num_blocks - 1
        self._free = list(range(num_blocks - 1, NULL_BLOCK, -1))

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free)

    def blocks_for(self, num_rows: int) -> int:
        """Return how many blocks hold `num_rows` rows."""
        return -(-num_rows // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; raises OutOfBlocks, taking none, if there are fewer."""
        if count > len(self._free):
            raise OutOfBlocks(f"{count} KV blocks are needed, {len(self._free)} are free")
        return [self._free.pop() for _ in range(count)]

    def free(self, blocks: list[int]) -> None:
        """Give blocks back."""
        self._free.extend(reversed(blocks))
