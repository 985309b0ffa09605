"""What a finished round teaches: at once what the next plan may depend on, and later what is only counted.

A policy plans by what the step before has shown. Counters, calibrations and cost tables may hear of a round one later:
on a device they are brought up to date while it runs the next one.
"""

from dataclasses import dataclass

from core.planning import StepOutcome, StepView
from engine.accept import Round
from engine.cost_refine import CostTables
from engine.device_round import Proposal
from engine.explain import RecentSteps
from engine.outcome import StepFacts, outcomes, without
from engine.plan import GroupPlan, StepPlan, remember_survival


@dataclass(frozen=True, slots=True)
class Lesson:
    """One group's part of a finished round, and what of it may be learnt from.

    alone  what the group saw before, if it had the step to itself: only then does its time tell of it
    """

    part: GroupPlan
    outcome: StepOutcome
    taught: StepOutcome
    alone: StepView | None


def teach(plan: StepPlan, proposal: Proposal, verdict: Round, facts: StepFacts) -> list[Lesson]:
    """Show each policy its part of a round, which is on the host; returns what is still to be counted."""
    if proposal.draft.tokens.shape[1]:
        remember_survival(plan, proposal.survival)
    constrained = frozenset(one.slot for one in plan.sequences if one.constraint is not None)
    lessons = []
    for part, outcome in outcomes(plan, proposal.draft, proposal.survival, verdict, facts):
        taught = without(outcome, constrained)
        part.group.teach(taught)
        lessons.append(Lesson(part, outcome, taught, part.view if len(plan.parts) == 1 else None))
    return lessons


def count(lessons: list[Lesson], recent: RecentSteps, costs: CostTables) -> None:
    """Take what rounds have shown into counters, calibrations and cost tables."""
    for lesson in lessons:
        part, outcome = lesson.part, lesson.outcome
        recent.add(part, outcome)
        if lesson.alone is not None:
            costs.observe(part.group.key[0], lesson.alone, part.plan, outcome)
        part.group.count(part.plan, outcome, lesson.taught, lesson.alone)
