"""One drafter under one policy: plans, drafts and keeps the drafter up to date, and falls back to plain decoding.

A drafter or policy is a plug-in. Whatever it raises is logged and counted, and the step goes on without drafts; the
output law does not change, because it never depended on them.
"""

from collections.abc import Callable

import numpy as np
import structlog
import torch
from msgspec import Struct
from torch import Tensor

from core.cost import CostTable
from core.errors import EngineError
from core.tensors import Commit, Draft, DraftAsk
from core.types import Plan, Policy, Rule, StepOutcome, StepView
from drafters.base import Drafter, DrafterSpec
from engine.kv_cache import KVGroup
from engine.scheduler import Batch
from engine.sequence import Sequence
from engine.stats import EngineStats
from policies.base import draft_nothing

log = structlog.get_logger()


class Sizes(Struct, frozen=True):
    """What a speculator must know of its engine."""

    num_slots: int
    vocab_size: int


class Speculator:
    """Owns the calls into a drafter and a policy; `kv` is the drafter's group, None if it keeps none."""

    def __init__(
        self, drafter: Drafter | None, policy: Policy, kv: KVGroup | None, sizes: Sizes, stats: EngineStats
    ) -> None:
        self.drafter, self.policy, self.kv, self.sizes, self.stats = drafter, policy, kv, sizes, stats
        self.spec = drafter.spec if drafter else DrafterSpec(name="none", max_drafts=0)
        self._survival_lag = np.full((sizes.num_slots, self.spec.max_drafts), np.nan, dtype=np.float32)

    def open(self, sequence: Sequence) -> None:
        """Tell the drafter of a new sequence; a drafter that fails here leaves the sequence undrafted."""
        self._survival_lag[sequence.slot] = np.nan
        drafter = self.drafter
        if drafter and not self._guard(lambda: drafter.open(sequence.slot, sequence.tokens, 0)):
            sequence.extended = -1

    def release(self, sequence: Sequence) -> None:
        """Tell the drafter that a sequence is gone."""
        drafter = self.drafter
        if drafter:
            self._guard(lambda: drafter.release(sequence.slot))

    def view(self, batch: Batch, step: int, kv_free: float, queue_depth: int, cost: CostTable | None) -> StepView:
        """Describe the step to the policy, before any draft of it exists."""
        slots = np.array([s.slot for s in batch.sequences], dtype=np.int32)
        stale = np.array([s.num_computed - s.extended for s in batch.sequences], dtype=np.int32)
        gamma_max = np.array(batch.gamma_max, dtype=np.int32)
        # A stale drafter state cannot be drafted from.
        gamma_max[stale > 0] = 0
        samples = np.array([batch.samples(b) for b in range(len(batch.sequences))], dtype=np.bool_)
        return StepView(
            step=step,
            slots=slots,
            gamma_max=gamma_max,
            samples=samples,
            context_len=np.array([s.num_computed for s in batch.sequences], dtype=np.int32),
            extra_rows=sum(batch.num_rows) - int(samples.sum()),
            extra_sequences=0,
            stale_rows=stale,
            survival_lag=self._survival_lag[slots],
            kv_free=kv_free,
            queue_depth=queue_depth,
            cost=cost,
        )

    def plan(self, view: StepView) -> Plan:
        """Ask the policy, hold its answer to the view's bounds; plain decoding if it fails."""
        if self.drafter is None:
            return draft_nothing(view)
        try:
            plan = self.policy.plan(view)
            draft_len = np.clip(np.asarray(plan.draft_len, dtype=np.int32), 0, view.gamma_max)
            # A state with a gap cannot be extended: it stays stale.
            follow = np.broadcast_to(np.asarray(plan.follow, dtype=np.bool_), view.slots.shape) & (view.stale_rows == 0)
            check_plan(plan, self.spec.max_drafts)
            return Plan(draft_len, plan.rule, follow, plan.calibration)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; the step must go on
            self._fell_back("policy", error)
            return draft_nothing(view)

    def propose(self, ask: DraftAsk) -> Draft | None:
        """Draft; None if the drafter failed, and then its proposal was abandoned before any verdict."""
        assert self.drafter is not None
        try:
            draft = self.drafter.propose(ask)
            check_draft(draft, len(ask.slots), self.spec, self.sizes.vocab_size)
            lengths = draft.lengths.clamp(max=ask.lengths)
            return Draft(draft.tokens, lengths, draft.point_mass, draft.q_logits, draft.evidence)
        except Exception as error:  # noqa: BLE001 - see plan
            self._fell_back("drafter", error)
            return None

    def extend(self, commit: Commit, sequences: tuple[Sequence, ...]) -> None:
        """Hand final rows to the drafter; if it fails, the sequences are stale from here on."""
        drafter = self.drafter
        assert drafter is not None
        if self._guard(lambda: drafter.extend(commit)):
            for sequence in sequences:
                sequence.extended = sequence.num_computed

    def remember(self, batch: Batch, survival: Tensor) -> None:
        """Keep this step's survival [B, G], which later views show to the policy."""
        self._survival_lag[[s.slot for s in batch.sequences]] = survival.numpy(force=True)

    def observe(self, outcome: StepOutcome) -> None:
        """Teach the policy a finished step."""
        try:
            self.policy.observe(outcome)
        except Exception as error:  # noqa: BLE001 - see plan
            self._fell_back("policy", error)

    def _guard(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - see plan
            self._fell_back("drafter", error)
            return False
        return True

    def _fell_back(self, part: str, error: Exception) -> None:
        self.stats.fallbacks[part] += 1
        log.warning(f"{part}_failed", drafter=self.spec.name, policy=self.policy.name, error=repr(error))


def check_plan(plan: Plan, width: int) -> None:
    """Raise EngineError if a policy says what no rule or calibration of ours means."""
    if not isinstance(plan.rule, Rule):
        raise EngineError(f"a plan's rule must be one of core.types.Rule, got {plan.rule!r}")
    calibration = plan.calibration
    if calibration and not len(calibration.slope) == len(calibration.intercept) == width:
        raise EngineError(f"a plan's calibration must have {width} places, got {len(calibration.slope)}")


def check_draft(draft: Draft, batch_size: int, spec: DrafterSpec, vocab_size: int) -> None:
    """Raise EngineError if a proposal does not have the shapes and tokens its contract names."""
    shape = (batch_size, spec.max_drafts)
    if draft.tokens.shape != shape or draft.evidence.shape != shape or draft.lengths.shape != shape[:1]:
        raise EngineError(f"a draft must be {list(shape)}, got tokens {list(draft.tokens.shape)}")
    if draft.q_logits is None and not spec.point_mass:
        raise EngineError("a drafter that is no point mass must return the law it drew from")
    if draft.q_logits is not None and draft.q_logits.shape != (*shape, vocab_size):
        raise EngineError(f"q_logits must be {[*shape, vocab_size]}, got {list(draft.q_logits.shape)}")
    low, high = draft.tokens.aminmax()
    if int(low) < 0 or int(high) >= vocab_size:
        raise EngineError(f"drafted tokens must lie in 0..{vocab_size - 1}, got {int(low)}..{int(high)}")


def no_draft(batch_size: int, width: int) -> Draft:
    """Return a proposal of nothing for `batch_size` sequences."""
    return Draft(
        torch.zeros(batch_size, width, dtype=torch.int64),
        torch.zeros(batch_size, dtype=torch.int32),
        torch.ones(batch_size, dtype=torch.bool),
        None,
        torch.zeros(batch_size, width),
    )


def select(draft: Draft, index: Tensor) -> Draft:
    """Return the proposal of some sequences of a batch, index i64 [b]."""
    q_logits = None if draft.q_logits is None else draft.q_logits[index]
    return Draft(draft.tokens[index], draft.lengths[index], draft.point_mass[index], q_logits, draft.evidence[index])


def spread(draft: Draft, index: Tensor, batch_size: int) -> Draft:
    """Place a proposal for some sequences into a whole batch; the others have none."""
    if len(index) == batch_size:
        return draft
    whole = no_draft(batch_size, draft.tokens.shape[1])
    whole.tokens[index] = draft.tokens
    whole.lengths[index] = draft.lengths
    whole.point_mass[index] = draft.point_mass
    whole.evidence[index] = draft.evidence
    if draft.q_logits is None:
        return whole
    q_logits = draft.q_logits.new_zeros(batch_size, *draft.q_logits.shape[1:])
    q_logits[index] = draft.q_logits
    return Draft(whole.tokens, whole.lengths, whole.point_mass, q_logits, whole.evidence)
