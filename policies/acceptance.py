"""What all sequences together have taught about acceptance: how long drafts live, and how far confidence is to trust.

Everything here comes from finished steps, and fades as more of them verify drafts.
"""

import numpy as np
from numpy.typing import NDArray

from core.planning import F32, I32, StepOutcome

F64 = NDArray[np.float64]

# Per step that verifies: half of the confidences' record is forgotten in 70, half of what newcomers may expect in 230.
KEPT = 0.99
KEPT_PRIOR = 0.997
# An unknown drafter is taken to be good until rounds have shown otherwise: a draft that is not tried teaches nothing.
OPTIMISM = 0.9
OPTIMISM_ROUNDS = 4.0
TRUST_DRAFTS = 8.0
# Rounds of before a pause, in which traffic may have changed: a few sequences show as many in ten steps.
DOUBTED_ROUNDS = 32.0


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

    def count(self, outcomes: list[StepOutcome]) -> None:
        """Learn how often a draft was accepted given that all before it were."""
        width = len(self._trials)
        accepted = np.concatenate([outcome.accepted for outcome in outcomes])
        is_full = accepted == np.concatenate([outcome.verified for outcome in outcomes])
        full = np.bincount(accepted[is_full], minlength=width + 1)
        reached = np.bincount(accepted, minlength=width + 1)[::-1].cumsum()[::-1]
        # Where nothing is verified nothing is forgotten: else the optimism of the beginning would come back.
        kept = KEPT_PRIOR ** sum(bool(outcome.verified.any()) for outcome in outcomes)
        self._trials *= kept
        self._hits *= kept
        # Reached place j, and place j was verified.
        self._trials += reached[:width] - full[:width]
        self._hits += reached[1 : width + 1]
        self._set_hazard()

    def doubt(self) -> None:
        """Let what was counted weigh no more than DOUBTED_ROUNDS, so that as many can change it."""
        kept = min(1.0, DOUBTED_ROUNDS / max(self._trials.max(initial=0.0), 1.0))
        self._trials *= kept
        self._hits *= kept
        self._set_hazard()

    def begin_anew(self, survival: F64, num_rounds: int) -> None:
        """Forget what was counted, and take so many rounds whose drafts survived like this [G] in its place."""
        np.multiply(num_rounds, np.append(1.0, survival[:-1]), out=self._trials)
        np.multiply(num_rounds, survival, out=self._hits)
        self._set_hazard()

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

    def _set_hazard(self) -> None:
        self.hazard = (self._hits + OPTIMISM_ROUNDS * OPTIMISM) / (self._trials + OPTIMISM_ROUNDS)
        self.prior = np.cumprod(self.hazard, dtype=np.float64)
