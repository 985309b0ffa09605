"""What all sequences together have taught about acceptance: how long drafts live, and how far confidence is to trust.

Everything here comes from finished steps and fades, so that what was learnt long ago is tried anew.
"""

import numpy as np
from numpy.typing import NDArray

from core.planning import F32, I32, StepOutcome

F64 = NDArray[np.float64]

# Per step: half of the confidences' record is forgotten in 70 steps, half of what newcomers may expect in 230.
KEPT = 0.99
KEPT_PRIOR = 0.997
# An unknown drafter is taken to be good until rounds have shown otherwise: a draft that is not tried teaches nothing.
OPTIMISM = 0.9
OPTIMISM_ROUNDS = 4.0
TRUST_DRAFTS = 8.0


class AcceptanceRecord:
    """Running counts over draft positions, for G drafts.

    hazard  [G] chance that a draft is accepted whose predecessors were, knowing its position alone
    prior   [G] the same of surviving: the running product
    scale   [G] observed acceptance over predicted survival; 1 where the confidences are calibrated
    """

    def __init__(self, width: int) -> None:
        self._trials, self._hits = np.zeros(width), np.zeros(width)
        self._predicted, self._observed = np.zeros(width), np.zeros(width)
        self.hazard = np.full(width, OPTIMISM)
        self.prior, self.scale = np.cumprod(self.hazard), np.ones(width)

    def count(self, outcomes: list[StepOutcome], num_steps: int) -> None:
        """Learn how often a draft was accepted given that all before it were, from what num_steps steps have shown."""
        width = len(self._trials)
        accepted = np.concatenate([outcome.accepted for outcome in outcomes])
        is_full = accepted == np.concatenate([outcome.verified for outcome in outcomes])
        full = np.bincount(accepted[is_full], minlength=width + 1)
        reached = np.bincount(accepted, minlength=width + 1)[::-1].cumsum()[::-1]
        self._trials *= KEPT_PRIOR**num_steps
        self._hits *= KEPT_PRIOR**num_steps
        # Reached place j, and place j was verified.
        self._trials += reached[:width] - full[:width]
        self._hits += reached[1 : width + 1]
        self.hazard = (self._hits + OPTIMISM_ROUNDS * OPTIMISM) / (self._trials + OPTIMISM_ROUNDS)
        self.prior = np.cumprod(self.hazard, dtype=np.float64)

    def compare(self, predicted: F32, verified: I32, accepted: I32) -> tuple[F64, F64]:
        """Learn from drafts verified [b] and accepted [b] of rounds whose survival [b, G] was predicted.

        Returns what was predicted and what observed per round: expected and real accepted drafts, [b] each.
        """
        places = np.arange(predicted.shape[1])
        expected = np.where(places < verified[:, None], predicted, 0.0)
        self._predicted = KEPT * self._predicted + expected.sum(0)
        self._observed = KEPT * self._observed + (places < accepted[:, None]).sum(0)
        self.scale = (self._observed + TRUST_DRAFTS) / (self._predicted + TRUST_DRAFTS)
        return expected @ self.scale, accepted.astype(np.float64)
