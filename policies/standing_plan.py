"""Keep to a plan for a little while: where steps are short, thinking in each of them would cost what it gains."""

import numpy as np

from core.types import I32, BoolArray, Plan, StepView


class StandingPlan:
    """A plan that holds for `lasts_s` predicted seconds, while the same sequences decode and nothing else happens.

    predicted_s  what a step of it was predicted to take
    """

    def __init__(self, view: StepView, plan: Plan, predicted_s: float, lasts_s: float) -> None:
        self.plan, self.predicted_s, self._left_s = plan, predicted_s, lasts_s - predicted_s
        self._slots, self._context, self._extra_rows = view.slots, view.context_len, view.extra_rows
        self._longest_step = view.survival_lag.shape[1] + 1
        # Nobody is in prefill or being caught up: who is followed drafts, and who drafts is followed.
        self._is_steady = bool(view.samples.all() and ((plan.draft_len > 0) == plan.follow).all())

    def again(self, view: StepView) -> Plan | None:
        """Return the plan for one more step, or None if it must be thought over."""
        if self._left_s < 0.5 * self.predicted_s or not self._is_steady or view.extra_rows != self._extra_rows:
            return None
        if not np.array_equal(view.slots, self._slots) or not self._goes_on(view.context_len, view.samples):
            return None
        draft_len = np.where(self.plan.follow, view.gamma_max, np.int32(0))
        if ((draft_len > 0) != self.plan.follow).any():
            return None
        self._context, self._left_s = view.context_len, self._left_s - self.predicted_s
        return Plan(draft_len, self.plan.rule, self.plan.follow)

    def _goes_on(self, context: I32, samples: BoolArray) -> bool:
        """Tell whether these can be the same sequences, each one step further."""
        step = context - self._context
        return bool((samples & (step > 0) & (step <= self._longest_step)).all())
