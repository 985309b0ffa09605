"""What the engine counts: for metrics, for the outcome of a request's client, and for tests to prove things happened.

Counters say what was computed; what a client received can be less (a stop cuts a round's tokens).
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.histogram import STEP_TOKENS, Histogram
from core.planning import I32, Plan, StepOutcome
from engine.benefit import Benefit
from engine.budget import allowed_drafts, expected_accepts


@dataclass(slots=True)
class RoundCounts:
    """What verdicts came to.

    rounds       verdicts of one sequence each, plain decoding included
    drafted, verified, accepted   draft tokens proposed, sent to the target, kept
    allowed      draft tokens that plans would have had verified at most
    expected     draft tokens that admission expected to be kept: the survivals of those verified, summed
    verified_at, accepted_at      the same by draft position, 0-based
    benefit      what the steps took, and what plain ones would have taken
    """

    rounds: int = 0
    drafted: int = 0
    allowed: int = 0
    verified: int = 0
    accepted: int = 0
    expected: float = 0.0
    verified_at: Counter[int] = field(default_factory=Counter)
    accepted_at: Counter[int] = field(default_factory=Counter)
    benefit: Benefit = field(default_factory=Benefit)

    def count_budget(self, plan: Plan, outcome: StepOutcome) -> None:
        """Count what one step's plan allowed, and what was expected of what it verified."""
        self.allowed += allowed_drafts(plan)
        self.expected += expected_accepts(outcome)

    def count_rounds(self, drafted: I32, verified: I32, accepted: I32) -> None:
        """Count the verdicts of one step, an entry per sequence."""
        self.rounds += len(verified)
        if not drafted.any():
            return
        self.drafted += int(drafted.sum())
        self.verified += int(verified.sum())
        self.accepted += int(accepted.sum())
        self.verified_at.update(by_reach(verified))
        self.accepted_at.update(by_reach(accepted))

    def counts(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "rounds": self.rounds,
            "drafted": self.drafted,
            "allowed": self.allowed,
            "verified": self.verified,
            "accepted": self.accepted,
            "expected": self.expected,
            "plain_s": self.benefit.plain_s,
            "spent_s": self.benefit.spent_s,
            "benefit": self.benefit.ratio,
            "verified_at": by_place(self.verified_at),
            "accepted_at": by_place(self.accepted_at),
        }


@dataclass(slots=True)
class EngineStats(RoundCounts):
    """Running totals since the engine started; mutated by the step only.

    emitted      tokens that left the engine
    groups       the round counts by (drafter, policy)
    catch_up_rows   target rows run again for their features
    cost_predicted_s, cost_actual_s   what a policy said that steps would take, and what these took
    constrained_rounds   rounds of sequences with a grammar; forced_verified, forced_accepted   their drafts that the
                 grammar forced, which count among all drafts too
    soft_accepts sum over verified drafts of the chance of acceptance before the token was drawn
    fallbacks    by what failed: "policy", "drafter", "grammar"
    seconds      by part of the step
    step_tokens  how many tokens steps worked on: rows of prefill, and new tokens
    """

    steps: int = 0
    emitted: int = 0
    soft_accepts: float = 0.0
    catch_up_rows: int = 0
    constrained_rounds: int = 0
    forced_verified: int = 0
    forced_accepted: int = 0
    cost_predicted_s: float = 0.0
    cost_actual_s: float = 0.0
    fallbacks: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    step_tokens: Histogram = field(default_factory=lambda: Histogram.of(STEP_TOKENS))
    groups: dict[tuple[str, str], RoundCounts] = field(default_factory=dict)

    def count_step(self, step_s: float, catch_up_rows: int, predicted_s: float | None) -> None:
        """Count one step; predicted_s is what policies said it would take, if they did."""
        self.steps += 1
        self.catch_up_rows += catch_up_rows
        if predicted_s is not None:
            self.cost_predicted_s += predicted_s
            self.cost_actual_s += step_s

    def count_tokens(self, num_prefilled: int, num_emitted: int) -> None:
        """Count the rows of prefill in one step, and the tokens that leave the engine with it."""
        self.emitted += num_emitted
        self.step_tokens.observe(num_prefilled + num_emitted)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[part]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start  # type: ignore[assignment]

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as plain values, for another process to read."""
        return self.counts() | {
            "steps": self.steps,
            "emitted": self.emitted,
            "soft_accepts": self.soft_accepts,
            "catch_up_rows": self.catch_up_rows,
            "constrained_rounds": self.constrained_rounds,
            "forced_verified": self.forced_verified,
            "forced_accepted": self.forced_accepted,
            "cost_predicted_s": self.cost_predicted_s,
            "cost_actual_s": self.cost_actual_s,
            "fallbacks": dict(self.fallbacks),
            "seconds": dict(self.seconds),
            "step_tokens": self.step_tokens.copy(),
            "groups": [
                {"drafter": drafter, "policy": policy} | group.counts()
                for (drafter, policy), group in list(self.groups.items())
            ],
        }

    @property
    def accepted_length(self) -> float:
        """Tokens per round, bonus included (tau)."""
        return (self.accepted + self.rounds) / self.rounds if self.rounds else 0.0


def by_reach(lengths: I32) -> dict[int, int]:
    """Return place -> how many of `lengths` reach beyond it."""
    reach = np.bincount(lengths)[::-1].cumsum()[::-1]
    return dict(enumerate(reach[1:].tolist()))


def by_place(counts: Counter[int]) -> list[int]:
    """Return counts by draft position as a list."""
    return [counts[place] for place in range(max(counts, default=-1) + 1)]
