"""How drafts fared, counted by sequence and position: survivals for drafters that say nothing of their own."""

import numpy as np

from core.planning import F32, I32, StepOutcome, StepView
from policies.acceptance import AcceptanceRecord

# Rounds of its own after which a sequence's record weighs as much as that of all others.
SHRINKAGE_ROUNDS = 8.0


class AcceptanceHistory:
    """Hazards per slot, shrunk to those of all sequences; both fade.

    width      G
    half_life  rounds after which what a sequence has shown counts half
    A position's hazard is (hits + w h) / (trials + w) with h the pooled hazard and w rounds of prior: the mean of a
    Beta posterior. Survivals are their running products (the Kaplan-Meier form), so what was cut off biases nothing.
    """

    def __init__(self, width: int, half_life: float) -> None:
        self.width, self._kept = width, 0.5 ** (1.0 / half_life)
        self._pooled = AcceptanceRecord(width)
        self._trials, self._hits = np.zeros((0, width)), np.zeros((0, width))
        self._survival = np.zeros((0, width), dtype=np.float32)

    def meet(self, view: StepView) -> I32:
        """Forget who was before in the slots of sequences that have not drafted yet; returns those slots."""
        needed = int(view.slots.max()) + 1 - len(self._trials)
        if needed > 0:
            self._trials, self._hits = (np.pad(each, ((0, needed), (0, 0))) for each in (self._trials, self._hits))
            self._survival = np.pad(self._survival, ((0, needed), (0, 0)), constant_values=np.nan)
        shown = view.survival_lag[:, 0]
        slots = view.slots[shown != shown]
        if len(slots):
            self._trials[slots], self._hits[slots], self._survival[slots] = 0.0, 0.0, np.nan
        return slots

    def survival(self, slots: I32) -> F32:
        """Return the survivals [B, G] of sequences that have been met, nan for those that have not drafted yet."""
        return self._survival[slots]

    @property
    def prior(self) -> F32:
        """What a sequence may expect that has shown nothing, f32 [G]."""
        return self._pooled.prior.astype(np.float32)

    def count(self, outcome: StepOutcome) -> None:
        """Learn which drafts were reached by verification, and which of them were accepted."""
        judged = outcome.verified > 0
        if not judged.any():
            return
        self._pooled.count([outcome])
        slots, verified, accepted = outcome.slots[judged], outcome.verified[judged], outcome.accepted[judged]
        known = slots < len(self._trials)
        self._count_slots(slots[known], verified[known], accepted[known])

    def _count_slots(self, slots: I32, verified: I32, accepted: I32) -> None:
        places = np.arange(self.width)
        reached = places < np.minimum(accepted + 1, verified)[:, None]
        trials = self._kept * self._trials[slots] + reached
        hits = self._kept * self._hits[slots] + (places < accepted[:, None])
        self._trials[slots], self._hits[slots] = trials, hits
        pooled = self._pooled.hazard
        hazard = (hits + SHRINKAGE_ROUNDS * pooled) / (trials + SHRINKAGE_ROUNDS)
        self._survival[slots] = np.cumprod(hazard, axis=1)
