"""The policy of a threshold sweep: draft all, verify up to the first draft of too little confidence, never a probe."""

from msgspec.structs import replace

from core.planning import Calibration, Plan, StepOutcome, StepView, Threshold
from policies.base import draft_all


class ThresholdAlone:
    """DeepSpec's rule: cut where a draft's own conditional acceptance falls below `value`, by a map that never moves.

    Of serving's `confidence` policy it lacks the probes and the calibration that goes on learning: a point of a sweep
    must mean the same from its first round to its last. A value of 0 verifies everything.
    """

    name = "threshold"

    def __init__(self, value: float, calibration: Calibration) -> None:
        self._rule, self._calibration = Threshold(value), calibration

    def plan(self, view: StepView) -> Plan:
        """Ask for all drafts that there is room for."""
        return replace(draft_all(view, self._rule), calibration=self._calibration)

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing."""
