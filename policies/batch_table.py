"""Lengths by the size of the batch, as an operator has written them down: predictable, and nothing is learnt."""

import numpy as np

from core.batch_lengths import BatchLengths, check_batch_lengths
from core.planning import FixedLength, Plan, StepOutcome, StepView
from policies.base import draft_all, draft_nothing


class BatchTable:
    """Draft and verify what the table names for the number of sequences in the step, those of other groups too.

    lengths  rows of (first, last, drafts): the drafts in a step of first..last sequences. A batch between two rows,
             or beyond all of them, gets what the row before it says; 0 drafts nothing
    Raises ConfigError unless rows begin at 1, ascend and do not overlap. The rows are those of vLLM's
    num_speculative_tokens_per_batch_size.
    """

    name = "batch_table"

    def __init__(self, lengths: BatchLengths) -> None:
        check_batch_lengths(lengths, "lengths")
        self._first = np.array([first for first, _, _ in lengths])
        self._drafts = [drafts for _, _, drafts in lengths]

    def plan(self, view: StepView) -> Plan:
        """Look the batch up."""
        size = max(1, len(view.slots) + view.extra_sequences)
        length = self._drafts[int(np.searchsorted(self._first, size, side="right")) - 1]
        if not length:
            return draft_nothing(view)
        plan = draft_all(view, FixedLength(length))
        np.minimum(plan.draft_len, length, out=plan.draft_len)
        return plan

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing: the table is the operator's."""
