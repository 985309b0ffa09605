"""Draft as much as pays at the present load, down to nothing: the default policy (paper section 5.2).

Every step is planned to give the most expected tokens per second. What a draft is expected to give comes from the
survivals of earlier steps, corrected by what was accepted; what a step costs comes from the cost table. Who drafts is
decided by averages, slowly; how many drafts are verified by the newest survivals, in every step; which of them by the
live ones, in the engine (`TopK`), which alone sees them.
"""

from collections import deque
from collections.abc import Callable

import numpy as np
import structlog
from msgspec.structs import replace

from core.cost import StepPrices
from core.planning import F32, I32, BoolArray, FixedLength, Plan, StepOutcome, StepView, TopK
from policies.acceptance import AcceptanceRecord
from policies.base import NOTHING, draft_all, draft_nothing
from policies.pressure import MemoryPressure
from policies.prices import PriceList, Step, price
from policies.probes import Probes
from policies.search import F64, Budget, Ranking, choose_drafting
from policies.slot_memory import PATIENCE, Records, SlotMemory, decide, room, start_probe, take_in, trust
from policies.standing_plan import CHANGE, StandingPlan
from policies.trials import ENOUGH_DRAFTS, FEW_DRAFTS, Trials, end_trial, start_trial

log = structlog.get_logger()

# Weight of the newest step in the average of predicted over actual seconds.
PREDICTION_PACE = 0.05
# Outcomes kept for the next plan; a plan stands for fewer steps.
MOST_FINISHED = 64
# Steps between two reviews of who drafts, and most that a plan stands for: one takes 0.1 to 1 ms to make, the more the
# more sequences, whose steps are longer but of whom each matters less. It doubles until it is that, for at first much
# is learnt from each. Between reviews a newcomer is treated as the last one would have been.
REVIEW, SEQUENCES_PER_STEP = 4, 16
IDLE_REVIEW = 32


def confidence(view: StepView) -> F32:
    """Return what the drafter itself said of the drafts of earlier steps."""
    return view.survival_lag


def everybody(view: StepView) -> int:
    """Return the number of sequences in the step, those of other groups included."""
    return len(view.slots) + view.extra_sequences


class LoadAdaptive:
    """Plan for the greatest expected tokens per second; where no plan beats plain decoding, do not speculate at all.

    hysteresis   share of its plain decoding time that a sequence must gain in order to start drafting; half of it
                 keeps it drafting
    probe_after  steps without drafting after which a sequence drafts once to see, then twice as many, and so on
    horizon      steps over which catching a drafter up must pay
    shown        what sequences have shown of their drafts, [B, G] survivals, nan where nothing; asked with each review
    """

    name = "load_adaptive"

    def __init__(
        self,
        *,
        hysteresis: float = 0.02,
        probe_after: int = 32,
        horizon: int = 32,
        shown: Callable[[StepView], F32] = confidence,
    ) -> None:
        self._hysteresis, self._probe_after, self._horizon, self._shown = hysteresis, probe_after, horizon, shown
        self._record = AcceptanceRecord(0)
        self._memory = SlotMemory(0, probe_after)
        self._finished: deque[StepOutcome] = deque(maxlen=MOST_FINISHED)
        self._pressure, self._prices = MemoryPressure(), PriceList()
        self._catch_up_row_s = self._predicted_s = 0.0
        self._prediction = 1.0
        self._has_warned = False
        self._probes, self._trials = Probes(), Trials()
        # What stands until the next plan is made: who is followed, what their drafts are worth, how much is verified.
        self._standing: StandingPlan | None = None
        self._ranking = Ranking(np.zeros((0, 0)))
        self._budget, self._budget_for = (TopK(0), Budget(0, 0.0, 0.0)), (0, 0.0, -1)
        # When the last plan was made, and the last review: of how many sequences, and whether any was worth it.
        self._planned_step = self._reviewed_step = self._num_reviewed = 0
        self._some_draft = False
        self._pause = REVIEW

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
            self._record, self._memory, self._standing = (
                AcceptanceRecord(width),
                SlotMemory(width, self._probe_after),
                None,
            )
        if self._pressure.rests(view):
            return self._rest(view)
        prices = self._prices.at(view.cost, view)
        plan = self._go_on(view, prices) or self._think(view, prices)
        if self._standing is None or plan.draft_len.any():
            return plan
        return replace(plan, stands=self._standing.steps_left(view.step))

    def expected(self, view: StepView) -> F64:
        """Return the chances [B, G] that each draft of a sequence survives, as far as steps have shown."""
        return self._memory.expected(view.slots, self._record.prior)

    def _go_on(self, view: StepView, prices: StepPrices) -> Plan | None:
        """Return the plan that stands, with the budget of this step; None if it must be thought over."""
        again = self._standing.again(view) if self._standing else None
        if again is None:
            return None
        num_drafting, num_ranked = int(np.count_nonzero(again.draft_len)), self._ranking.num_drafting
        if abs(num_drafting - num_ranked) * CHANGE > num_ranked:
            return None
        if len(again.new_slots):
            if self._may_try(view, prices):
                return None
            self._memory.forget(again.new_slots)
        return self._admit(price(prices, view, again.follow), again.draft_len, again.follow, num_drafting)

    def _think(self, view: StepView, prices: StepPrices) -> Plan:
        """Take in what was shown since the last time, and choose anew."""
        if self._shown is not confidence:
            view = replace(view, survival_lag=self._shown(view))
        num_steps, self._planned_step = view.step - self._planned_step, view.step
        records = self._memory.meet(view, self._record.prior, num_steps)
        is_time = view.step >= self._reviewed_step + self._pause
        if is_time:
            self._learn(view, records)
        departure = take_in(records, view, self._record.scale, min(max(num_steps, 1), REVIEW))
        if self._has_changed(records) or is_time or (records["is_new"].any() and self._may_try(view, prices)):
            self._choose(view, records, prices)
        drafts = records["is_on"] & (view.gamma_max > 0)
        records["was_asked"] = drafts
        self._memory.keep(view.slots, records)
        draft_len = np.where(drafts, view.gamma_max, np.int32(0))
        self._rank(records, departure, draft_len)
        follow = records["is_on"].copy()
        # A probe is for one draft, or for a few where there are too many sequences for one of them to matter.
        is_settled = np.count_nonzero(records["is_probing"]) * CHANGE <= len(records)
        self._standing = StandingPlan(view, follow, self._some_draft, self._pause) if is_settled else None
        plan = self._admit(price(prices, view, follow), draft_len, follow, self._ranking.num_drafting)
        is_tried = records["is_tried"] & drafts
        return replace(plan, floor=np.where(is_tried, draft_len, np.int32(0))) if is_tried.any() else plan

    def _rest(self, view: StepView) -> Plan:
        """Draft nothing for want of memory, and keep drafters up: they take none of their own."""
        self._standing, self._predicted_s = None, 0.0
        follow = self._memory.pause(view.slots) | (~view.samples & self._some_draft)
        return Plan(np.zeros(len(view.slots), dtype=np.int32), NOTHING, follow)

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
        change = max(abs(len(records) - self._num_reviewed), int(np.count_nonzero(early)))
        return change * CHANGE > self._num_reviewed

    def _choose(self, view: StepView, records: Records, prices: StepPrices) -> None:
        """Turn sequences on and off. Those in prefill count as if they sampled already: they soon will."""
        width = view.survival_lag.shape[1]
        rooms = room(records, view, width)
        is_open = rooms > 0
        num_sequences = everybody(view)
        base_s = prices.plain_s(num_sequences)
        share_s = base_s / num_sequences
        catch_up_s = view.stale_rows.astype(np.float64) * prices.catch_up_row_s
        is_on = records["is_on"]
        charge_s = share_s * self._hysteresis * np.where(is_on, 0.5, 1.0) + catch_up_s / self._horizon
        is_worth, gain = np.zeros(len(rooms), dtype=np.bool_), np.zeros(len(rooms))
        if is_open.any():
            places = np.arange(width) < rooms[is_open, None]

            def choose(survival: F64) -> tuple[BoolArray, F64]:
                return choose_drafting(
                    prices, num_sequences, base_s, np.where(places, survival, 0.0), charge_s[is_open]
                )

            if records["is_tried"].any():
                self._look_into_trial(records, lambda shown: bool(choose(shown)[0].any()))
            is_worth[is_open], gain[is_open] = choose(records["survival"][is_open])
        self._num_reviewed, self._some_draft = len(rooms), bool(is_worth.any())
        # Where nobody is near to drafting there is little to review.
        usual = max(REVIEW, len(rooms) // SEQUENCES_PER_STEP)
        if not (self._some_draft or is_on.any()):
            self._pause = max(usual, IDLE_REVIEW)
        elif view.step < self._reviewed_step + self._pause:
            # After a change there is news in every step.
            self._pause = 1
        else:
            self._pause = min(2 * self._pause, usual)
        # A group that had nothing to plan for a while has not seen these steps, nor has a newcomer.
        num_steps = np.where(records["is_new"], 1, min(view.step - self._reviewed_step, MOST_FINISHED)) * is_open
        self._reviewed_step = view.step
        decide(records, is_worth, gain * num_steps, num_steps)
        self._probe(records, prices, is_open & view.samples, catch_up_s, share_s)
        if records["is_tried"].any():
            self._pause = 1
        is_idle = not records["is_on"].any()
        if self._trials.is_idle and self._some_draft:
            self._record.doubt()
        self._trials.see(view.step, is_idle=is_idle)
        if is_idle:
            self._try(view, records, prices, is_open, catch_up_s)

    def _may_try(self, view: StepView, prices: StepPrices) -> bool:
        """Tell whether nobody has drafted for so long that a newcomer may be tried."""
        width = view.survival_lag.shape[1]
        return not self._some_draft and self._trials.are_due(view.step, prices, everybody(view), width)

    def _try(self, view: StepView, records: Records, prices: StepPrices, is_open: BoolArray, catch_up_s: F64) -> None:
        """Let one sequence draft that has shown nothing, where perfect drafts of all would pay."""
        num_sequences = everybody(view)
        tried = self._trials.choose(view.step, prices, num_sequences, records, is_open, catch_up_s)
        if tried is None:
            return
        self._trials.wait()
        perfect, charge_s = np.ones((len(records), view.survival_lag.shape[1])), np.zeros(len(records))
        base_s = prices.plain_s(num_sequences)
        if choose_drafting(prices, num_sequences, base_s, perfect, charge_s)[0].any():
            start_trial(records, tried)
            self._pause = 1

    def _look_into_trial(self, records: Records, would_pay: Callable[[F64], bool]) -> None:
        """End a trial that has shown enough; where the drafts of all would pay if they were like these, all are tried.

        Who has shown drafts of its own is judged by those.
        """
        place = int(records["is_tried"].argmax())
        num_shown, shown = int(records["num_shown"][place]), records["survival"][place].copy()
        if num_shown < FEW_DRAFTS:
            return
        pays = would_pay(shown)
        if pays and num_shown < ENOUGH_DRAFTS:
            return
        end_trial(records)
        if pays:
            self._record.begin_anew(shown, num_shown)
            records["survival"][records["num_shown"] == 0] = self._record.prior

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

    def _rank(self, records: Records, departure: F64, draft_len: I32) -> None:
        """Rank the drafts of the next steps by what those who draft are expected to show."""
        drafts = draft_len > 0
        num_drafting = int(np.count_nonzero(drafts))
        # The newest survivals of many tell how those of the next drafts will spread; of one they tell too little.
        expected = records["survival"][drafts] + (1.0 - 1.0 / max(num_drafting, 1)) * departure[drafts]
        expected[np.arange(expected.shape[1]) >= draft_len[drafts, None]] = 0.0
        self._ranking, self._budget_for = Ranking(expected), (0, 0.0, -1)

    def _admit(self, step: Step, draft_len: I32, follow: BoolArray, num_drafting: int) -> Plan:
        """Return the plan for those who draft, with the budget that is best in this step."""
        self._catch_up_row_s, self._predicted_s = step.prices.catch_up_row_s, step.base_s
        if not num_drafting:
            return Plan(draft_len, TopK(0), follow, None, None, None, step.base_s, float(step.num_sequences))
        facts = (step.num_sequences, step.base_s, step.other_rows)
        if self._budget_for != facts:
            best = self._ranking.choose(step)
            self._budget, self._budget_for = (TopK(best.drafts), best), facts
        rule, best = self._budget
        self._predicted_s = best.step_s
        return Plan(draft_len, rule, follow, None, None, None, best.step_s, best.tokens)
