"""Whether speculation pays: seconds that plain steps would have taken for the tokens of the steps that were run.

By the cost table, a plain step of n sequences gives n tokens in plain_s(n). A step that gave m tokens therefore stands
for m / n plain steps, and for the prefill rows that it carried. The ratio of those seconds to its own is the tokens per
second now over the tokens per second without speculation, at this load: above 1 it pays.
"""

from dataclasses import dataclass

from core.cost import CostTable
from core.planning import StepOutcome, StepView
from engine.looks import is_looked_at

# Share that what is known keeps with every look: half of it is gone after 69 looks.
KEPT = 0.99


@dataclass(slots=True)
class Benefit:
    """What one group's steps came to; mutated by the step only.

    plain_s   seconds that plain steps would have taken for the same tokens, by the cost table
    spent_s   seconds that the steps took
    """

    plain_s: float = 0.0
    spent_s: float = 0.0
    _recent_plain_s: float = 0.0
    _recent_spent_s: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Tokens per second of the last few hundred steps over those of plain steps; None before the first look."""
        return self._recent_plain_s / self._recent_spent_s if self._recent_spent_s > 0 else None

    def observe(self, view: StepView, outcome: StepOutcome) -> None:
        """Look at a finished step that the group had to itself; without a cost table nothing can be said."""
        if view.cost is not None and len(outcome.slots) and is_looked_at(outcome.step):
            self.count(plain_seconds(view, outcome, view.cost), outcome.step_s)

    def count(self, plain_s: float, spent_s: float) -> None:
        """Count one step."""
        self.plain_s += plain_s
        self.spent_s += spent_s
        self._recent_plain_s = KEPT * self._recent_plain_s + plain_s
        self._recent_spent_s = KEPT * self._recent_spent_s + spent_s


def plain_seconds(view: StepView, outcome: StepOutcome, table: CostTable) -> float:
    """Return what plain steps would have taken for the tokens of a step, the prefill that it carried included."""
    num_sequences = len(outcome.slots)
    num_tokens = int(outcome.accepted.sum()) + num_sequences
    prices = table.at(float(view.context_len.mean()))
    step_s = prices.plain_s(num_sequences)
    return num_tokens / num_sequences * step_s + outcome.prefill_rows * prices.prefill_row_s
