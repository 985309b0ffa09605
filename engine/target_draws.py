"""The numbers that plain rounds draw their tokens with, made for many rounds at once.

A draw is a pure function of nonce, anchor and attempt (core/random.py), so it does not matter when it is computed; made
one round at a time, the arithmetic of ten Philox rounds would cost a plain step more than its bookkeeping.
"""

import numpy as np
from numpy.typing import NDArray

from core.random import round_uniforms
from core.types import F32
from engine.sequence import Sequence

I64 = NDArray[np.int64]

# Rounds made at once for a sequence.
AHEAD = 64


class TargetDraws:
    """Remembers, per slot, the draws of the AHEAD anchors from `first` on, of one nonce and attempt."""

    def __init__(self, num_slots: int) -> None:
        self._nonce = np.zeros(num_slots, dtype=np.uint64)
        self._attempt = np.full(num_slots, -1, dtype=np.int64)
        self._first = np.zeros(num_slots, dtype=np.int64)
        self._numbers = np.zeros((num_slots, AHEAD), dtype=np.float32)
        # What is the same for as long as the batch stays.
        self._last: tuple[tuple[Sequence, ...], I64, NDArray[np.uint64]] | None = None

    def of(self, sequences: tuple[Sequence, ...]) -> F32:
        """Return what `round_uniforms` gives these sequences for a round without drafts: f32 [B, 1]."""
        slots, nonces = self._facts(sequences)
        facts = np.array([(len(sequence.tokens) - 1, sequence.attempt) for sequence in sequences], dtype=np.int64)
        anchors, attempts = facts[:, 0], facts[:, 1]
        place = anchors - self._first[slots]
        missing = (place < 0) | (place >= AHEAD)
        missing |= (self._nonce[slots] != nonces) | (self._attempt[slots] != attempts)
        if missing.any():
            self._make(slots[missing], nonces[missing], anchors[missing], attempts[missing])
            place[missing] = 0
        return self._numbers[slots, place][:, None]

    def _facts(self, sequences: tuple[Sequence, ...]) -> tuple[I64, NDArray[np.uint64]]:
        if self._last is None or self._last[0] != sequences:
            slots = np.array([sequence.slot for sequence in sequences], dtype=np.int64)
            nonces = np.array([sequence.request.nonce for sequence in sequences], dtype=np.uint64)
            self._last = sequences, slots, nonces
        return self._last[1], self._last[2]

    def _make(self, slots: I64, nonces: NDArray[np.uint64], anchors: I64, attempts: I64) -> None:
        ahead = (anchors[:, None] + np.arange(AHEAD)).ravel()
        _, numbers = round_uniforms(np.repeat(nonces, AHEAD), ahead, np.repeat(attempts, AHEAD), 0)
        self._numbers[slots] = numbers.reshape(-1, AHEAD)
        self._nonce[slots], self._attempt[slots], self._first[slots] = nonces, attempts, anchors
