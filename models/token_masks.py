"""Masks of allowed tokens for many constrained answers at once, in llguidance's own threads. No torch."""

from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask_par, fill_next_token_bitmask_par_with_draft_tokens
from numpy.typing import NDArray

from core.errors import EngineError
from models.constraint import Constraint

U8 = NDArray[np.uint8]
# A constraint's own state, its first row, its drafts.
Row = tuple[LLMatcher, int, list[int]]
Asked = Sequence[tuple[Constraint, list[int]]]


class TokenMasks:
    """Owns the threads; one constraint may be asked once per call."""

    def __init__(self) -> None:
        self._executor = LLExecutor()

    def fill(self, asked: Asked) -> tuple[U8, dict[int, str]]:
        """Return the masks of each constraint's next token and of those after each of its drafts, and what failed.

        Rows are ragged, in order: len(drafts) + 1 for each. Bit v % 8 of byte v // 8 is set where token v is allowed.
        Rows behind a forbidden draft, or behind the end, have all bits set: nothing that comes of them is ever kept.
        So have those of a constraint that failed; it is named by its place in `asked`, with the reason.
        """
        counts = [len(drafts) + 1 for _, drafts in asked]
        starts = np.cumsum([0, *counts])
        words = max((-(-one.vocab_size // 32) for one, _ in asked), default=0)
        masks = np.full((int(starts[-1]), words), -1, dtype=np.int32)
        rows = [(one.matcher, int(start), drafts) for (one, drafts), start in zip(asked, starts)]
        try:
            self._fill(rows, masks)
        except Exception:  # noqa: BLE001 - one of them breaks the call for all: find out which
            failed = self._fill_one_by_one(rows, masks)
        else:
            failed = {}
        for place, (constraint, _) in enumerate(asked):
            start = int(starts[place])
            if place not in failed and (reason := _fault(constraint, masks[start])):
                failed[place] = reason
            if place in failed:
                masks[start : int(starts[place + 1])] = -1
        return masks.view(np.uint8), failed

    def _fill(self, rows: list[Row], masks: NDArray[np.int32]) -> None:
        # The library has one call for those with drafts and one for those without.
        if plain := [(matcher, start) for matcher, start, drafts in rows if not drafts]:
            fill_next_token_bitmask_par(self._executor, plain, masks)
        if drafted := [row for row in rows if row[2]]:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, masks)

    def _fill_one_by_one(self, rows: list[Row], masks: NDArray[np.int32]) -> dict[int, str]:
        failed = {}
        for place, row in enumerate(rows):
            try:
                self._fill([row], masks)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this answer and no other
                failed[place] = f"its mask could not be computed: {error!r}"
        return failed


def _fault(constraint: Constraint, mask: NDArray[np.int32]) -> str | None:
    """Return what is wrong with a constraint after its mask was computed, if anything is."""
    try:
        constraint.check()
    except EngineError as error:
        return str(error)
    return None if mask.any() else "it allows no token at all"
