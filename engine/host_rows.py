"""The rows of a finished round as the host sees them, where the forward ran them on a GPU."""

from dataclasses import replace

import torch

from engine.bounded_rows import BoundedRows
from engine.device_round import Proposal
from engine.plan import StepPlan
from engine.rows import StepRows, append_catch_up, make_rows
from engine.scheduler import Batch


def host_rows(batch: Batch, plan: StepPlan, rows: StepRows | BoundedRows, proposal: Proposal) -> StepRows:
    """Return the rows of a round whose proposal is on the host; those of catch-up stand where the forward had them.

    Reads the sequences as they were before the step appended to them.
    """
    if isinstance(rows, StepRows):
        return rows
    tables = torch.empty(rows.verify.block_tables.shape[0], 0, dtype=torch.int64)
    own = make_rows(batch, proposal.draft, proposal.lengths, tables[: len(batch.sequences)])
    num_slots = 1 + max((each.sequence.slot for each in plan.catch_up), default=0)
    whole = append_catch_up(own, plan.catch_up, torch.empty(num_slots, 0, dtype=torch.int64))
    padding = rows.num_own - len(own.verify.tokens)
    return replace(whole, catch_up=tuple((each, first + padding * (first >= 0)) for each, first in whole.catch_up))
