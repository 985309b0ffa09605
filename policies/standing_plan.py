"""Keep to a plan for a little while: where steps are short, thinking in each of them would cost what it gains."""

import numpy as np

from core.types import I32, BoolArray, Plan, StepView


class StandingPlan:
    """A plan that holds for `num_steps`, its own included, while the same sequences decode and nothing else happens.

    predicted_s  what a step of it was predicted to take
    """

    def __init__(self, view: StepView, plan: Plan, predicted_s: float, num_steps: int) -> None:
        self.plan, self.predicted_s, self._steps_left = plan, predicted_s, num_steps - 1
        self._slots, self._context, self._extra_rows = view.slots, view.context_len, view.extra_rows
        self._longest_step = view.survival_lag.shape[1] + 1
        # Nobody is in prefill or being caught up: who is followed drafts, and who drafts is followed.
        self._is_steady = bool(view.samples.all() and ((plan.draft_len > 0) == plan.follow).all())

    def again(self, view: StepView) -> Plan | None:
        """Return the plan for one more step, or None if it must be thought over."""
        if not self._steps_left or not self._is_steady or view.extra_rows != self._extra_rows:
            return None
        if not np.array_equal(view.slots, self._slots) or not self._goes_on(view.context_len, view.samples):
            return None
        draft_len = np.where(self.plan.follow, view.gamma_max, np.int32(0))
        if ((draft_len > 0) != self.plan.follow).any():
            return None
        self._context, self._steps_left = view.context_len, self._steps_left - 1
        return Plan(draft_len, self.plan.rule, self.plan.follow, predicted_step_s=self.predicted_s)

    def _goes_on(self, context: I32, samples: BoolArray) -> bool:
        """Tell whether these can be the same sequences, each one step further."""
        step = context - self._context
        return bool((samples & (step > 0) & (step <= self._longest_step)).all())
