"""Deadlines first, then tokens per second: load_adaptive with floors and weights (AdaServe's phases, 2501.12162).

A request's deadline and the tokens it may still write say how fast it must go; the least number of drafts that is
expected to keep that pace is its floor. What is left of the budget goes to the drafts of greatest weighted survival.
"""

import numpy as np
from msgspec.structs import replace

from core.planning import I32, Plan, StepOutcome, StepView, TopK
from policies.load_adaptive import LoadAdaptive
from policies.prices import PriceList, Step, price
from policies.search import F64

# Steps for which floors and weights hold; deadlines are hundreds of steps away.
HOLD = 4
# What priorities weigh at the ends of their scale.
LEAST_WEIGHT, MOST_WEIGHT = 1 / 16, 16.0


class Slo:
    """Keep deadlines where drafts can, prefer greater priorities, and yield to the queue when it has waited long.

    priority_weight  how much more a draft counts for each step of priority; past half of what a request can do in
                     time it counts up to twice as much again
    patience_s       once the oldest waiting request has waited so long, deadlines get no drafts beyond the number
                     that is best for tokens per second
    The others are those of LoadAdaptive.
    """

    name = "slo"

    def __init__(
        self,
        *,
        priority_weight: float = 2.0,
        patience_s: float = 2.0,
        hysteresis: float = 0.02,
        probe_after: int = 32,
        horizon: int = 32,
    ) -> None:
        self._planner = LoadAdaptive(hysteresis=hysteresis, probe_after=probe_after, horizon=horizon)
        self._prices, self._priority_weight, self._patience_s = PriceList(), priority_weight, patience_s
        # By slot, as of the last time they were thought over; and the most drafts that deadlines leave time for.
        self._floor, self._weight = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        self._most = self._next_step = 0

    def plan(self, view: StepView) -> Plan:
        """Take the best plan for tokens per second, and bend it to deadlines and priorities."""
        plan = self._planner.plan(view)
        if view.cost is None or not isinstance(plan.rule, TopK) or not concerns(view):
            self._next_step = 0
            return plan
        if view.step >= self._next_step or int(view.slots.max()) >= len(self._floor):
            self._next_step = view.step + HOLD
            self._think(view, plan, price(self._prices.at(view.cost, view), view, plan.follow))
        wanted = self._floor[view.slots]
        weight, budget = self._weight[view.slots], min(plan.rule.budget, self._most)
        if not wanted.any():
            return replace(plan, rule=TopK(budget), weight=weight, stands=1)
        floor = np.minimum(wanted if plan.floor is None else np.maximum(wanted, plan.floor), view.gamma_max)
        # What was predicted is the step of the best plan for tokens per second.
        return replace(
            plan,
            draft_len=np.where(floor > 0, view.gamma_max, plan.draft_len),
            rule=TopK(max(int(floor.sum()), budget)),
            follow=plan.follow | (wanted > 0),
            floor=floor,
            weight=weight,
            predicted_step_s=None,
            predicted_tokens=None,
            stands=1,
        )

    def observe(self, outcome: StepOutcome) -> None:
        """Learn what drafts are worth."""
        self._planner.observe(outcome)

    def _think(self, view: StepView, plan: Plan, step: Step) -> None:
        """Set floors and weights, and the most drafts that leave every deadline its time."""
        width = view.survival_lag.shape[1]
        # One whose drafter must catch up will have all its room when it has.
        room = np.where(view.stale_rows > 0, np.int32(width), view.gamma_max)
        survival = np.where(np.arange(width) < room[:, None], self._planner.expected(view), 0.0)
        tokens = np.cumsum(survival, axis=1)  # [B, G]; of l drafts, beside the step's own token
        step_s = plan.predicted_step_s or step.base_s
        pace = paces(view)
        needed = np.clip(pace * step_s - 1.0, 0.0, tokens[:, -1])
        floor = np.minimum((tokens < needed[:, None]).sum(1) + (needed > 0), room).astype(np.int32)
        urgency = np.clip(pace * step_s / (1.0 + tokens[:, -1]), 0.0, 1.0)
        weight = self._priority_weight ** (view.priority - 1.0) * (1.0 + urgency)
        weight = np.clip(weight, LEAST_WEIGHT, MOST_WEIGHT)
        budget = plan.rule.budget if isinstance(plan.rule, TopK) else 0
        floor = fitted(floor, weight, self._room_for_floors(view, budget, int(floor.sum())))
        num_slots = max(len(self._floor), int(view.slots.max()) + 1)
        self._floor, self._weight = np.zeros(num_slots, dtype=np.int32), np.ones(num_slots, dtype=np.float32)
        self._floor[view.slots], self._weight[view.slots] = floor, weight
        self._most = most_in_time(step, plan, pace, tokens, floor)

    def _room_for_floors(self, view: StepView, budget: int, wanted: int) -> int:
        """Return how many drafts deadlines may claim: all that they want, or the budget where others wait too long."""
        waited = view.oldest_wait_s / self._patience_s if view.queue_depth else 0.0
        return budget + int((1.0 - min(1.0, waited)) * max(0, wanted - budget))


def concerns(view: StepView) -> bool:
    """Tell whether anybody has a deadline, or is more urgent than others."""
    return bool(np.isfinite(view.deadline_in_s).any() or (view.priority != view.priority[0]).any())


def paces(view: StepView) -> F64:
    """Return the tokens per second [B] that each deadline asks for; 0 without one, and past it, where all is lost."""
    left = view.deadline_in_s.astype(np.float64)
    return np.where((left > 0) & view.samples, view.tokens_left / np.maximum(left, 1e-9), 0.0)


def fitted(floor: I32, weight: F64, most: int) -> I32:
    """Return the floors, scaled by weight where they are more than `most` drafts in all."""
    claims = floor * weight
    if int(floor.sum()) <= most:
        return floor
    return np.minimum(floor, (claims * (most / claims.sum())).astype(np.int32))


def most_in_time(step: Step, plan: Plan, pace: F64, tokens: F64, floor: I32) -> int:
    """Return how many drafts a step may verify so that no deadline that can be kept is missed for its length.

    tokens  [B, G] expected of l drafts; a deadline allows a step of (1 + tokens[floor]) / pace seconds
    """
    most = tokens.size
    gained = np.where(floor > 0, tokens[np.arange(len(floor)), np.maximum(floor, 1) - 1], 0.0)
    allowed_s = np.where(pace > 0, (1.0 + gained) / np.maximum(pace, 1e-9), np.inf)
    # Who is late even in a step without drafts cannot be helped by a shorter one.
    allowed_s = allowed_s[allowed_s >= step.base_s]
    num_drafting = int(np.count_nonzero((plan.draft_len > 0) | (floor > 0)))
    step_s = step.base_s + float(step.prices.speculation_curve(num_drafting)[-1]) + step.drafts_s(most)
    return max(0, int(np.searchsorted(step_s, allowed_s.min(initial=np.inf), side="right")) - 1)
