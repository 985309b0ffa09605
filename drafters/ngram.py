"""N-gram prompt lookup: propose what followed the last earlier occurrence of the current suffix.

It reads only the sequence itself, so it costs no forward and no KV. Proposals are point masses.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.tensors import Commit, Draft, DraftAsk
from drafters.base import DrafterSpec
from drafters.point_masses import point_masses

Tokens = NDArray[np.int64]


class NGram:
    """Looks up the longest suffix of max_ngram..min_ngram tokens in the sequence so far."""

    def __init__(self, *, max_drafts: int = 7, max_ngram: int = 3, min_ngram: int = 1) -> None:
        self.spec = DrafterSpec(name="ngram", max_drafts=max_drafts, point_mass=True, needs_host_tokens=True)
        self.max_ngram, self.min_ngram = max_ngram, min_ngram
        self._history: dict[int, Tokens] = {}

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:  # noqa: ARG002
        """Take the sequence's tokens; there is no KV that could be cached."""
        self._history[slot] = np.array(tokens, dtype=np.int64)

    def release(self, slot: int) -> None:
        """Forget the sequence's tokens."""
        self._history.pop(slot, None)

    def extend(self, commit: Commit) -> None:
        """Write committed tokens at their positions; rows already known are written again, to the same values."""
        bounds, positions = commit.cu_rows.tolist(), commit.positions.numpy(force=True)
        tokens = commit.tokens.numpy(force=True)
        for b, slot in enumerate(commit.slots.tolist()):
            rows = slice(bounds[b], bounds[b + 1])
            if bounds[b] < bounds[b + 1]:
                self._write(slot, positions[rows], tokens[rows])

    def propose(self, ask: DraftAsk) -> Draft:
        """Propose the continuation of the latest match, with the matches' agreement as evidence."""
        width = self.spec.max_drafts
        positions, anchors = ask.positions.numpy(force=True), ask.anchors.numpy(force=True)
        found = []
        for b, (slot, most) in enumerate(zip(ask.slots.tolist(), ask.lengths.tolist(), strict=True)):
            self._write(slot, positions[b : b + 1], anchors[b : b + 1])
            found.append(self._lookup(self._history[slot][: positions[b] + 1], min(width, most)))
        return point_masses(ask, width, found)

    def _write(self, slot: int, positions: Tokens, tokens: Tokens) -> None:
        history = self._history[slot]
        needed = int(positions[-1]) + 1
        if needed > len(history):
            grown = np.zeros(max(needed, 2 * len(history)), dtype=np.int64)
            grown[: len(history)] = history
            self._history[slot] = history = grown
        history[positions] = tokens

    def _lookup(self, history: Tokens, limit: int) -> tuple[Tokens, NDArray[np.float32]]:
        """Return the proposed tokens and the log-odds that each is right given those before it."""
        ends = np.flatnonzero(history[:-1] == history[-1])
        for length in range(2, self.max_ngram + 1):
            reach = ends[ends >= length - 1]
            longer = reach[history[reach - length + 1] == history[-length]] if len(history) > length else ends[:0]
            if not len(longer):
                # Fewer tokens matched than the shortest n-gram that may be trusted.
                ends = ends if length > self.min_ngram else ends[:0]
                break
            ends = longer
        if not len(ends) or limit < 1:
            return history[:0], np.zeros(0, dtype=np.float32)
        proposal = history[ends[-1] + 1 : ends[-1] + 1 + limit]
        return proposal, _agreement(history, ends, proposal)


def _agreement(history: Tokens, ends: Tokens, proposal: Tokens) -> NDArray[np.float32]:
    """Log-odds by Laplace's rule: of the matches that agree so far, how many also have the next token."""
    places = np.minimum(ends[:, None] + 1 + np.arange(len(proposal)), len(history) - 1)
    agree = np.cumprod(history[places] == proposal, axis=1)
    after = agree.sum(0)
    before = np.concatenate(([len(ends)], after[:-1]))
    return np.log((after + 1.0) / (before - after + 1.0)).astype(np.float32)
