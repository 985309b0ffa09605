"""The calibration of one drafter under one policy, refitted from finished steps while it serves.

Labels are hazards on the risk set (policies/calibration_fit.py), so drafts that the policy trimmed bias nothing as long
as evidence tells all there is to tell. It does not quite: a policy admits where survivals are great, and there the same
evidence may mean more. Drafts that only a probe let through therefore stand for the many like them that were trimmed.
"""

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from core.planning import F32, I32, Calibration, StepOutcome
from policies.calibration_fit import hazards, identity, risk_set
from policies.calibration_report import CalibrationReport
from policies.drift import Fallback, Ladder
from policies.evidence_table import EvidenceTable, Judged
from policies.full_rounds import FullRounds

F64 = NDArray[np.float64]

# Rounds between two refits; the first come sooner.
FIRST_REFIT, REFIT = 32, 1024
# Most that a probed draft may stand for: a few dozen probes must not outshout thousands of rounds.
MOST_WEIGHT = 8.0
# Rounds that the drafter's own calibration weighs as much as; and the mere contract, that evidence is a logit.
KNOWN_ROUNDS, ASSUMED_ROUNDS = 2048.0, 64.0
# How many times as fast counts fade, and how much less prior beliefs weigh, once the ladder says so.
HASTE, DOUBT = 4.0, 16.0
# Share of the fast counts that an alarm wipes out.
FORGOTTEN = 0.75


class CalibrationState(Struct, frozen=True):
    """What is to be shown of a calibration: how good it was, how far it has fallen back, alarms so far."""

    report: CalibrationReport
    fallback: Fallback
    num_alarms: int


class OnlineCalibration:
    """Learns from finished steps; `calibration` is replaced as a whole, never changed.

    start  from the drafter's checkpoint; None takes evidence for what it says it is, a logit of acceptance
    """

    def __init__(self, width: int, start: Calibration | None = None) -> None:
        self.calibration = self._prior = identity(width) if start is None else start
        self._width, self._prior_rounds = width, ASSUMED_ROUNDS if start is None else KNOWN_ROUNDS
        self._table, self._ladder, self._full = EvidenceTable(width), Ladder(), FullRounds(width)
        self._pending: list[StepOutcome] = []
        self._num_pending, self._wait = 0, FIRST_REFIT
        # Probed rounds among those that drafted, as a running share; it begins with a guess that fades.
        self._num_probed, self._num_drafted = 0.5, 50.0

    @property
    def state(self) -> CalibrationState:
        """Say how it fares."""
        return CalibrationState(self._full.report(), self._ladder.rung, self._ladder.num_alarms)

    @property
    def fallback(self) -> Fallback:
        """How far drift has made it fall back."""
        return self._ladder.rung

    def observe(self, outcome: StepOutcome) -> None:
        """Learn from a finished step; once enough have come a new calibration is published."""
        num_rounds = int(np.count_nonzero(outcome.verified))
        if not num_rounds:
            return
        self._pending.append(outcome)
        self._num_pending += num_rounds
        if self._num_pending >= self._wait:
            self._learn()
            self._wait = min(2 * self._wait, REFIT)

    def _learn(self) -> None:
        steps, num_rounds = self._pending, self._num_pending
        self._pending, self._num_pending = [], 0
        rounds = joined(steps)
        self._full.add(rounds, np.repeat([bool((step.verified < step.drafted).any()) for step in steps], sizes(steps)))
        is_judged = risk_set(rounds.verified, rounds.accepted, self._width) & np.isfinite(rounds.evidence)
        predicted = hazards(np.where(is_judged, rounds.evidence, np.float32(0.0)), self.calibration)
        row, position = is_judged.nonzero()
        label = rounds.soft_labels[row, position].astype(np.float64)
        if self._ladder.check(float((label - predicted[row, position]).sum()), len(row), num_rounds):
            self._table.forget(FORGOTTEN)
        weight = self._weights(steps, rounds)[row, position]
        judged = Judged(position, rounds.evidence[row, position].astype(np.float64), label, weight)
        rung = self._ladder.rung
        is_wide = rung >= Fallback.WIDEN
        self._table.count(judged, num_rounds, HASTE if is_wide else 1.0)
        if rung == Fallback.HISTORY:
            self.calibration = self._table.history(self._prior)
        else:
            self.calibration = self._table.fit(self._prior, self._prior_rounds / (DOUBT if is_wide else 1.0))

    def _weights(self, steps: list[StepOutcome], rounds: StepOutcome) -> F64:
        """Return how many drafts each stands for, [N, G]: one, or more where a probe alone let it through."""
        drafted, probed = rounds.drafted > 0, is_probe(rounds)
        kept = 0.999 ** len(steps)
        self._num_drafted = kept * self._num_drafted + np.count_nonzero(drafted)
        self._num_probed = kept * self._num_probed + np.count_nonzero(probed)
        weight = np.ones(rounds.survival.shape)
        if probed.any():
            bars = [bar(step.survival, step.verified, ~is_probe(step)) for step in steps]
            below = rounds.survival < np.repeat(bars, sizes(steps))[:, None]
            weight[probed[:, None] & below] = min(self._num_drafted / self._num_probed, MOST_WEIGHT)
        return weight


def joined(steps: list[StepOutcome]) -> StepOutcome:
    """Return the rounds of several steps as if of one; what is of whole steps is the last one's."""
    names = ("slots", "drafted", "verified", "accepted", "evidence", "survival", "soft_labels", "floored")
    return replace(steps[-1], **{name: np.concatenate([getattr(step, name) for step in steps]) for name in names})


def sizes(steps: list[StepOutcome]) -> list[int]:
    """Return the number of rounds of each step."""
    return [len(step.slots) for step in steps]


def is_probe(rounds: StepOutcome) -> NDArray[np.bool_]:
    """Return whose drafts were all verified whatever the rule; a floor of some is what a deadline needs, no coin's."""
    return (rounds.drafted > 0) & (rounds.floored >= rounds.drafted)


def bar(survival: F32, verified: I32, chosen: NDArray[np.bool_]) -> float:
    """Return the least survival that the rule let through among chosen rounds; 0 if it trimmed nothing, inf if all."""
    width = survival.shape[1]
    last = np.take_along_axis(survival, np.maximum(verified - 1, 0)[:, None], 1)[:, 0]
    is_trimmed = chosen & (verified < width) & (survival[:, -1] > 0)
    if not is_trimmed.any():
        return 0.0
    admitted = chosen & (verified > 0)
    return float(last[admitted].min()) if admitted.any() else np.inf
