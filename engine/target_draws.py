"""The numbers that plain rounds draw their tokens with, made for many rounds at once.

A draw is a pure function of nonce, anchor and attempt (core/random.py), so it does not matter when it is computed; made
one round at a time, the arithmetic of ten Philox rounds would cost a plain step more than its bookkeeping.
"""

import numpy as np
from numpy.typing import NDArray

from core.random import round_uniforms
from core.types import F32

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

    def of(self, slots: I64, nonces: NDArray[np.uint64], anchors: I64, attempts: I64) -> F32:
        """Return what `round_uniforms` gives rounds without drafts: f32 [B, 1], for arguments [B]."""
        place = anchors - self._first[slots]
        missing = (place < 0) | (place >= AHEAD)
        missing |= (self._nonce[slots] != nonces) | (self._attempt[slots] != attempts)
        if missing.any():
            self._make(slots[missing], nonces[missing], anchors[missing], attempts[missing])
            place[missing] = 0
        return self._numbers[slots, place][:, None]

    def _make(self, slots: I64, nonces: NDArray[np.uint64], anchors: I64, attempts: I64) -> None:
        ahead = (anchors[:, None] + np.arange(AHEAD)).ravel()
        _, numbers = round_uniforms(np.repeat(nonces, AHEAD), ahead, np.repeat(attempts, AHEAD), 0)
        self._numbers[slots] = numbers.reshape(-1, AHEAD)
        self._nonce[slots], self._attempt[slots], self._first[slots] = nonces, attempts, anchors
