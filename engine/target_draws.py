"""The numbers that plain rounds draw their tokens with, made for many rounds at once.

A draw is a pure function of nonce, anchor and attempt (core/random.py), so it does not matter when it is computed; made
one round at a time, the arithmetic of ten Philox rounds would cost a plain step more than its bookkeeping.
"""

import numpy as np
import torch
from torch import Tensor

from core.random import round_uniforms
from engine.anchors import Anchors, KnownAnchors, anchors_of
from engine.sequence import Sequence

# Rounds made at once for a sequence.
AHEAD = 64


class TargetDraws:
    """Remembers, per slot, the draws of the AHEAD anchors from `first` on, of one nonce and attempt."""

    def __init__(self, num_slots: int) -> None:
        self._known = KnownAnchors(num_slots, AHEAD)
        self._numbers = np.zeros((num_slots, AHEAD), dtype=np.float32)
        # Of the rounds to come, last first, for as long as these sequences go on token by token.
        self._sequences: tuple[Sequence, ...] = ()
        self._expected: list[tuple[int, int]] = []
        self._rounds: list[Tensor] = []

    def of(self, sequences: tuple[Sequence, ...]) -> Tensor:
        """Return what `round_uniforms` gives these sequences for a round without drafts: f32 [B, 1]."""
        facts = [(len(sequence.tokens), sequence.attempt) for sequence in sequences]
        if not self._rounds or facts != self._expected or sequences != self._sequences:
            self._look_ahead(sequences)
        self._expected = [(length + 1, attempt) for length, attempt in facts]
        return self._rounds.pop()

    def _look_ahead(self, sequences: tuple[Sequence, ...]) -> None:
        at = anchors_of(sequences)
        place, missing = self._known.places(at)
        if missing.any():
            self._make(at.where(missing))
            place[missing] = 0
        places = np.arange(AHEAD - 1 - place.max(), -1, -1)[:, None] + place
        self._rounds = list(torch.from_numpy(self._numbers[at.slots, places][:, :, None]).unbind(0))
        self._sequences = sequences

    def _make(self, at: Anchors) -> None:
        ahead = (at.anchors[:, None] + np.arange(AHEAD)).ravel()
        _, numbers = round_uniforms(np.repeat(at.nonces, AHEAD), ahead, np.repeat(at.attempts, AHEAD), 0)
        self._numbers[at.slots] = numbers.reshape(-1, AHEAD)
        self._known.learn(at, at.anchors)
