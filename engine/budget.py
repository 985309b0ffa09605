"""How much verification a plan allowed, and what admission expected of the drafts that it let through."""

import numpy as np

from core.planning import EarlyStop, FixedLength, Plan, StepOutcome, TopK


def allowed_drafts(plan: Plan) -> int:
    """Return the most drafts that the target could have been sent under the plan, had drafters made all it asked for.

    A threshold allows everything that was asked for; floors are verified whatever the rule says.
    """
    asked = int(plan.draft_len.sum())
    floored = 0 if plan.floor is None else int(plan.floor.sum())
    match plan.rule:
        case FixedLength(length=length):
            longest = length if plan.floor is None else np.maximum(plan.floor, length)
            return int(np.minimum(plan.draft_len, longest).sum())
        case TopK(budget=budget):
            return min(asked, max(budget, floored))
        case EarlyStop(step_s=step_s):
            return min(asked, max(len(step_s) - 1, floored))
    return asked


def expected_accepts(outcome: StepOutcome) -> float:
    """Return how many of the verified drafts were expected to be accepted: the sum of their survivals."""
    places = np.arange(outcome.survival.shape[1])
    return float(outcome.survival[places < outcome.verified[:, None]].sum())
