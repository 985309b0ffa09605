"""The two baselines: never speculate, and always verify the same number of drafts."""

import numpy as np

from core.planning import FixedLength, Plan, StepOutcome, StepView
from policies.base import FOR_GOOD, decode_plainly, draft_all


class Off:
    """Plain decoding. The baseline of every comparison and the fallback when something breaks."""

    name = "off"

    def plan(self, view: StepView) -> Plan:
        """Draft nothing and keep no drafter state."""
        return decode_plainly(len(view.slots), FOR_GOOD)

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing."""


class Fixed:
    """Draft and verify `length` tokens for every sequence, whatever the load."""

    name = "fixed"

    def __init__(self, length: int) -> None:
        self.length = length

    def plan(self, view: StepView) -> Plan:
        """Ask for `length` drafts where that many fit."""
        plan = draft_all(view, FixedLength(self.length))
        np.minimum(plan.draft_len, self.length, out=plan.draft_len)
        return plan

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing."""
