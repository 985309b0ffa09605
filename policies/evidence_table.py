"""What drafts with such and such evidence came to: counts by position and evidence, that fade.

Two tables of the same counts, one that forgets fast and one that forgets slowly. They hold hazards: only drafts of the
risk set (policies/calibration_fit.py) are counted.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from core.planning import Calibration
from policies.calibration_fit import newton, shift, sigmoid

F64 = NDArray[np.float64]

# Evidence is a logit: bins of half a unit, the outermost for all that lies beyond.
LOWEST, BIN_WIDTH, NUM_BINS = -8.0, 0.5, 32
# Rounds after which a count weighs half: intercepts follow the traffic, slopes belong to the model.
FAST_HALF_LIFE, SLOW_HALF_LIFE = 4_000.0, 40_000.0
# Rounds that the slow counts weigh as much as where fast ones are shrunk to them; spread over evidence as it comes.
PRIOR_ROUNDS = 64.0
PRIOR_EVIDENCE = np.linspace(-4.0, 4.0, 9)
# The iterations start at what was published last, which is near.
STEPS = 5


class Judged(Struct, frozen=True):
    """Drafts of the risk set: position, evidence, what they came to in 0..1 and how many each stands for, [M] each."""

    position: NDArray[np.int64]
    evidence: F64
    label: F64
    weight: F64


class EvidenceTable:
    """Fading counts [2, G, bins], fast and slow; mutated by `count` and `forget` only."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._weight, self._hits, self._sum = (np.zeros((2, width, NUM_BINS)) for _ in range(3))

    def count(self, judged: Judged, num_rounds: int, haste: float) -> None:
        """Add judged drafts of so many rounds; with a haste of 4 all counts fade four times as fast."""
        lives = np.array((FAST_HALF_LIFE, SLOW_HALF_LIFE))
        kept = (0.5 ** (haste * num_rounds / lives))[:, None, None]
        place = np.clip((judged.evidence - LOWEST) / BIN_WIDTH, 0, NUM_BINS - 1).astype(np.int64)
        cell = judged.position * NUM_BINS + place
        for table, values in (
            (self._weight, judged.weight),
            (self._hits, judged.weight * judged.label),
            (self._sum, judged.weight * judged.evidence),
        ):
            table *= kept
            table += np.bincount(cell, values, self.width * NUM_BINS).reshape(self.width, NUM_BINS)

    def forget(self, share: float) -> None:
        """Let the fast counts weigh so much less at once."""
        for table in (self._weight, self._hits, self._sum):
            table[0] *= 1.0 - share

    def fit(self, prior: Calibration, prior_rounds: float) -> Calibration:
        """Return slopes of the slow counts with intercepts of the fast ones.

        Slow counts are shrunk to `prior`, which weighs as much as prior_rounds; fast ones to what the slow ones say.
        """
        slow = newton(*self._cells(1, prior, prior_rounds), prior, STEPS)
        slope, intercept = np.array(slow.slope), np.array(slow.intercept)
        moved = shift(*self._cells(0, slow, min(prior_rounds, PRIOR_ROUNDS)), slope, intercept, STEPS)
        return Calibration(slow.slope, tuple(moved.tolist()))

    def history(self, prior: Calibration) -> Calibration:
        """Return how often drafts are accepted by their position alone, whatever their evidence: slopes of 0."""
        _, weight, hits = self._cells(0, prior, PRIOR_ROUNDS)
        chance = np.clip(hits.sum(1) / weight.sum(1), 1e-3, 1.0 - 1e-3)
        return Calibration((0.0,) * self.width, tuple(np.log(chance / (1.0 - chance)).tolist()))

    def _cells(self, speed: int, prior: Calibration, prior_rounds: float) -> tuple[F64, F64, F64]:
        """Return evidence, weight and hits [G, cells] of one table, with the prior's as if they had been counted."""
        weight, hits = self._weight[speed], self._hits[speed]
        mean = np.divide(self._sum[speed], weight, out=np.zeros_like(weight), where=weight > 0)
        assumed = np.broadcast_to(PRIOR_EVIDENCE, (self.width, len(PRIOR_EVIDENCE)))
        belief = np.full_like(assumed, prior_rounds / len(PRIOR_EVIDENCE))
        chance = sigmoid(assumed * np.array(prior.slope)[:, None] + np.array(prior.intercept)[:, None])
        return (
            np.concatenate((mean, assumed), 1),
            np.concatenate((weight, belief), 1),
            np.concatenate((hits, belief * chance), 1),
        )
