"""Keep to a plan for a little while: where steps are short, thinking in each of them would cost what it gains."""

import numpy as np
from msgspec import Struct

from core.planning import I32, BoolArray, StepView

# A batch that has changed by more than a share of one in so many is thought over.
CHANGE = 4
# Context of a slot in which nobody was.
NOBODY = np.iinfo(np.int32).max


class Again(Struct, frozen=True):
    """The plan for one more step: whom to draft for and to follow, and the slots [n] that changed hands since."""

    draft_len: I32
    follow: BoolArray
    new_slots: I32


class StandingPlan:
    """Who is followed, for `num_steps` steps with the one it was made in, while much the same sequences decode.

    follow        bool [B]; of the sequences in `view`
    some_draft    a few newcomers are followed, too; of many, and among few, each is a reason to think
    """

    def __init__(self, view: StepView, follow: BoolArray, some_draft: bool, num_steps: int) -> None:
        self._end, self._some_draft, self._num_planned = view.step + num_steps, some_draft, len(view.slots)
        self._last_step = view.step
        self._longest_step = view.survival_lag.shape[1] + 1
        num_slots = int(view.slots.max()) + 1
        self._context = np.full(num_slots, NOBODY, dtype=np.int32)
        self._follow = np.zeros(num_slots, dtype=np.bool_)
        self._context[view.slots], self._follow[view.slots] = view.context_len, follow

    def steps_left(self, step: int) -> int:
        """Return for how many steps it stands from `step` on, that one included."""
        return self._end - step

    def again(self, view: StepView) -> Again | None:
        """Return the plan for one more step, or None if it must be thought over."""
        slots, size = view.slots, len(view.slots)
        if view.step >= self._end or abs(size - self._num_planned) * CHANGE > self._num_planned:
            return None
        if int(slots.max()) >= len(self._context):
            return None
        step = view.context_len - self._context[slots]
        # Past its prompt a sequence grows by its drafts and one, and by one where nobody was asked.
        longest_step = max(self._longest_step, view.step - self._last_step)
        is_new = (step <= 0) | (view.samples & (step > longest_step))
        new_slots = slots[is_new]
        follow = self._follow[slots]
        if len(new_slots):
            if len(new_slots) * CHANGE > size:
                return None
            follow[is_new] = self._follow[new_slots] = self._some_draft
        self._context[slots] = view.context_len
        self._last_step = view.step
        return Again(np.where(follow, view.gamma_max, np.int32(0)), follow, new_slots)
