"""What makes two blocks the same: the chained hash of their tokens and of all before them, within one tenant."""

import hashlib
from array import array
from collections.abc import Sequence as Tokens


def first_link(cache_salt: str) -> bytes:
    """Return what a tenant's chains begin with; blocks are never shared between salts."""
    return hashlib.sha256(cache_salt.encode()).digest()


def extend_chain(chain: list[bytes], tokens: Tokens[int], block_size: int, cache_salt: str, num_blocks: int) -> None:
    """Append the hashes of full blocks to a sequence's chain until it has `num_blocks`; sha256 of the one before."""
    while len(chain) < num_blocks:
        start = len(chain) * block_size
        content = array("q", tokens[start : start + block_size]).tobytes()
        chain.append(hashlib.sha256((chain[-1] if chain else first_link(cache_salt)) + content).digest())
