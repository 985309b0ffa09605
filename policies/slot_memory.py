"""What a policy remembers of the sequence in each slot, and how it notices that another one has moved in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.planning import I32, BoolArray, StepView

F64 = NDArray[np.float64]
Records = NDArray[np.void]

# Least weight of the newest survival in a sequence's average: a hard stretch shows in ten steps, one draft does not.
PACE = 0.1
# Rounds that the prior weighs as much as: who begins with a bad draft would else be off for most of its answer.
PRIOR_ROUNDS = 4.0
# Tokens that a sequence's drafts may lose in a row before it stops, and the least that an idle step counts for.
PATIENCE = 3.0
LEAST_LOSS = 0.05
# How many accepted drafts the drafter's own word is worth, and how long a sequence's own record lasts.
TRUST_DRAFTS = 4.0
KEPT = 0.95
# Context of a slot in which nobody was.
NOBODY = np.iinfo(np.int64).max


class SlotMemory:
    """One record per slot, for G drafts; grows with the slots it meets.

    A plan works on the records of its sequences, a copy that `meet` returns and `keep` writes back:
    survival     [G] average of what the sequence's drafts were expected to survive
    num_shown    drafts that the average is made of, 0 for the prior alone
    is_on        the sequence drafts, or is being caught up so that it can
    is_probing   it is on for one draft only
    is_tried     it is on until its drafts have shown whether those of all would pay
    doubt        tokens lost by drafting since it was last worth it
    steps_off    steps since it stopped; `wait` is how many of them there are before the next probe
    was_asked    it was asked to draft in the step before
    is_new       another sequence was in the slot in the step before, or none
    """

    def __init__(self, width: int, probe_after: int) -> None:
        self.width, self._probe_after = width, probe_after
        flags = ("is_on", "is_probing", "is_tried", "was_asked", "has_shown", "has_room", "is_capped", "is_new")
        fields: list[Any] = [
            ("survival", np.float64, (width,)),
            *((name, np.int64) for name in ("context", "num_sampled", "num_shown", "steps_off", "wait")),
            *((name, np.float64) for name in ("predicted", "observed", "doubt")),
            *((name, np.bool_) for name in flags),
        ]
        self._records = np.zeros(0, dtype=fields)

    def meet(self, view: StepView, prior: F64, num_steps: int) -> Records:
        """Return the records [B] of a view's sequences, num_steps after the last time.

        A sequence that cannot be the one that was in its slot starts from `prior` [G].
        """
        needed = int(view.slots.max()) + 1
        if needed > len(self._records):
            grown = np.zeros(needed, dtype=self._records.dtype)
            grown["context"] = NOBODY
            grown[: len(self._records)] = self._records
            self._records = grown
        records = self._records[view.slots]
        shows = view.survival_lag[:, 0] == view.survival_lag[:, 0]
        # Past its prompt a sequence samples in every step and grows by its drafts and one; what it showed stays.
        step = view.context_len - records["context"]
        is_new = (step < 0) | (records["has_shown"] & ~shows)
        is_new |= (records["num_sampled"] > 1) & ((step > num_steps * (self.width + 1)) | ~view.samples)
        if is_new.any():
            records[is_new] = self._blank(prior)
        records["is_new"] = is_new
        records["context"] = view.context_len
        records["has_shown"] = shows
        records["num_sampled"] += view.samples
        records["has_room"] |= view.gamma_max > 0
        return records

    def keep(self, slots: I32, records: Records) -> None:
        """Write back what a plan has changed."""
        self._records[slots] = records

    def forget(self, slots: I32) -> None:
        """Note that other sequences have moved into these slots since the last plan."""
        self._records["context"][slots] = NOBODY

    def pause(self, slots: I32) -> BoolArray:
        """Return who is on, bool [B], and note that nobody was asked to draft."""
        known = slots[slots < len(self._records)]
        self._records["was_asked"][known] = False
        return np.append(self._records["is_on"], False)[np.minimum(slots, len(self._records))]

    def expected(self, slots: I32, prior: F64) -> F64:
        """Return the survivals [B, G] that sequences are expected to have, `prior` [G] where nobody knows."""
        rows = np.vstack((self._records["survival"], prior))
        return rows[np.minimum(slots, len(self._records))]

    def _blank(self, prior: F64) -> Records:
        blank = np.zeros((), dtype=self._records.dtype)
        blank["survival"] = prior
        blank["wait"] = self._probe_after
        return blank


def room(records: Records, view: StepView, width: int) -> I32:
    """Return the drafts [B] that each sequence can have now, or could have once it is prefilled and caught up.

    One that samples with an up-to-date drafter and has never had room must not draft at all.
    """
    at_start = records["num_sampled"] < 2
    records["is_capped"] |= (view.stale_rows == 0) & ~at_start
    records["is_capped"] &= ~records["has_room"]
    waits = (view.gamma_max == 0) & ((view.stale_rows > 0) | at_start) & ~records["is_capped"]
    return np.where(waits, np.int32(width), view.gamma_max)


def trust(records: Records, predicted: F64, observed: F64, index: NDArray[np.int64]) -> None:
    """Note how many drafts were expected to be accepted and how many were, [b] each, for the records at `index`."""
    records["predicted"][index] = KEPT * records["predicted"][index] + predicted
    records["observed"][index] = KEPT * records["observed"][index] + observed


def take_in(records: Records, view: StepView, scale: F64, num_steps: int) -> F64:
    """Move the averages towards the newest survivals, scaled by [G]; returns by how much those depart from them.

    The newest stand for those of all num_steps since the last time.
    """
    fresh = records["was_asked"] & records["has_shown"]
    records["is_probing"] &= ~fresh
    records["num_shown"] += fresh
    # One survival for several steps tells more than one of a single step and less than all of them would.
    # On trial it is what is shown that counts, whatever was expected.
    prior_rounds = np.where(records["is_tried"], 0.0, PRIOR_ROUNDS)
    weight = fresh * np.maximum(PACE * num_steps**0.5, 1.0 / np.maximum(records["num_shown"] + prior_rounds, 1.0))
    own_scale = (records["observed"] + TRUST_DRAFTS) / (records["predicted"] + TRUST_DRAFTS)
    surprise = view.survival_lag * (scale * own_scale[:, None])
    np.minimum(surprise, 1.0, out=surprise)
    surprise -= records["survival"]
    surprise[np.isnan(surprise)] = 0.0
    records["survival"] += weight[:, None] * surprise
    surprise *= (fresh * (1.0 - weight))[:, None]
    return surprise


def decide(records: Records, is_worth: BoolArray, gain: F64, num_steps: NDArray[np.int64]) -> None:
    """Turn sequences [B] on that are worth it, and off when they have lost PATIENCE tokens since they last were.

    gain, in tokens, is what drafting would win or lose in the num_steps since the last decision; num_steps is 0 for
    those about whom there was nothing to decide, and they stay as they are.
    """
    records["doubt"] = np.where(is_worth, 0.0, records["doubt"] + np.maximum(LEAST_LOSS * num_steps, -gain))
    stays = (records["doubt"] < PATIENCE) & (records["num_shown"] > 0)
    stays |= records["is_probing"] | records["is_tried"] | (num_steps == 0)
    records["is_on"] = (is_worth | (records["is_on"] & stays)) & ~records["is_capped"]
    records["is_tried"] &= records["is_on"]
    records["steps_off"] = np.where(records["is_on"], 0, records["steps_off"] + num_steps)


def start_probe(records: Records, is_due: BoolArray) -> None:
    """Turn sequences on for one draft, which will weigh like a first one; the next probe waits twice as long."""
    records["is_on"] |= is_due
    records["is_probing"] |= is_due
    records["doubt"][is_due] = PATIENCE
    records["wait"][is_due] *= 2
    records["num_shown"][is_due] = 0
