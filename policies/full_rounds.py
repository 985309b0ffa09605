"""The last rounds that were verified in full, and what they tell of calibration: no others tell without bias.

A round counts if a probe verified all of it (`StepOutcome.floored`), or if the rule admitted every draft of the step
and so left nothing out by what it saw.
"""

import math

import numpy as np

from core.planning import BoolArray, StepOutcome
from core.reliability import equal_width_bins, measure
from policies.calibration_report import CalibrationReport

# Rounds that are remembered, and without which nothing is said.
MOST_ROUNDS, FEWEST_ROUNDS = 4096, 64


class FullRounds:
    """The last rounds that were verified in full, with what was predicted of them."""

    def __init__(self, width: int) -> None:
        self._predicted = np.zeros((MOST_ROUNDS, width), dtype=np.float32)
        self._accepted = np.zeros(MOST_ROUNDS, dtype=np.int32)
        self._num_seen, self._reported, self._report = 0, 0, CalibrationReport()

    def add(self, rounds: StepOutcome, in_trimmed_step: BoolArray) -> None:
        """Remember the rounds that count; in_trimmed_step [N] marks those in whose step some draft was left out."""
        width = self._predicted.shape[1]
        is_whole = (rounds.drafted == width) & (rounds.verified == width)
        is_whole &= ~in_trimmed_step | (rounds.floored == width)
        predicted, accepted = rounds.survival[is_whole][-MOST_ROUNDS:], rounds.accepted[is_whole][-MOST_ROUNDS:]
        place = (self._num_seen + np.arange(len(accepted))) % MOST_ROUNDS
        self._predicted[place], self._accepted[place] = predicted, accepted
        self._num_seen += len(accepted)

    def report(self) -> CalibrationReport:
        """Return what the rounds show; computed anew only if some have come."""
        num_rounds = min(self._num_seen, MOST_ROUNDS)
        if self._num_seen == self._reported or num_rounds < FEWEST_ROUNDS:
            return self._report
        predicted, accepted = self._predicted[:num_rounds], self._accepted[:num_rounds]
        reached = accepted[:, None] > np.arange(predicted.shape[1])
        bins = equal_width_bins(predicted.ravel(), reached.ravel())
        found = [measure(predicted[:, k], accepted > k) for k in range(predicted.shape[1])]
        self._reported = self._num_seen
        self._report = CalibrationReport(
            num_rounds,
            tuple(each.error for each in found),
            tuple(None if math.isnan(each.auc) else each.auc for each in found),
            tuple(each.brier for each in found),
            1.0 + sum(each.predicted for each in found),
            1.0 + sum(each.observed for each in found),
            tuple(
                (float(chance), float(share), int(count))
                for chance, share, count in zip(bins.predicted, bins.observed, bins.count, strict=True)
            ),
        )
        return self._report
