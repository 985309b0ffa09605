"""The numbers that rounds with drafts draw with, made while the device is busy with the round before.

A draw is a pure function of nonce, anchor and attempt (core/random.py). Where the next anchor will be is not known yet,
but it is one of few places: so the numbers of all of them are made, and the round takes its own.
"""

import numpy as np

from core.planning import F32
from core.random import round_uniforms
from engine.anchors import Anchors, KnownAnchors, anchors_of
from engine.sequence import Sequence


class DrawsAhead:
    """Remembers, per slot, the draws of the width + 1 anchors from `first` on, of one nonce and attempt."""

    def __init__(self, num_slots: int, width: int) -> None:
        self._width = width
        self._known = KnownAnchors(num_slots, width + 1)
        self._draft = np.zeros((num_slots, width + 1, width), dtype=np.float32)
        self._verdict = np.zeros((num_slots, width + 1, width + 1), dtype=np.float32)
        self.num_found = self.num_made = 0

    def prepare(self, sequences: tuple[Sequence, ...]) -> None:
        """Make the numbers of the next round of sequences that get 1 to width + 1 tokens in the one under way."""
        if all(sequence.request.sampling.temperature == 0.0 for sequence in sequences):
            return
        at, count = anchors_of(sequences), self._width + 1
        ahead = at.anchors[:, None] + 1 + np.arange(count)
        nonces, attempts = np.repeat(at.nonces, count), np.repeat(at.attempts, count)
        draft, verdict = round_uniforms(nonces, ahead.ravel(), attempts, self._width)
        self._draft[at.slots] = draft.reshape(-1, count, self._width)
        self._verdict[at.slots] = verdict.reshape(-1, count, self._width + 1)
        self._known.learn(at, at.anchors + 1)

    def of(self, at: Anchors) -> tuple[F32, F32]:
        """Return what `round_uniforms` gives rounds that begin there: draft f32 [B, G], verdict f32 [B, G + 1]."""
        place, missing = self._known.places(at)
        num_missing = int(np.count_nonzero(missing))
        self.num_made += num_missing
        self.num_found += len(place) - num_missing
        if num_missing == len(place):
            return round_uniforms(at.nonces, at.anchors, at.attempts, self._width)
        place[missing] = 0
        draft, verdict = self._draft[at.slots, place], self._verdict[at.slots, place]
        if num_missing:
            lacking = at.where(missing)
            made = round_uniforms(lacking.nonces, lacking.anchors, lacking.attempts, self._width)
            draft[missing], verdict[missing] = made
        return draft, verdict
