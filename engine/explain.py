"""The last steps, kept as they were decided, and told in numbers when somebody asks."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from core.planning import EarlyStop, FixedLength, Rule, StepOutcome, Threshold, TopK
from core.step_record import StepRecord
from engine.plan import GroupPlan

# Steps that are kept: some seconds of a busy engine. Keeping one costs nothing, telling it some microseconds.
KEPT_STEPS = 32


@dataclass(slots=True)
class RecentSteps:
    """The newest steps of all groups; mutated by the engine's step only."""

    _kept: deque[tuple[GroupPlan, StepOutcome]] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))

    def add(self, part: GroupPlan, outcome: StepOutcome) -> None:
        """Keep a group's part of a step."""
        self._kept.append((part, outcome))

    @property
    def last_plan(self) -> GroupPlan | None:
        """What was planned last, of the last group if there are several; None before the first step."""
        return self._kept[-1][0] if self._kept else None

    def records(self) -> list[StepRecord]:
        """Return what is kept, oldest first.

        Plain decoding has nothing to tell and is left out, as are most steps that an older plan stood for.
        """
        return [describe(part, outcome) for part, outcome in self._kept if part.view is not None]

    def newest(self) -> StepRecord | None:
        """Return what was kept last, of whichever step (`records`); None if nothing was, or plain decoding."""
        if not self._kept or self._kept[-1][0].view is None:
            return None
        return describe(*self._kept[-1])


def describe(part: GroupPlan, outcome: StepOutcome) -> StepRecord:
    """Return one group's step in numbers; `part` has a view."""
    view, plan = part.view, part.plan
    assert view is not None
    shown = view.survival_lag[~np.isnan(view.survival_lag[:, :1]).any(1)]
    accepted = int(outcome.accepted.sum())
    return StepRecord(
        step=outcome.step,
        drafter=part.group.key[0],
        policy=part.group.key[1],
        sequences=len(view.slots),
        sampling=int(view.samples.sum()),
        stale=int((view.stale_rows > 0).sum()),
        context_len=float(view.context_len.mean()),
        survival=float(np.nansum(shown, axis=1).mean()) if len(shown) else None,
        extra_rows=view.extra_rows,
        kv_free=view.kv_free,
        queue_depth=view.queue_depth,
        oldest_wait_s=view.oldest_wait_s,
        rule=name_rule(plan.rule),
        planned=int(plan.draft_len.sum()),
        followed=int(plan.follow.sum()),
        probed=0 if plan.floor is None else int((plan.floor > 0).sum()),
        predicted_step_s=plan.predicted_step_s,
        predicted_tokens=plan.predicted_tokens,
        drafted=int(outcome.drafted.sum()),
        verified=int(outcome.verified.sum()),
        accepted=accepted,
        tokens=accepted + len(outcome.slots),
        rows=outcome.rows,
        step_s=outcome.step_s,
    )


def name_rule(rule: Rule) -> str:
    """Return a rule in few words."""
    match rule:
        case FixedLength(length=length):
            return f"first {length}"
        case Threshold(value=value, cumulative=cumulative):
            return f"{'survival' if cumulative else 'acceptance'} >= {value:g}"
        case TopK(budget=budget):
            return f"best {budget}"
        case EarlyStop(step_s=step_s):
            return f"while rates rise, at most {len(step_s) - 1}"
