"""Goodput from acceptance history: for drafters that cannot tell which of their drafts are good.

It is load_adaptive with a record of what was accepted in place of what the drafter says of its drafts (as TurboSpec
does, arXiv 2406.14066). A draft's chance is known before it is made, so only what is worth verifying is drafted.
"""

import numpy as np
from msgspec.structs import replace

from core.planning import F32, Plan, StepOutcome, StepView, TopK
from policies.base import draft_nothing
from policies.history import AcceptanceHistory
from policies.load_adaptive import LoadAdaptive

TINY = np.finfo(np.float32).tiny


class Goodput:
    """Draft for each sequence as many tokens as its own record and that of all others say will pay.

    half_life    rounds after which what a sequence has shown counts half
    The others are those of LoadAdaptive.
    """

    name = "goodput"

    def __init__(
        self, *, half_life: float = 14.0, hysteresis: float = 0.02, probe_after: int = 32, horizon: int = 32
    ) -> None:
        self._planner = LoadAdaptive(hysteresis=hysteresis, probe_after=probe_after, horizon=horizon, shown=self._shown)
        self._half_life = half_life
        self._history = AcceptanceHistory(0, half_life)
        # By slot, as of when the budget was last set; newcomers have the typical length.
        self._lengths, self._typical = np.zeros(0, dtype=np.int32), 0
        self._lengths_for: TopK | None = None

    def plan(self, view: StepView) -> Plan:
        """Draft each sequence's best length; it is verified but for what would exceed the budget."""
        width = view.survival_lag.shape[1]
        if not len(view.slots) or not width:
            return draft_nothing(view)
        if width != self._history.width:
            self._history, self._lengths_for = AcceptanceHistory(width, self._half_life), None
        new_slots = self._history.meet(view)
        plan = self._planner.plan(view)
        if not isinstance(plan.rule, TopK) or not plan.draft_len.any():
            return plan
        if self._lengths_for is not plan.rule or int(view.slots.max()) >= len(self._lengths):
            self._set_lengths(view, plan, plan.rule)
        else:
            self._lengths[new_slots] = self._typical
        lengths = self._lengths[view.slots]
        # What is verified to learn from it is drafted to its end.
        lengths = lengths if plan.floor is None else np.maximum(lengths, plan.floor)
        return replace(plan, draft_len=np.minimum(plan.draft_len, lengths))

    def observe(self, outcome: StepOutcome) -> None:
        """Learn what was accepted, and what steps take."""
        self._history.count(outcome)
        self._planner.observe(outcome)

    def _shown(self, view: StepView) -> F32:
        return self._history.survival(view.slots)

    def _set_lengths(self, view: StepView, plan: Plan, rule: TopK) -> None:
        """Give each sequence the drafts that are as likely to survive as the last one that the budget has room for."""
        known, prior = self._history.survival(view.slots), self._history.prior
        survival = np.where(np.isnan(known), prior, known)
        drafts = np.where(np.arange(len(prior)) < plan.draft_len[:, None], survival, np.float32(0)).ravel()
        budget = min(rule.budget, len(drafts))
        bar = max(np.partition(drafts, -budget)[-budget], TINY) if budget else np.inf
        self._typical = int((prior >= bar).sum())
        self._lengths = np.full(max(len(self._lengths), int(view.slots.max()) + 1), self._typical, dtype=np.int32)
        self._lengths[view.slots] = (survival >= bar).sum(1)
        self._lengths_for = rule
