"""The numbers that rounds with drafts draw with, made while the device is busy with the round before.

A draw is a pure function of nonce, anchor and attempt (core/random.py). Where the next anchor will be is not known yet,
but it is one of few places: so the numbers of all of them are made, and the round takes its own.
"""

import numpy as np
from numpy.typing import NDArray

from core.planning import F32
from core.random import round_uniforms
from engine.sequence import Sequence

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


class DrawsAhead:
    """Remembers, per slot, the draws of the width + 1 anchors from `first` on, of one nonce and attempt."""

    def __init__(self, num_slots: int, width: int) -> None:
        self._width = width
        self._nonce = np.zeros(num_slots, dtype=np.uint64)
        self._attempt = np.full(num_slots, -1, dtype=np.int64)
        self._first = np.zeros(num_slots, dtype=np.int64)
        self._draft = np.zeros((num_slots, width + 1, width), dtype=np.float32)
        self._verdict = np.zeros((num_slots, width + 1, width + 1), dtype=np.float32)
        self.num_found = self.num_made = 0

    def prepare(self, sequences: tuple[Sequence, ...]) -> None:
        """Make the numbers of the next round of sequences that get 1 to width + 1 tokens in the one under way."""
        if all(sequence.request.sampling.temperature == 0.0 for sequence in sequences):
            return
        slots, nonces, anchors, attempts = facts_of(sequences)
        ahead, count = anchors[:, None] + 1 + np.arange(self._width + 1), self._width + 1
        draft, verdict = round_uniforms(
            np.repeat(nonces, count), ahead.ravel(), np.repeat(attempts, count), self._width
        )
        self._draft[slots] = draft.reshape(-1, count, self._width)
        self._verdict[slots] = verdict.reshape(-1, count, self._width + 1)
        self._nonce[slots], self._attempt[slots], self._first[slots] = nonces, attempts, anchors + 1

    def of(self, sequences: tuple[Sequence, ...]) -> tuple[F32, F32]:
        """Return what `round_uniforms` gives these sequences: draft f32 [B, G], verdict f32 [B, G + 1]."""
        slots, nonces, anchors, attempts = facts_of(sequences)
        place = anchors - self._first[slots]
        missing = (place < 0) | (place > self._width)
        missing |= (self._nonce[slots] != nonces) | (self._attempt[slots] != attempts)
        num_missing = int(np.count_nonzero(missing))
        self.num_made += num_missing
        self.num_found += len(slots) - num_missing
        if num_missing == len(slots):
            return round_uniforms(nonces, anchors, attempts, self._width)
        place[missing] = 0
        draft, verdict = self._draft[slots, place], self._verdict[slots, place]
        if num_missing:
            made = round_uniforms(nonces[missing], anchors[missing], attempts[missing], self._width)
            draft[missing], verdict[missing] = made
        return draft, verdict


def facts_of(sequences: tuple[Sequence, ...]) -> tuple[I64, U64, I64, I64]:
    """Return the slots, nonces, anchors and attempts [B] of sequences."""
    nonces = np.array([sequence.request.nonce for sequence in sequences], dtype=np.uint64)
    rows = [(sequence.slot, len(sequence.tokens) - 1, sequence.attempt) for sequence in sequences]
    slots, anchors, attempts = np.array(rows, dtype=np.int64).T
    return slots, nonces, anchors, attempts
