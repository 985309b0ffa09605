"""Admit drafts one by one while expected tokens per second rise: Algorithm 1 of the DSpark paper, literal or repaired.

Taken literally, on a staircase of costs it is a trap: where all sequences alone fill a padded shape, the first draft
already pays for the next one, the rate falls, and admission stops at no draft at all, step after step. Repaired, the
stop reads the costs on a straight line between shapes, and goes on to fill the shape where it came to rest: rows that
are free. Both look at drafts in the order in which they are admitted and never back, so both are exact.
"""

import numpy as np
from msgspec.structs import replace

from core.planning import EarlyStop, FixedLength, Plan, StepOutcome, StepView
from policies.base import draft_all, draft_nothing
from policies.load_adaptive import LoadAdaptive
from policies.prices import PriceList, price


class Greedy:
    """How much is verified is found by early stop on live survivals; who drafts at all is decided by LoadAdaptive.

    literal      the paper's words: everybody drafts, stairs are read as they are, and drafting costs nothing
    The others are those of LoadAdaptive; they do nothing if `literal`.
    """

    name = "greedy"

    def __init__(
        self, *, literal: bool = False, hysteresis: float = 0.02, probe_after: int = 32, horizon: int = 32
    ) -> None:
        self._planner = LoadAdaptive(hysteresis=hysteresis, probe_after=probe_after, horizon=horizon)
        self._is_literal, self._prices = literal, PriceList()

    def plan(self, view: StepView) -> Plan:
        """Say who drafts, and what the step costs with every number of drafts."""
        width = view.survival_lag.shape[1]
        if not len(view.slots) or not width:
            return draft_nothing(view)
        if self._is_literal and view.cost is not None:
            plan = draft_all(view, FixedLength(width))
        else:
            plan = self._planner.plan(view)
        most = int(plan.draft_len.sum())
        if view.cost is None or not most:
            return plan
        step = price(self._prices.at(view.cost, view), view, plan.follow)
        if self._is_literal:
            rule = EarlyStop(step.base_s + step.drafts_s(most))
        else:
            rule = EarlyStop(step.smooth_s(int(np.count_nonzero(plan.draft_len)), most), step.tops(most))
        # How many drafts live survivals will admit, and so the step's seconds, nobody knows yet. No probes: their rows
        # would come on top of those admitted, past the top of a padded batch.
        return replace(plan, rule=rule, floor=None, predicted_step_s=None, predicted_tokens=None)

    def observe(self, outcome: StepOutcome) -> None:
        """Learn what drafts are worth."""
        self._planner.observe(outcome)
