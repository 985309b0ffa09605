"""Who should draft, and how many drafts to verify: the plan of most expected tokens per second.

Tokens and seconds are those of one whole step. Every sequence brings one token; a draft that is verified brings as
many more as its chance to survive. docs/writing-a-policy.md tells the story around it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.cost import StepPrices
from core.planning import BoolArray
from policies.prices import Step

F64 = NDArray[np.float64]


class Budget(NamedTuple):
    """Drafts to verify in all, and what is expected of such a step."""

    drafts: int
    step_s: float
    tokens: float


# Plans are compared for this many sequences times bars, or for so many bars if there are more sequences.
PLANS, LEAST_BARS = 512, 8
# What is verified beyond the best plan may bring tokens this much slower than the plan as a whole: uneven rows save
# less than the table says, and an estimate that errs towards off is never put right: an untried draft teaches nothing.
GENEROSITY = 0.12


def choose_drafting(
    prices: StepPrices, num_sequences: int, base_s: float, survival: F64, charge_s: F64
) -> tuple[BoolArray, F64]:
    """Return which sequences [B] are worth drafting for, and the tokens per step [B] that drafting gains for each.

    num_sequences  everybody who samples in the step; they get a token each
    base_s         seconds of the step without any speculation
    survival       [B, G] expected survivals, 0 where there is no room
    charge_s       [B] seconds that a sequence must earn beyond what its drafting costs
    A draft is verified if its survival reaches a bar. For every bar the sequences are ranked by what they would gain;
    then all prefixes of all rankings are compared, of which the empty one is plain decoding. The bars are survivals at
    hand: all of them if there are few sequences, so that no number of drafts is left out.
    """
    size = len(survival)
    values = np.sort(survival, axis=None)
    num_bars = min(len(values), max(LEAST_BARS, PLANS // size))
    bars = np.maximum(values[np.linspace(0, len(values) - 1, num_bars).astype(np.int64)], np.finfo(np.float64).tiny)
    passes = (survival >= bars[:, None, None]).astype(np.float64)
    ones = np.ones(survival.shape[1])
    num_drafts = (passes @ ones).astype(np.int64)
    tokens = (passes * survival) @ ones
    speculation_s = prices.speculation_curve(size)
    drafts_s = prices.verification_curve(num_sequences, survival.size)
    # The rate that a draft row must beat: that of plain decoding, or of all sequences drafting.
    all_drafts = num_drafts.sum(1)
    all_s = base_s + speculation_s[size] + charge_s.sum() + drafts_s[all_drafts]
    rate = max(num_sequences / base_s, float(((num_sequences + tokens.sum(1)) / all_s).max()))
    # What a row costs depends on how many there are in the end: rank by the dearest and by the cheapest they may be.
    some = drafts_s[1:] / np.arange(1, len(drafts_s))
    row_s = np.array((some.max(), some.min()))[:, None, None]
    gain = tokens - rate * (num_drafts * row_s + charge_s)
    # Who has no draft above the bar comes last: it would be drafted for in vain.
    order = np.argsort(np.where(num_drafts > 0, -gain, np.inf).reshape(-1, size), axis=1, kind="stable")
    bar_of = (np.arange(len(order)) % num_bars)[:, None]
    ranked = [each[bar_of, order].cumsum(1) for each in (tokens, num_drafts)]
    step_s = base_s + speculation_s[1:] + charge_s[order].cumsum(1) + drafts_s[ranked[1]]
    rates = (num_sequences + ranked[0]) / step_s
    surplus = num_sequences + ranked[0] - (1.0 - GENEROSITY) * rates.max() * step_s
    bar, count = divmod(int(surplus.argmax()), size)
    chosen = np.zeros(size, dtype=np.bool_)
    planned = survival.size
    if rates[bar, count] > num_sequences / base_s:
        chosen[order[bar, : count + 1]] = True
        planned = max(1, int(ranked[1][bar, count]))
    # At the row price of the plan, less an even share of what drafting costs; in tokens that the time would have given.
    gain = tokens - rate * (num_drafts * some[planned - 1] + charge_s)
    return chosen, gain.max(axis=0) - rate * speculation_s[size] / size


class Ranking:
    """Expected survivals of those who draft, the greatest first: what every number of verified drafts brings.

    survival  [n, G], 0 where there is no room
    """

    def __init__(self, survival: F64) -> None:
        self.num_drafting = len(survival)
        self._tokens = np.zeros(survival.size + 1)
        np.cumsum(np.sort(survival, axis=None)[::-1], out=self._tokens[1:])

    def choose(self, step: Step) -> Budget:
        """Return how many drafts to verify in all, in a step of the same who draft.

        Drafting is paid for already, so its seconds count whether or not anything is verified.
        """
        tokens = self._tokens + step.num_sequences
        paid_s = step.base_s + float(step.prices.speculation_curve(self.num_drafting)[-1])
        seconds = paid_s + step.drafts_s(len(tokens) - 1)
        rate = float((tokens / seconds).max())
        budget = int((tokens - (1.0 - GENEROSITY) * rate * seconds).argmax())
        return Budget(budget, float(seconds[budget]), float(tokens[budget]))
