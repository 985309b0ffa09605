"""Goodput from acceptance history: for drafters that cannot tell which of their drafts are good.

It is load_adaptive with a record of what was accepted in place of what the drafter says of its drafts (as TurboSpec
does, arXiv 2406.14066). A draft's chance is known before it is made, so only what is worth verifying is drafted.
"""

import numpy as np
from msgspec.structs import replace

from core.types import F32, Plan, StepOutcome, StepView, TopK
from policies.base import draft_nothing
from policies.history import AcceptanceHistory
from policies.load_adaptive import LoadAdaptive


class Goodput:
    """Draft for each sequence as many tokens as its own record and that of all others say will pay.

    half_life    rounds after which what a sequence has shown counts half
    The others are those of LoadAdaptive.
    """

    name = "goodput"

    def __init__(
        self, *, half_life: float = 14.0, hysteresis: float = 0.02, probe_after: int = 32, horizon: int = 32
    ) -> None:
        self._planner = LoadAdaptive(hysteresis=hysteresis, probe_after=probe_after, horizon=horizon)
        self._half_life = half_life
        self._history = AcceptanceHistory(0, half_life)
        # The least survival that is worth a row, and the budget that it was made for.
        self._bar: tuple[TopK | None, float] = None, 0.0

    def plan(self, view: StepView) -> Plan:
        """Draft each sequence's best length; it is verified but for what would exceed the budget."""
        width = view.survival_lag.shape[1]
        if not len(view.slots) or not width:
            return draft_nothing(view)
        if width != self._history.width:
            self._history = AcceptanceHistory(width, self._half_life)
        known = self._history.meet(view)
        plan = self._planner.plan(replace(view, survival_lag=known))
        if not isinstance(plan.rule, TopK) or not plan.draft_len.any():
            return plan
        survival = np.where(known == known, known, self._history.prior)
        lengths = (survival >= self._bar_of(plan, survival)).sum(1, dtype=np.int32)
        return replace(plan, draft_len=np.minimum(plan.draft_len, lengths))

    def observe(self, outcome: StepOutcome) -> None:
        """Learn what was accepted, and what steps take."""
        self._history.count(outcome)
        self._planner.observe(outcome)

    def _bar_of(self, plan: Plan, survival: F32) -> float:
        """Return the survival that the budget's last draft has, as of when the budget was set."""
        assert isinstance(plan.rule, TopK)
        if self._bar[0] is not plan.rule:
            drafts = np.where(np.arange(survival.shape[1]) < plan.draft_len[:, None], survival, 0.0).ravel()
            budget = min(plan.rule.budget, len(drafts))
            bar = np.partition(drafts, -budget)[-budget] if budget else np.inf
            self._bar = plan.rule, max(float(bar), float(np.finfo(np.float32).tiny))
        return self._bar[1]
