"""From a judged step to what each policy learns of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from torch import Tensor

from core.planning import StepOutcome
from core.tensors import Draft
from engine.accept import Round
from engine.plan import GroupPlan, StepPlan
from engine.rows import StepRows
from engine.scheduler import Batch


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What was measured of a whole step: its number, its seconds, its target rows and how many were no verification."""

    step: int
    step_s: float
    rows: int
    prefill_rows: int
    catch_up_rows: int


def step_facts(step: int, step_s: float, batch: Batch, plan: StepPlan, rows: StepRows) -> StepFacts:
    """Return the facts of a step of which number and seconds are told."""
    catch_up_rows = sum(each.num_rows for each in plan.catch_up if each.in_forward)
    return StepFacts(step, step_s, len(rows.verify.tokens), batch.num_prefill_rows, catch_up_rows)


def outcomes(
    plan: StepPlan, draft: Draft, survival: Tensor, verdict: Round, facts: StepFacts
) -> Iterator[tuple[GroupPlan, StepOutcome]]:
    """Yield the part of every group that is to learn of the step; draft and survival [B, G] cover the whole batch."""
    if not any(plan.teaches(part, facts.step) for part in plan.parts):
        return
    index = verdict.index.numpy(force=True)
    group_of = plan.group[index]
    verified, accepted = (np.array(each, dtype=np.int32) for each in (verdict.verified, verdict.accepted))
    evidence, seen, lengths, labels = (
        each.numpy(force=True) for each in (draft.evidence, survival, draft.lengths, verdict.verdict.soft_labels)
    )
    for number, part in enumerate(plan.parts):
        if not plan.teaches(part, facts.step):
            continue
        mine = slice(None) if len(plan.parts) == 1 else np.flatnonzero(group_of == number)
        judged, width = index[mine], part.group.speculator.spec.max_drafts
        place = np.searchsorted(part.members, judged)
        floor = part.plan.floor
        outcome = StepOutcome(
            step=facts.step,
            slots=part.slots[place],
            drafted=lengths[judged],
            verified=verified[mine],
            accepted=accepted[mine],
            step_s=facts.step_s,
            rows=facts.rows,
            prefill_rows=facts.prefill_rows,
            catch_up_rows=facts.catch_up_rows,
            evidence=evidence[judged, :width],
            survival=seen[judged, :width],
            soft_labels=labels[mine, :width],
            floored=np.zeros(len(judged), dtype=np.int32) if floor is None else floor[place],
        )
        yield part, outcome


def without(outcome: StepOutcome, slots: frozenset[int]) -> StepOutcome:
    """Return an outcome without the sequences in some slots: all that is left to learn from.

    What a grammar allows says nothing of how often a drafter and the target agree elsewhere.
    """
    if not slots:
        return outcome
    kept = ~np.isin(outcome.slots, list(slots))
    rows = ("slots", "drafted", "verified", "accepted", "evidence", "survival", "soft_labels", "floored")
    return replace(outcome, **{name: getattr(outcome, name)[kept] for name in rows})


def num_judged(plan: StepPlan, part: GroupPlan, verdict: Round) -> int:
    """Return how many sequences of one group got a next token."""
    if len(plan.parts) == 1:
        return len(verdict.emitted)
    number = plan.parts.index(part)
    return int(np.count_nonzero(plan.group[verdict.index.numpy(force=True)] == number))
