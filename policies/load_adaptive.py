"""Draft as much as pays at the present load, down to nothing: the default policy (paper section 5.2).

Every step is planned to give the most expected tokens per second. What a draft is expected to give comes from the
survivals of earlier steps, corrected by what was accepted; what a step costs comes from the cost table. Who drafts is
decided by averages, slowly; how many drafts are verified by the newest survivals, in every step; which of them by the
live ones, in the engine (`TopK`), which alone sees them.
"""

from collections import deque

import numpy as np
import structlog

from core.cost import CostTable, StepPrices
from core.types import BoolArray, FixedLength, Plan, StepOutcome, StepView, TopK
from policies.acceptance import AcceptanceRecord
from policies.base import draft_all, draft_nothing
from policies.probes import Probes
from policies.search import F64, choose_budget, choose_drafting
from policies.slot_memory import PATIENCE, Records, SlotMemory, decide, room, start_probe, take_in, trust
from policies.standing_plan import StandingPlan

log = structlog.get_logger()

# Weight of the newest step in the average of predicted over actual seconds.
PREDICTION_PACE = 0.05
# Outcomes kept for the next plan; a plan stands for fewer steps.
MOST_FINISHED = 64
# Tokens of context over which prices are taken to be the same.
CONTEXT_STEP = 64
# Steps between two reviews of who drafts, and most that a plan stands for: one takes 0.1 to 0.3 ms to make. Between
# reviews a newcomer is treated as the last one would have.
REVIEW = 4
IDLE_REVIEW = 16


class LoadAdaptive:
    """Plan for the greatest expected tokens per second; where no plan beats plain decoding, do not speculate at all.

    hysteresis   share of its plain decoding time that a sequence must gain in order to start drafting; half of it
                 keeps it drafting
    probe_after  steps without drafting after which a sequence drafts once to see, then twice as many, and so on
    horizon      steps over which catching a drafter up must pay
    """

    name = "load_adaptive"

    def __init__(self, *, hysteresis: float = 0.02, probe_after: int = 32, horizon: int = 32) -> None:
        self._hysteresis, self._probe_after, self._horizon = hysteresis, probe_after, horizon
        self._record = AcceptanceRecord(0)
        self._memory = SlotMemory(0, probe_after)
        self._finished: deque[StepOutcome] = deque(maxlen=MOST_FINISHED)
        self._catch_up_row_s = self._predicted_s = 0.0
        self._prediction = 1.0
        self._has_warned = False
        self._probes = Probes()
        self._standing: StandingPlan | None = None
        # When the last plan was made, and the last review: of how many sequences, and whether any was worth it.
        self._planned_step = self._reviewed_step = self._num_reviewed = 0
        self._some_draft = False
        self._pause = REVIEW
        self._priced: tuple[CostTable, int, StepPrices] | None = None

    @property
    def prediction_error(self) -> float:
        """How much longer steps were predicted than they took, as a share of what they took; an average."""
        return self._prediction - 1.0

    def plan(self, view: StepView) -> Plan:
        """Choose who drafts and how many drafts are verified; a few are verified in full, to learn from."""
        return self._probes.add(self._plan(view))

    def _plan(self, view: StepView) -> Plan:
        width = view.survival_lag.shape[1]
        if not len(view.slots) or not width:
            return draft_nothing(view)
        if view.cost is None:
            return self._plan_blindly(view, width)
        if width != self._memory.width:
            self._record, self._memory = AcceptanceRecord(width), SlotMemory(width, self._probe_after)
        again = self._standing.again(view) if self._standing else None
        if self._standing and again:
            self._predicted_s = self._standing.predicted_s
            return again
        prices = self._prices_at(view.cost, int(view.context_len.sum()) // len(view.slots))
        num_steps, self._planned_step = view.step - self._planned_step, view.step
        records = self._memory.meet(view, self._record.prior, num_steps)
        is_time = view.step >= self._reviewed_step + self._pause
        if is_time:
            self._learn(view, records)
        departure = take_in(records, view, self._record.scale, min(max(num_steps, 1), REVIEW))
        if self._has_changed(records) or is_time:
            self._choose(view, records, prices)
        drafts = records["is_on"] & (view.gamma_max > 0)
        records["was_asked"] = drafts
        self._memory.keep(view.slots, records)
        plan = self._admit(view, records, prices, departure, drafts)
        # A probe is for one draft.
        is_settled = not records["is_probing"].any()
        self._standing = StandingPlan(view, plan, self._predicted_s, self._pause) if is_settled else None
        return plan

    def observe(self, outcome: StepOutcome) -> None:
        """Learn what was accepted and how long the step took."""
        self._finished.append(outcome)
        if self._predicted_s:
            predicted_s = self._predicted_s + outcome.catch_up_rows * self._catch_up_row_s
            self._prediction += PREDICTION_PACE * (predicted_s / outcome.step_s - self._prediction)
            self._predicted_s = 0.0

    def _plan_blindly(self, view: StepView, width: int) -> Plan:
        self._finished.clear()
        if not self._has_warned:
            log.warning("cost_table_missing", policy=self.name)
            self._has_warned = True
        return draft_all(view, FixedLength(width))

    def _prices_at(self, cost: CostTable, context: int) -> StepPrices:
        context = (context // CONTEXT_STEP) * CONTEXT_STEP + CONTEXT_STEP // 2
        if self._priced is None or self._priced[0] is not cost or self._priced[1] != context:
            self._priced = (cost, context, cost.at(context))
        return self._priced[2]

    def _learn(self, view: StepView, records: Records) -> None:
        """Compare what finished steps accepted with the survivals they were admitted by.

        The view shows the survivals of the step before, which are those of the newest outcome.
        """
        finished = list(self._finished)
        self._finished.clear()
        if not finished:
            return
        self._record.count(finished)
        if not finished[-1].verified.any():
            return
        newest = finished[-1]
        place = np.full(int(max(view.slots.max(), newest.slots.max())) + 1, -1)
        place[view.slots] = np.arange(len(view.slots))
        index = place[newest.slots]
        judged = (index >= 0) & (newest.verified > 0)
        judged[judged] = records["was_asked"][index[judged]]
        index = index[judged]
        shown = np.nan_to_num(view.survival_lag[index])
        expected, accepted = self._record.compare(shown, newest.verified[judged], newest.accepted[judged])
        trust(records, expected, accepted, index)

    def _has_changed(self, records: Records) -> bool:
        """Tell whether to decide anew who drafts before it is time; if not, newcomers draft as others do.

        Where nobody drafts a newcomer is reason enough: once its prompt went by unfollowed, drafting has its price.
        """
        records["is_on"] |= records["is_new"] & self._some_draft
        early = records["is_new"] & ~self._some_draft
        # A probe has shown what it can.
        early |= records["is_on"] & (records["doubt"] >= PATIENCE)
        change = abs(len(records) - self._num_reviewed)
        return 8 * change > self._num_reviewed or bool(early.any())

    def _choose(self, view: StepView, records: Records, prices: StepPrices) -> None:
        """Turn sequences on and off. Those in prefill count as if they sampled already: they soon will."""
        width = view.survival_lag.shape[1]
        rooms = room(records, view, width)
        is_open = rooms > 0
        num_sequences = len(view.slots) + view.extra_sequences
        base_s = prices.plain_s(num_sequences)
        share_s = base_s / num_sequences
        catch_up_s = view.stale_rows.astype(np.float64) * prices.catch_up_row_s
        is_on = records["is_on"]
        charge_s = share_s * self._hysteresis * np.where(is_on, 0.5, 1.0) + catch_up_s / self._horizon
        is_worth, gain = np.zeros(len(rooms), dtype=np.bool_), np.zeros(len(rooms))
        if is_open.any():
            places = np.arange(width) < rooms[is_open, None]
            survival = np.where(places, records["survival"][is_open], 0.0)
            is_worth[is_open], gain[is_open] = choose_drafting(
                prices, num_sequences, base_s, survival, charge_s[is_open]
            )
        self._num_reviewed, self._some_draft = len(rooms), bool(is_worth.any())
        # Where nobody is near to drafting there is little to review.
        self._pause = REVIEW if self._some_draft or is_on.any() else IDLE_REVIEW
        # A group that had nothing to plan for a while has not seen these steps, nor has a newcomer.
        num_steps = np.where(records["is_new"], 1, min(view.step - self._reviewed_step, MOST_FINISHED)) * is_open
        self._reviewed_step = view.step
        decide(records, is_worth, gain * num_steps, num_steps)
        self._probe(records, prices, is_open & view.samples, catch_up_s, share_s)

    def _probe(
        self, records: Records, prices: StepPrices, may_probe: BoolArray, catch_up_s: F64, share_s: float
    ) -> None:
        """Let sequences draft once that have not for long, if that costs no more than the hysteresis of that time."""
        waited = records["steps_off"]
        is_due = may_probe & (waited >= records["wait"])
        if is_due.any():
            num_on = int(records["is_on"].sum())
            draft_s = np.diff(prices.speculation_s([num_on, num_on + 1]))
            start_probe(records, is_due & (catch_up_s + draft_s <= self._hysteresis * share_s * waited))

    def _admit(self, view: StepView, records: Records, prices: StepPrices, departure: F64, drafts: BoolArray) -> Plan:
        """Return the plan for those who draft, with the budget that the newest survivals ask for."""
        num_sequences = int(view.samples.sum()) + view.extra_sequences
        base_s = prices.plain_s(num_sequences) + prices.prefill_row_s * (view.extra_rows - view.extra_sequences)
        self._catch_up_row_s, self._predicted_s = prices.catch_up_row_s, base_s
        num_drafting = int(drafts.sum())
        draft_len, budget = np.where(drafts, view.gamma_max, np.int32(0)), 0
        if num_drafting:
            # The newest survivals of many tell how those of the next drafts will spread; of one they tell too little.
            expected = records["survival"][drafts] + (1.0 - 1.0 / num_drafting) * departure[drafts]
            expected[np.arange(expected.shape[1]) >= draft_len[drafts, None]] = 0.0
            budget, self._predicted_s = choose_budget(prices, num_sequences, base_s, expected)
        return Plan(draft_len, TopK(budget), records["is_on"], predicted_step_s=self._predicted_s)
