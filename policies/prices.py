"""What the step at hand costs: the cost table at its context, and its seconds before anything is drafted."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from core.cost import CostTable, StepPrices
from core.planning import BoolArray, StepView

F64 = NDArray[np.float64]

# Tokens of context over which prices are taken to be the same.
CONTEXT_STEP = 64


class Step(Struct, frozen=True):
    """A step without speculation: who gets a token in it, its seconds, and what more would cost.

    num_sequences  all sequences that sample, also those of other groups
    other_rows     prefill, catch-up and what other groups have planned
    """

    prices: StepPrices
    num_sequences: int
    base_s: float
    other_rows: int = 0

    def drafts_s(self, most: int) -> F64:
        """Return what verifying 0..most drafts adds, f64 [most + 1]."""
        return self.prices.verification_curve(self.num_sequences, most, self.other_rows)

    def smooth_s(self, num_drafting: int, most: int) -> F64:
        """Return the seconds of the step with 0..most drafts verified, drafting included, without any stairs."""
        others_s = self.prices.prefill_row_s * self.other_rows if self.prices.is_padded else 0.0
        paid_s = self.base_s + others_s + float(self.prices.speculation_curve(num_drafting)[-1])
        return paid_s + self.prices.smooth_verification_curve(self.num_sequences, most)

    def tops(self, most: int) -> tuple[int, ...]:
        """Return the numbers of drafts, 0..most, that fill the step's row shape; none where steps are not padded."""
        return self.prices.tops(self.num_sequences + self.other_rows, most)


class PriceList:
    """A cost table's prices, looked up anew only where the context has changed much, or the table."""

    def __init__(self) -> None:
        self._looked_up: tuple[CostTable, int, StepPrices] | None = None

    def at(self, cost: CostTable, view: StepView) -> StepPrices:
        """Return the prices at the view's mean context."""
        context = (int(view.context_len.sum()) // len(view.slots) // CONTEXT_STEP) * CONTEXT_STEP + CONTEXT_STEP // 2
        if self._looked_up is None or self._looked_up[0] is not cost or self._looked_up[1] != context:
            self._looked_up = (cost, context, cost.at(context))
        return self._looked_up[2]


def price(prices: StepPrices, view: StepView, follow: BoolArray | None = None) -> Step:
    """Return the view's step without speculation, but with the catch-up of those that are followed.

    Catch-up is part of other_rows only: its seconds are known when it is done (`StepOutcome.catch_up_rows`).
    """
    num_sequences = int(np.count_nonzero(view.samples)) + view.extra_sequences
    other_rows = view.extra_rows - view.extra_sequences
    base_s = prices.plain_s(num_sequences)
    if not prices.is_padded:
        base_s += prices.prefill_row_s * other_rows
    elif follow is not None:
        other_rows += int(view.stale_rows[follow].sum())
    return Step(prices, num_sequences, base_s, other_rows)
