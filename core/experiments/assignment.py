"""Which arm when, or for whom: pure functions of an experiment's salt, so that nothing has to be agreed or remembered.

Time is cut into slots, counted from the start of Unix time by Redis's clock; slots into blocks, in which every arm has
as many slots as its weight, in an order drawn anew for each block. A balanced block takes slow drifts of the load out
of the comparison, a random order what repeats itself.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

PERSON = b"specd-experiment"
# An analysis asks for every slot several times over.
KEPT_BLOCKS = 4096


def slot_at(now_s: float, slot_s: float) -> int:
    """Return the number of the slot that a moment falls in; seconds of Unix time."""
    return int(now_s // slot_s)


def block_of(slot: int, weights: Mapping[str, int]) -> int:
    """Return the number of the block that a slot belongs to."""
    return slot // sum(weights.values())


def arm_of_slot(salt: str, weights: Mapping[str, int], slot: int, worker: str = "") -> str:
    """Return the arm of a slot; with `worker`, of that worker alone, whose order is its own."""
    size = sum(weights.values())
    return _block_of_arms(f"{salt}|{worker}|{slot // size}", tuple(weights.items()))[slot % size]


def arm_of_key(salt: str, weights: Mapping[str, int], key: str) -> str:
    """Return the arm of a user or a request, evenly by weight over keys."""
    ends: Sequence[int] = list(accumulate(weights.values()))
    place = _hash(f"{salt}|{key}") % ends[-1]
    return next(name for name, end in zip(weights, ends, strict=True) if place < end)


@lru_cache(maxsize=KEPT_BLOCKS)
def _block_of_arms(key: str, weights: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    arms = [name for name, weight in weights for _ in range(weight)]
    order = np.random.default_rng(_hash(key)).permutation(len(arms))
    return tuple(arms[place] for place in order)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16, person=PERSON).digest()
    return int.from_bytes(digest, "big")
