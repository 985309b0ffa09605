"""What a drafter's confidence is worth: calibration error, ranking and squared error on rounds verified in full.

The survival of the first k drafts, prod c_i, is held against whether all k were kept. Two calibrations are judged:
evidence as it comes, and by the map that lies beside the checkpoint.
"""

import math

import numpy as np
from msgspec import Struct

from core.planning import Calibration
from core.reliability import measure, plain_error
from policies.calibration_fit import hazards, survivals
from training.evaluation.counted_rounds import CountedRounds


class Place(Struct, frozen=True):
    """What the predictions of one position were worth (core/reliability.py); auc None if only one kind was seen."""

    error: float
    auc: float | None
    brier: float
    predicted: float
    observed: float
    count: int


class Judged(Struct, frozen=True):
    """One calibration.

    survival, conditional   by position, None where no draft was judged; conditional is of drafts whose predecessors
                            were all kept
    error, auc, brier       means over positions, weighted by how many were judged
    plain_error             calibration error as DeepSpec's evaluator prints it: 20 bins of equal width, not debiased
    length_ratio            accepted length that was predicted over that observed
    """

    survival: tuple[Place | None, ...]
    conditional: tuple[Place | None, ...]
    error: float
    auc: float | None
    brier: float
    plain_error: float
    length_ratio: float


def judge_confidence(rounds: CountedRounds, calibration: Calibration) -> Judged | None:
    """Judge predictions of rounds in which all drafts were verified; None if no draft was judged."""
    width = rounds.width
    places = np.arange(1, width + 1)
    judged, kept = rounds.judged[:, None] >= places, rounds.accepted[:, None] >= places
    if not judged.any():
        return None
    reached = judged & (rounds.accepted[:, None] >= places - 1)
    predicted, hazard = survivals(rounds.evidence, calibration), hazards(rounds.evidence, calibration)
    survival = tuple(_measure(predicted[:, k], kept[:, k], judged[:, k]) for k in range(width))
    conditional = tuple(_measure(hazard[:, k], kept[:, k], reached[:, k]) for k in range(width))
    plain = [plain_error(predicted[judged[:, k], k], kept[judged[:, k], k]) for k in range(width) if judged[:, k].any()]
    found = [each for each in survival if each]
    expected = 1.0 + np.where(judged, predicted, 0.0).sum(1)
    weight = np.array([each.count for each in found], dtype=np.float64)
    # A position at which all or nothing was kept has no ranking.
    ranked = [(each.auc, each.count) for each in found if each.auc is not None]
    return Judged(
        survival,
        conditional,
        float(np.average([each.error for each in found], weights=weight)),
        float(np.average([auc for auc, _ in ranked], weights=[count for _, count in ranked])) if ranked else None,
        float(np.average([each.brier for each in found], weights=weight)),
        float(np.average(plain, weights=weight)),
        float(expected.sum() / (1.0 + rounds.accepted).sum()),
    )


def _measure(chance: np.ndarray, kept: np.ndarray, counts: np.ndarray) -> Place | None:
    if not counts.any():
        return None
    found = measure(chance[counts], kept[counts])
    auc = None if math.isnan(found.auc) else found.auc
    return Place(found.error, auc, found.brier, found.predicted, found.observed, found.count)
