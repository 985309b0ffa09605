"""The sequences that one policy plans for one drafter: what it sees of them, what it says, what it learns.

A policy is a plug-in. Whatever it raises is logged and counted, and its sequences decode plainly in that step.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor

from core.cost import CostTable
from core.errors import EngineError
from core.planning import F32, Plan, Policy, Rule, StepOutcome, StepView
from engine.scheduler import Batch
from engine.sequence import GroupKey, Sequence
from engine.speculator import Speculator
from engine.stats import EngineStats, RoundCounts
from policies.base import draft_nothing
from policies.online_calibration import OnlineCalibration

log = structlog.get_logger()

Places = NDArray[np.int64]


class Others(Struct, frozen=True, kw_only=True):
    """What a group is told of the step around it.

    planned_rows   target rows that groups planned before it have asked for: drafts and catch-up
    num_sequences  sequences of the whole batch
    kv_free        share of KV blocks that could be taken
    queue_depth    requests without a slot, oldest_wait_s how long the oldest of them has waited
    """

    num_sequences: int
    kv_free: float
    queue_depth: int
    oldest_wait_s: float
    planned_rows: int = 0


class PolicyGroup:
    """A policy, the drafter it decides about, and the survivals it may see: always those of finished steps.

    calibration turns the drafter's evidence into survivals where the policy has no map of its own; it begins with what
    the drafter knows of itself and learns from finished steps. now_s tells the seconds that deadlines count in.
    """

    def __init__(
        self,
        key: GroupKey,
        speculator: Speculator,
        policy: Policy,
        stats: EngineStats,
        num_slots: int,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._now_s = now_s
        self.key, self.speculator, self.policy = key, speculator, policy
        self.counts = stats.groups.setdefault(key, RoundCounts())
        self._stats = stats
        self.calibration = OnlineCalibration(speculator.spec.max_drafts, speculator.spec.calibration)
        self._survival_lag = np.full((num_slots, speculator.spec.max_drafts), np.nan, dtype=np.float32)

    def open(self, slot: int) -> None:
        """Forget what the slot's last sequence has shown."""
        self._survival_lag[slot] = np.nan

    def slots(self, batch: Batch, members: Places) -> NDArray[np.int32]:
        """Return the slots of members i64 [b]."""
        return np.array([batch.sequences[b].slot for b in members.tolist()], dtype=np.int32)

    def view(self, batch: Batch, members: Places, others: Others, cost: CostTable | None) -> StepView:
        """Describe the step to the policy, before any draft of it exists; members i64 [b] are places in the batch."""
        sequences = [batch.sequences[b] for b in members.tolist()]
        facts = []
        for one in sequences:
            if one.num_stale:
                self.speculator.advance(one)
            computed, length = one.num_computed, len(one.tokens)
            left = one.longest - length
            facts.append((one.slot, computed, computed - one.extended, length - computed, left, one.request.priority))
        slots, context_len, stale, uncomputed, tokens_left, priority = np.array(facts, dtype=np.int32).T.copy()
        gamma_max, num_rows = np.array((batch.gamma_max, batch.num_rows), dtype=np.int32)[:, members]
        samples = num_rows == uncomputed
        return StepView(
            step=self._stats.steps,
            slots=slots,
            gamma_max=gamma_max,
            samples=samples,
            context_len=context_len,
            extra_rows=sum(batch.num_rows) - int(samples.sum()) + others.planned_rows,
            extra_sequences=others.num_sequences - len(sequences),
            stale_rows=stale,
            survival_lag=self._survival_lag[slots],
            tokens_left=tokens_left,
            priority=priority,
            deadline_in_s=deadlines(sequences, self._now_s),
            kv_free=others.kv_free,
            queue_depth=others.queue_depth,
            oldest_wait_s=others.oldest_wait_s,
            cost=cost,
        )

    def plan(self, view: StepView) -> Plan:
        """Ask the policy and hold its answer to the view's bounds; plain decoding if it fails."""
        try:
            plan = self.policy.plan(view)
            draft_len = np.minimum(np.maximum(as_row(plan.draft_len, view, np.int32), 0), view.gamma_max)
            follow = as_row(plan.follow, view, np.bool_)
            check_plan(plan, self.speculator.spec.max_drafts)
            return replace(
                plan,
                draft_len=draft_len,
                follow=follow,
                calibration=plan.calibration or self.calibration.calibration,
                floor=None if plan.floor is None else np.minimum(as_row(plan.floor, view, np.int32), draft_len),
                weight=None if plan.weight is None else check_weight(as_row(plan.weight, view, np.float32)),
            )
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; the step must go on
            self._fell_back(error)
            return draft_nothing(view)

    def remember(self, slots: NDArray[np.int32], draft_len: NDArray[np.int32], survival: Tensor) -> None:
        """Keep this step's survival [b, G] of the sequences that drafted, for the views of later steps.

        What was not asked for stays unknown; who did not draft keeps what it showed last.
        """
        width = self._survival_lag.shape[1]
        drafted = draft_len > 0
        seen = survival.numpy(force=True)[drafted, :width]
        asked = np.arange(width) < draft_len[drafted, None]
        self._survival_lag[slots[drafted]] = np.where(asked, seen, np.nan)

    def count_plain(self, num_rounds: int) -> None:
        """Count plain rounds from which nothing is learnt: without a drafter, or of a plan that stands."""
        self._stats.rounds += num_rounds
        self.counts.rounds += num_rounds

    def observe(self, plan: Plan, outcome: StepOutcome, taught: StepOutcome, alone: StepView | None = None) -> None:
        """Count a finished step, and teach the calibration and the policy what of it they may learn from."""
        self.teach(taught)
        self.count(plan, outcome, taught, alone)

    def teach(self, taught: StepOutcome) -> None:
        """Show the policy a finished step, before it plans the next."""
        try:
            self.policy.observe(taught)
        except Exception as error:  # noqa: BLE001 - see plan
            self._fell_back(error)

    def count(self, plan: Plan, outcome: StepOutcome, taught: StepOutcome, alone: StepView | None = None) -> None:
        """Count a finished step, and teach the calibration what of it may be learnt from.

        alone is what the group saw before, if it had the step to itself: only then does its time tell of it.
        """
        if alone is not None:
            self.counts.benefit.observe(alone, outcome)
        for counts in (self._stats, self.counts):
            counts.count_rounds(outcome.drafted, outcome.verified, outcome.accepted)
            counts.count_budget(plan, outcome)
        self._learn(taught)

    def _learn(self, outcome: StepOutcome) -> None:
        """Teach the calibration, and log where drift moves it on its ladder."""
        before = self.calibration.fallback
        self.calibration.observe(outcome)
        after = self.calibration.fallback
        if after is not before:
            tell = log.warning if after > before else log.info
            drafter, policy = self.key
            tell("calibration_drift", drafter=drafter, policy=policy, fallback=after.name.lower())

    def _fell_back(self, error: Exception) -> None:
        self._stats.fallbacks["policy"] += 1
        log.warning("policy_failed", drafter=self.key[0], policy=self.key[1], error=repr(error))


def deadlines(sequences: list[Sequence], now_s: Callable[[], float]) -> F32:
    """Return the seconds [b] that are left until the requests' deadlines, inf where there is none."""
    left = np.full(len(sequences), np.inf, dtype=np.float32)
    if any(sequence.request.deadline_s is not None for sequence in sequences):
        now = now_s()
        for b, sequence in enumerate(sequences):
            if sequence.request.deadline_s is not None:
                left[b] = sequence.request.deadline_s - now
    return left


def as_row(values: object, view: StepView, dtype: type[np.generic]) -> NDArray[Any]:
    """Return one value per sequence of the view."""
    row = np.asarray(values, dtype=dtype)
    return row if row.shape == view.slots.shape else np.broadcast_to(row, view.slots.shape)


def check_weight(weight: F32) -> F32:
    """Return the weights; raises EngineError unless they are numbers above 0."""
    if not (np.isfinite(weight) & (weight > 0)).all():
        raise EngineError(f"a plan's weights must be finite and above 0, got {weight[~(weight > 0)][:3].tolist()}")
    return weight


def check_plan(plan: Plan, width: int) -> None:
    """Raise EngineError if a policy says what no rule or calibration of ours means."""
    if not isinstance(plan.rule, Rule):
        raise EngineError(f"a plan's rule must be one of core.planning.Rule, got {plan.rule!r}")
    if not isinstance(plan.stands, int) or plan.stands < 1:
        raise EngineError(f"a plan stands for 1 step or more, got {plan.stands!r}")
    for name in ("predicted_step_s", "predicted_tokens"):
        if not isinstance(getattr(plan, name), float | None):
            raise EngineError(f"a plan's {name} must be a float or None, got {getattr(plan, name)!r}")
    calibration = plan.calibration
    if calibration and not len(calibration.slope) == len(calibration.intercept) == width:
        raise EngineError(f"a plan's calibration must have {width} places, got {len(calibration.slope)}")
