"""Where rounds begin, and for which of them a slot has its numbers at hand.

A round's draws are a pure function of nonce, anchor and attempt (core/random.py), so whoever makes them ahead need only
remember which those were.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.planning import BoolArray
from engine.sequence import Sequence

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


class Anchors(NamedTuple):
    """What draws of B sequences are keyed by, each [B], and the slots that they stand in."""

    slots: I64
    nonces: U64
    anchors: I64
    attempts: I64

    def where(self, chosen: BoolArray) -> "Anchors":
        """Return those that are chosen, bool [B]."""
        return Anchors(self.slots[chosen], self.nonces[chosen], self.anchors[chosen], self.attempts[chosen])


def anchors_of(sequences: tuple[Sequence, ...]) -> Anchors:
    """Return where the next round of each sequence begins: at its last token."""
    nonces = np.array([sequence.request.nonce for sequence in sequences], dtype=np.uint64)
    rows = [(sequence.slot, len(sequence.tokens) - 1, sequence.attempt) for sequence in sequences]
    slots, anchors, attempts = np.array(rows, dtype=np.int64).T
    return Anchors(slots, nonces, anchors, attempts)


class KnownAnchors:
    """Remembers, per slot, that something is at hand for `count` anchors from one on, of one nonce and attempt."""

    def __init__(self, num_slots: int, count: int) -> None:
        self._count = count
        self._nonce = np.zeros(num_slots, dtype=np.uint64)
        self._attempt = np.full(num_slots, -1, dtype=np.int64)
        self._first = np.zeros(num_slots, dtype=np.int64)

    def learn(self, at: Anchors, first: I64) -> None:
        """Take the anchors from first [B] on for known."""
        self._nonce[at.slots], self._attempt[at.slots], self._first[at.slots] = at.nonces, at.attempts, first

    def places(self, at: Anchors) -> tuple[I64, BoolArray]:
        """Return how far each anchor lies behind its slot's first, [B], and which are not known, bool [B]."""
        place = at.anchors - self._first[at.slots]
        missing = (place < 0) | (place >= self._count)
        missing |= (self._nonce[at.slots] != at.nonces) | (self._attempt[at.slots] != at.attempts)
        return place, missing
