"""The cost table in use: the measured one, corrected by the steps that are really run.

A profile is a few seconds of one day; clocks, neighbours and texts change. Every step that is mostly decoding is held
against what the table says of it. The ratio of the two is averaged, per number of sequences, and there for plain and
speculating steps apart; a kind of step that was seldom seen follows the other kind, and a load that was seldom seen
follows the average of all. Policies get a new immutable table now and then.
"""

import math

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from core.cost import CostTable
from core.planning import Plan, StepOutcome, StepView
from engine.looks import is_looked_at

F64 = NDArray[np.float64]

# Steps that take so long that a look does not matter are all looked at, nor does it that a policy thought in them; and
# looks between two tables.
LONG_STEP_S, PUBLISH_EVERY = 0.1, 16
# Weight of a new ratio in the averages of one kind of step and of all.
PACE, PACE_OF_ALL = 0.05, 0.02
# Looks after which a kind of step is believed half as much as the average of all.
BELIEF_LOOKS = 8.0
# A step that took three times as long was interrupted.
MOST_LOG_RATIO = math.log(3.0)
# Share of a step's rows beyond which prefill and catch-up would teach more about themselves than about decoding.
MOST_OTHER_ROWS = 0.25
PLAIN, SPECULATING, BOTH = 0, 1, 2


class CostTables(dict[str, CostTable]):
    """The tables in use, by drafter; with are_refined they follow the steps that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.are_refined = False
        self._refined: dict[str, CostRefinement] = {}

    def observe(self, drafter: str, view: StepView, plan: Plan, outcome: StepOutcome) -> None:
        """Learn from a finished step that one drafter's group had to itself."""
        if not self.are_refined or drafter not in self:
            return
        refined = self._refined.get(drafter)
        if refined is None or refined.table is not self[drafter]:
            # The first step, or somebody has put another table in.
            refined = self._refined[drafter] = CostRefinement(self[drafter])
        refined.observe(view, plan, outcome)
        self[drafter] = refined.table


class CostRefinement:
    """Corrects one drafter's table; mutated by the engine's step only.

    measured  the table that the ratios are to
    table     the newest corrected one
    """

    def __init__(self, measured: CostTable) -> None:
        self.measured = self.table = measured
        self._grid = np.log(np.array(measured.sequences, dtype=np.float64))
        # Rows: plain steps, speculating steps, both.
        self._log_ratio = np.zeros((3, len(self._grid)))
        self._looks = np.zeros((3, len(self._grid)))
        self._log_ratio_of_all = 0.0
        self._num_looks = 0

    def observe(self, view: StepView, plan: Plan, outcome: StepOutcome) -> None:
        """Learn from a finished step of one group alone."""
        if not (is_looked_at(outcome.step) or outcome.step_s >= LONG_STEP_S) or not len(outcome.slots):
            return
        other_rows = outcome.prefill_rows + outcome.catch_up_rows
        if other_rows > MOST_OTHER_ROWS * outcome.rows:
            return
        num_followed, num_verified = int(np.count_nonzero(plan.follow)), int(outcome.verified.sum())
        expected_s = float(
            self.measured.step_s(
                len(outcome.slots),
                num_followed,
                num_verified,
                float(view.context_len.mean()),
                outcome.prefill_rows,
                outcome.catch_up_rows,
            )
        )
        if not expected_s > 0 or not outcome.step_s > 0:
            return
        ratio = math.log(outcome.step_s / expected_s)
        self._learn(SPECULATING if num_followed else PLAIN, len(outcome.slots), ratio)

    def _learn(self, kind: int, num_sequences: int, log_ratio: float) -> None:
        nearest = int(np.abs(self._grid - math.log(num_sequences)).argmin())
        known = self._log_ratio[BOTH, nearest] if self._looks[BOTH, nearest] else self._log_ratio_of_all
        # Held near what is known, so that one interrupted step cannot move the average far.
        seen = min(max(log_ratio, known - MOST_LOG_RATIO), known + MOST_LOG_RATIO)
        self._num_looks += 1
        rows = [kind, BOTH]
        self._looks[rows, nearest] += 1
        # The first looks count alike: an average, not the first value for ever.
        self._log_ratio_of_all += max(PACE_OF_ALL, 1 / self._num_looks) * (seen - self._log_ratio_of_all)
        pace = np.maximum(PACE, 1 / self._looks[rows, nearest])
        self._log_ratio[rows, nearest] += pace * (seen - self._log_ratio[rows, nearest])
        if self._num_looks % PUBLISH_EVERY == 0:
            self.table = self._corrected()

    def _corrected(self) -> CostTable:
        belief = self._looks / (self._looks + BELIEF_LOOKS)
        of_load = belief[BOTH] * self._log_ratio[BOTH] + (1 - belief[BOTH]) * self._log_ratio_of_all
        factors = np.exp(belief * self._log_ratio + (1 - belief) * of_load)
        of_all = math.exp(self._log_ratio_of_all)
        plain, draft = (np.array(part) for part in (self.measured.plain_s, self.measured.draft_s))
        verify = np.array(self.measured.verify_s)
        plain, draft = plain * factors[PLAIN], draft * factors[SPECULATING]
        verify = verify * factors[SPECULATING][:, None]
        return replace(
            self.measured,
            plain_s=_rows(_rising(plain, 1)),
            draft_s=_rows(_rising(draft, 1)),
            verify_s=tuple(_rows(each) for each in _rising(_rising(verify, 1), 2)),
            prefill_row_s=self.measured.prefill_row_s * of_all,
            catch_up_row_s=self.measured.catch_up_row_s * of_all,
        )


def _rising(values: F64, axis: int) -> F64:
    """Return running maxima: more of anything never costs less."""
    rising: F64 = np.maximum.accumulate(values, axis=axis)
    return rising


def _rows(values: F64) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
