"""Which KV blocks are free, shared or cached. Knows ids and hashes only, no tensors and no tokens.

A block is referenced by the sequences that read it. A published block keeps its content when the last of them leaves:
it is cached, found again by its hash, and given away only when nothing else is free, least recently used first.
"""

from collections import OrderedDict

from core.errors import OutOfBlocks

# Block 0 pads block tables; it is never given out, so padding can be read but never belongs to anyone.
NULL_BLOCK = 0


class BlockPool:
    """Hands out block ids 1..num_blocks - 1 and takes them back.

    num_scratch of them hold draft rows only, between a step's scheduling and its commit: they come on top of what
    sequences and the prefix cache may keep, so that drafting never costs a cached block.
    """

    def __init__(self, num_blocks: int, block_size: int, num_scratch: int = 0) -> None:
        self.block_size = block_size
        self.num_usable = num_blocks - 1 - num_scratch
        self.num_scratch = num_scratch
        # Per block its readers, its hash if it is published, and a bit per drafter whose part of it is written.
        self._readers = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._valid = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, NULL_BLOCK, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._published: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that sequences can take now, cached ones included; never below 0."""
        return max(0, len(self._blank) + len(self._cached) - self.num_scratch)

    def blocks_for(self, num_rows: int) -> int:
        """Return how many blocks hold `num_rows` rows."""
        return -(-num_rows // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, cached ones if need be; raises OutOfBlocks, taking none, if there are fewer."""
        if count > self.num_free:
            raise OutOfBlocks(f"{count} KV blocks are needed, {self.num_free} are free")
        # What is blank stays so for draft rows as long as something cached can go instead.
        while self._cached and len(self._blank) < count + self.num_scratch:
            self._forget(self._cached.popitem(last=False)[0])
        return self._take(count)

    def allocate_scratch(self, count: int) -> list[int] | None:
        """Take `count` blank blocks for draft rows; None if there are fewer. Nothing cached is given up for them."""
        return self._take(count) if count <= len(self._blank) else None

    def release(self, blocks: list[int]) -> None:
        """Stop reading blocks; those that nobody reads are cached if published, else blank. The last goes first."""
        for block in reversed(blocks):
            self._readers[block] -= 1
            if self._readers[block]:
                continue
            if self._hashes[block] is None:
                self._valid[block] = 0
                self._blank.append(block)
            else:
                self._cached[block] = None

    # --- The prefix cache --------------------------------------------------------------------------------------

    def match(self, hashes: list[bytes]) -> list[int]:
        """Return the published blocks of the longest prefix of `hashes`, without taking them."""
        found = []
        for block_hash in hashes:
            block = self._published.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def num_taken_by(self, blocks: list[int]) -> int:
        """Return how many free blocks sharing `blocks` would take away: those that nobody reads yet."""
        return sum(self._readers[block] == 0 for block in blocks)

    def share(self, blocks: list[int]) -> None:
        """Read published blocks."""
        for block in blocks:
            if not self._readers[block]:
                del self._cached[block]
            self._readers[block] += 1

    def publish(self, block: int, block_hash: bytes) -> None:
        """Make a full block of committed rows findable; of two blocks with one content the first is."""
        if block_hash not in self._published:
            self._published[block_hash] = block
            self._hashes[block] = block_hash

    def is_valid(self, block: int, drafter: int) -> bool:
        """Tell whether a drafter's part of a block is written."""
        return bool(self._valid[block] >> drafter & 1)

    def set_valid(self, block: int, drafter: int) -> None:
        """Note that a drafter's part of a block is written; it stays so until the block is given away."""
        self._valid[block] |= 1 << drafter

    def forget(self, drafter: int) -> None:
        """Take no block's part of a drafter for written any more."""
        self._valid = [valid & ~(1 << drafter) for valid in self._valid]

    def _take(self, count: int) -> list[int]:
        taken = [self._blank.pop() for _ in range(count)]
        for block in taken:
            self._readers[block] = 1
        return taken

    def _forget(self, block: int) -> None:
        block_hash = self._hashes[block]
        assert block_hash is not None
        del self._published[block_hash]
        self._hashes[block] = None
        self._valid[block] = 0
        self._blank.append(block)
