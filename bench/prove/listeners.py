"""Policies of the certificate's own: they do what a policy may do, as cleverly against the law as it lets them.

Shipped policies stand beside them in the cells (bench/prove/cells.py).
"""

import numpy as np
from msgspec.structs import replace

from core.planning import EarlyStop, FixedLength, Plan, StepOutcome, StepView, TopK
from policies.base import draft_all


class RisingRate:
    """Algorithm 1 of the DSpark paper on a staircase of row prices, filled up to the top of a batch shape."""

    name = "early_stop"

    def plan(self, view: StepView) -> Plan:
        """Draft everywhere; a draft costs a tenth of a sequence's step, eight rows at a time."""
        size = max(1, len(view.slots))
        drafts = np.arange(view.survival_lag.size + 1)
        step_s = 1.0 + 0.1 * drafts / size
        tops = tuple(range(8, len(drafts), 8))
        return draft_all(view, EarlyStop(tuple(step_s.tolist()), tops))

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing."""


class Favouring:
    """A budget of one draft for two sequences, with floors and weights that follow the survivals of earlier steps."""

    name = "favouring"

    def plan(self, view: StepView) -> Plan:
        """Favour those whose last drafts looked doubtful, and give some of them a draft whatever happens."""
        seen = np.nan_to_num(view.survival_lag, nan=0.5)
        plan = draft_all(view, TopK(len(view.slots) // 2))
        floor = (seen[:, -1] < 0.2).astype(np.int32) * (view.slots % 2)
        return replace(plan, floor=floor, weight=1.5 - seen[:, 0])

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing."""


class Eavesdropper:
    """Remember what the evidence told about every token, and verify where that token is sure to be kept.

    Evidence is told by the token before it, so a high one says that that token was a good guess. If the same place of
    the same slot is ever drafted from the same noise again, the policy knows the draft before it decides: a sound
    engine never lets that happen, so whatever this one does leaves the law alone.
    """

    name = "eavesdropper"

    def __init__(self) -> None:
        self._was_good: dict[tuple[int, int], bool] = {}
        self._anchors: dict[int, int] = {}

    def plan(self, view: StepView) -> Plan:
        """Draft everywhere; verify one draft of those whose next token is known to be a good guess, of others none."""
        self._anchors = dict(zip(view.slots.tolist(), view.context_len.tolist(), strict=True))
        floor = np.array([self._was_good.get((s, a + 1), False) for s, a in self._anchors.items()], dtype=np.int32)
        return replace(draft_all(view, FixedLength(0)), floor=floor)

    def observe(self, outcome: StepOutcome) -> None:
        """Listen to the evidence of a finished step."""
        told = (outcome.evidence[:, 1:] > 0).tolist()
        for slot, drafted, row in zip(outcome.slots.tolist(), outcome.drafted.tolist(), told, strict=True):
            for place in range(drafted - 1):
                self._was_good[slot, self._anchors[slot] + 1 + place] = row[place]
