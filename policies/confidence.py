"""Static confidence threshold: verify a draft while it is likely enough to survive (paper section 5.1, figure 5)."""

from core.planning import Plan, StepOutcome, StepView, Threshold
from policies.base import draft_all
from policies.probes import Probes


class Confidence:
    """Cut each sequence's drafts where confidence first falls below `threshold`.

    cumulative compares the survival of the whole prefix; otherwise the draft's own conditional acceptance, which is
    DeepSpec's evaluator's rule.
    """

    name = "confidence"

    def __init__(self, threshold: float, *, cumulative: bool = True) -> None:
        self.rule = Threshold(threshold, cumulative)
        self._probes = Probes()

    def plan(self, view: StepView) -> Plan:
        """Draft everywhere, admit by the threshold; a few are verified in full, so that calibration can be judged."""
        return self._probes.add(draft_all(view, self.rule))

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing: the threshold is the operator's."""
