"""Trials: where nobody drafts, now and then a sequence that has shown nothing yet drafts all the same.

What newcomers may expect is what drafts have come to, and an untried draft teaches nothing: traffic may have changed
since. Trials cost a small share of the time in which nobody drafts. One sequence is hardly ever worth what it takes to
run a drafter, so the question to a trial is whether it would pay if the drafts of all were like those that it showed.
"""

import numpy as np

from core.cost import StepPrices
from core.planning import BoolArray
from policies.search import F64
from policies.slot_memory import PATIENCE, Records

# Share of that time which trials may lose.
SHARE = 0.005
# Steps of drafting that one takes where its first drafts are poor, those that are on their way counted.
LEAST_STEPS = 4
# Drafts after which a trial may have failed, and after which it has succeeded.
FEW_DRAFTS, ENOUGH_DRAFTS = 2, 4


class Trials:
    """When to try again; knows how many steps nobody has drafted in since the last trial."""

    def __init__(self) -> None:
        self._num_idle = 0
        self._idle_since: int | None = None

    def see(self, step: int, *, is_idle: bool) -> None:
        """Take note that from this step on nobody drafts, or somebody does."""
        if self._idle_since is not None:
            self._num_idle += step - self._idle_since
        self._idle_since = step if is_idle else None

    @property
    def is_idle(self) -> bool:
        """Whether nobody drafted when last seen."""
        return self._idle_since is not None

    def wait(self) -> None:
        """Begin the wait anew: a trial has begun, or was looked into."""
        self._num_idle, self._idle_since = 0, None

    def are_due(self, step: int, prices: StepPrices, num_sequences: int, width: int) -> bool:
        """Tell whether a newcomer may be tried, who loses least as its drafter has nothing to catch up with."""
        return self.loss_s(prices, num_sequences, width) <= self._allowed_s(step, prices, num_sequences)

    def choose(
        self, step: int, prices: StepPrices, num_sequences: int, records: Records, may_try: BoolArray, catch_up_s: F64
    ) -> int | None:
        """Return the place of the sequence to try, if one may be: the one that would lose least.

        may_try [B] marks those that could draft, catch_up_s [B] is what that takes first.
        """
        width = records["survival"].shape[1]
        is_untried = may_try & (records["num_shown"] == 0) & ~records["is_on"]
        loss_s = np.where(is_untried, catch_up_s, np.inf) + self.loss_s(prices, num_sequences, width)
        best = int(loss_s.argmin())
        return best if loss_s[best] <= self._allowed_s(step, prices, num_sequences) else None

    def loss_s(self, prices: StepPrices, num_sequences: int, width: int) -> float:
        """Return the seconds that a trial loses if its drafts are poor, once the drafter has caught up."""
        drafts_s = float(prices.verification_curve(num_sequences, width)[width])
        return LEAST_STEPS * (float(prices.speculation_s([1])[0]) + drafts_s)

    def _allowed_s(self, step: int, prices: StepPrices, num_sequences: int) -> float:
        num_idle = self._num_idle + (0 if self._idle_since is None else step - self._idle_since)
        return SHARE * prices.plain_s(num_sequences) * num_idle


def start_trial(records: Records, place: int) -> None:
    """Turn a sequence on that has shown nothing, until its drafts have shown what those of others may be worth."""
    records["is_on"][place] = records["is_tried"][place] = True


def end_trial(records: Records) -> None:
    """Let who was on trial be judged like all others: it stops unless it is worth drafting for."""
    records["doubt"][records["is_tried"]] = PATIENCE
    records["is_tried"] = False
