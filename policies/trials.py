"""Trials: where nobody drafts, now and then a sequence that has shown nothing yet drafts all the same.

What newcomers may expect is what drafts have come to, and an untried draft teaches nothing: traffic may have changed
since. Trials cost a small share of the time in which nobody drafts, and each lets the record be doubted.
"""

import numpy as np

from core.cost import StepPrices
from core.planning import BoolArray
from policies.search import F64
from policies.slot_memory import PATIENCE, Records

# Share of that time which trials may lose.
SHARE = 0.0025
# Steps of drafting that one takes at least, before its first drafts are looked at.
LEAST_STEPS = 3


class Trials:
    """When to try again; knows since which step nobody has drafted, nor was tried."""

    def __init__(self) -> None:
        self._since: int | None = None

    def wait_from(self, step: int) -> None:
        """Begin the wait anew: somebody drafts, and tells what drafts come to, or a trial was looked into."""
        self._since = step

    def are_due(self, step: int, prices: StepPrices, num_sequences: int) -> bool:
        """Tell whether a newcomer may be tried, who loses least as its drafter has nothing to catch up with."""
        return self.loss_s(prices, num_sequences) <= self._allowed_s(step, prices, num_sequences)

    def choose(
        self, step: int, prices: StepPrices, num_sequences: int, records: Records, may_try: BoolArray, catch_up_s: F64
    ) -> int | None:
        """Return the place of the sequence to try, if one may be: the one that would lose least.

        may_try [B] marks those that could draft, catch_up_s [B] is what that takes first.
        """
        is_untried = may_try & (records["num_shown"] == 0) & ~records["is_on"]
        loss_s = np.where(is_untried, catch_up_s, np.inf) + self.loss_s(prices, num_sequences)
        best = int(loss_s.argmin())
        return best if loss_s[best] <= self._allowed_s(step, prices, num_sequences) else None

    def loss_s(self, prices: StepPrices, num_sequences: int) -> float:
        """Return the seconds that a trial loses if its drafts are poor, once the drafter has caught up."""
        share_s = prices.plain_s(num_sequences) / num_sequences
        return max(PATIENCE * share_s, LEAST_STEPS * float(prices.speculation_s([1])[0]))

    def _allowed_s(self, step: int, prices: StepPrices, num_sequences: int) -> float:
        if self._since is None:
            self._since = step
        return SHARE * prices.plain_s(num_sequences) * (step - self._since)
