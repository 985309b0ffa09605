"""The numbers that plain rounds draw their tokens with, made for many rounds at once.

A draw is a pure function of nonce, anchor and attempt (core/random.py), so it does not matter when it is computed; made
one round at a time, the arithmetic of ten Philox rounds would cost a plain step more than its bookkeeping.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.random import round_uniforms
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
        # Of the rounds to come, last first, for as long as these sequences go on token by token.
        self._sequences: tuple[Sequence, ...] = ()
        self._expected: list[tuple[int, int]] = []
        self._rounds: list[Tensor] = []

    def of(self, sequences: tuple[Sequence, ...]) -> Tensor:
        """Return what `round_uniforms` gives these sequences for a round without drafts: f32 [B, 1]."""
        facts = [(len(sequence.tokens), sequence.attempt) for sequence in sequences]
        if not self._rounds or facts != self._expected or sequences != self._sequences:
            self._look_ahead(sequences, facts)
        self._expected = [(length + 1, attempt) for length, attempt in facts]
        return self._rounds.pop()

    def _look_ahead(self, sequences: tuple[Sequence, ...], facts: list[tuple[int, int]]) -> None:
        slots = np.array([sequence.slot for sequence in sequences], dtype=np.int64)
        nonces = np.array([sequence.request.nonce for sequence in sequences], dtype=np.uint64)
        lengths, attempts = np.array(facts, dtype=np.int64).T
        place = lengths - 1 - self._first[slots]
        missing = (place < 0) | (place >= AHEAD)
        missing |= (self._nonce[slots] != nonces) | (self._attempt[slots] != attempts)
        if missing.any():
            self._make(slots[missing], nonces[missing], lengths[missing] - 1, attempts[missing])
            place[missing] = 0
        places = np.arange(AHEAD - 1 - place.max(), -1, -1)[:, None] + place
        self._rounds = list(torch.from_numpy(self._numbers[slots, places][:, :, None]).unbind(0))
        self._sequences = sequences

    def _make(self, slots: I64, nonces: NDArray[np.uint64], anchors: I64, attempts: I64) -> None:
        ahead = (anchors[:, None] + np.arange(AHEAD)).ravel()
        _, numbers = round_uniforms(np.repeat(nonces, AHEAD), ahead, np.repeat(attempts, AHEAD), 0)
        self._numbers[slots] = numbers.reshape(-1, AHEAD)
        self._nonce[slots], self._attempt[slots], self._first[slots] = nonces, attempts, anchors
