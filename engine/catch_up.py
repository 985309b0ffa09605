"""Which rows a drafter missed and gets now: the target runs them again, for their features alone.

A sequence that was not followed, or that began on cached blocks whose drafter part nobody has written, is stale. To
draft again, the rows from its watermark to its end run through the target once more, in chunks if there are many; no
target KV is stored. A drafter that needs no features gets the tokens and costs the target no rows; if it keeps KV, it
runs them itself, in chunks as well. One with a lookahead is stale after every prefix hit, by that many rows; these are
run whatever else the step has to do.
"""

from dataclasses import dataclass

import numpy as np

from core.planning import BoolArray
from engine.group import Places, PolicyGroup
from engine.scheduler import Batch
from engine.sequence import Sequence
from engine.speculator import Speculator


@dataclass(frozen=True, slots=True, eq=False)
class CatchUp:
    """Rows start..stop - 1 of the sequence at `place` in the batch; in_forward tells whether the target runs them."""

    place: int
    sequence: Sequence
    start: int
    stop: int
    in_forward: bool

    @property
    def num_rows(self) -> int:
        """Rows caught up with."""
        return self.stop - self.start

    @property
    def tokens(self) -> list[int]:
        """The rows' input tokens and the one after the last, which is known as well."""
        return self.sequence.tokens[self.start : self.stop + 1]


class CatchUpBudget:
    """Gives out the rows of one step, and sees to it that no block's drafter part is written by two at once."""

    def __init__(self, spare_rows: int, block_size: int) -> None:
        self.chosen: list[CatchUp] = []
        self._spare, self._block_size = spare_rows, block_size
        self._claimed: set[tuple[str, int]] = set()

    @property
    def num_rows(self) -> int:
        """Target rows given out so far."""
        return sum(each.num_rows for each in self.chosen if each.in_forward)

    def catch_up(self, batch: Batch, members: Places, follow: BoolArray, group: PolicyGroup) -> BoolArray:
        """Choose rows for the stale sequences that are to be followed; tells which will then be up to date."""
        done = np.zeros(len(members), dtype=np.bool_)
        for i, place in enumerate(members.tolist()):
            sequence = batch.sequences[place]
            if follow[i] and sequence.num_stale > 0 and sequence.extended >= 0:
                done[i] = self._choose(place, sequence, group)
        return done

    def _choose(self, place: int, sequence: Sequence, group: PolicyGroup) -> bool:
        speculator = group.speculator
        in_forward = bool(speculator.spec.feature_layers)
        start, stop = sequence.extended, sequence.num_computed
        runs_rows = in_forward or speculator.kv is not None
        if runs_rows and stop - start > speculator.spec.lookahead:
            stop = min(stop, start + max(self._spare, 0))
        if speculator.kv:
            stop = self._claim(sequence, start, stop, speculator)
        if stop > start:
            self.chosen.append(CatchUp(place, sequence, start, stop, in_forward))
            self._spare -= (stop - start) * runs_rows
        return stop == sequence.num_computed

    def _claim(self, sequence: Sequence, start: int, stop: int, speculator: Speculator) -> int:
        """Claim the blocks of rows start..stop - 1, up to the first that another has or had; returns where to stop.

        A chunk that is not the last ends with a block: no block that others may read is left half written. One that is
        written already stops the claim, for the watermark will pass over it; only the block of `start` does not: of
        that the last rows alone are told once more.
        """
        size, index = self._block_size, start // self._block_size
        if start < stop < sequence.num_computed:
            # At least one block, even where a step takes fewer rows: else nobody would ever catch up.
            stop = min(max(stop // size, index + 1) * size, sequence.num_computed)
        while index * size < stop:
            claim = (speculator.name, sequence.blocks[index])
            is_written = speculator.is_written(sequence.blocks[index])
            if claim in self._claimed or (is_written and index * size > start):
                return max(start, index * size)
            if not is_written:
                self._claimed.add(claim)
            index += 1
        return stop
