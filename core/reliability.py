"""How well predicted chances match what happened: calibration error, ranking, squared error. Numpy only.

It knows nothing of what is predicted. Calibration says whether events of chance 0.7 happen in 70 of 100 cases, ranking
(AUC) whether likelier events happen more often; a prediction can be good at either alone.
"""

import math

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

NUM_BINS = 15


class Reliability(Struct, frozen=True):
    """What a set of predictions was worth.

    error      debiased expected calibration error over 15 bins of equal mass, 0 is best
    auc        chance that an event that happened was given more than one that did not; nan if only one kind was seen
    brier      mean squared distance of chance and outcome
    predicted, observed   means
    """

    error: float
    auc: float
    brier: float
    predicted: float
    observed: float
    count: int


class Bins(Struct, frozen=True):
    """Predictions in bins, from small to great: their mean, how often the event came, how many."""

    predicted: F64
    observed: F64
    count: F64


def measure(chance: ArrayLike, outcome: ArrayLike, num_bins: int = NUM_BINS) -> Reliability:
    """Judge chances [n] in 0..1 by outcomes [n], 0 or 1; raises ValueError for none."""
    chances, outcomes = _same_length(chance, outcome)
    return Reliability(
        calibration_error(equal_mass_bins(chances, outcomes, num_bins)),
        area_under_curve(chances, outcomes),
        float(((chances - outcomes) ** 2).mean()),
        float(chances.mean()),
        float(outcomes.mean()),
        len(chances),
    )


def equal_mass_bins(chance: ArrayLike, outcome: ArrayLike, num_bins: int = NUM_BINS) -> Bins:
    """Sort predictions into bins of as many each; fewer than num_bins predictions give one bin for each of them.

    Equal predictions keep their order, so a constant one is split at random and not by what happened.
    """
    chances, outcomes = _same_length(chance, outcome)
    order = np.argsort(chances, kind="stable")
    starts = np.linspace(0, len(order), min(num_bins, len(order)) + 1).astype(np.int64)[:-1]
    counts = np.diff(np.append(starts, len(order))).astype(np.float64)
    sums = [np.add.reduceat(values[order], starts) for values in (chances, outcomes)]
    return Bins(sums[0] / counts, sums[1] / counts, counts)


def equal_width_bins(chance: ArrayLike, outcome: ArrayLike, num_bins: int = 10) -> Bins:
    """Sort predictions in 0..1 into bins of equal width, as reliability diagrams have them; empty bins are left out."""
    chances, outcomes = _same_length(chance, outcome)
    place = np.minimum((chances * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(place, minlength=num_bins).astype(np.float64)
    is_there = counts > 0
    sums = [np.bincount(place, weights=values, minlength=num_bins)[is_there] for values in (chances, outcomes)]
    return Bins(sums[0] / counts[is_there], sums[1] / counts[is_there], counts[is_there])


def calibration_error(bins: Bins) -> float:
    """Return the expected calibration error sum w |predicted - observed|, less what chance alone makes of it.

    A bin's observed mean o has the variance o (1 - o) / n, so squared distances are too great by that in the mean:
    sum w (distance^2 - variance) is unbiased for the squared error (Kumar, Liang and Ma 2019, section 5). The plain
    error is shrunk by the root of the share that this leaves, to 0 where chance explains it all. Without it a perfect
    prediction of 30000 cases seems to be wrong by 0.7 %. Outcomes are taken to be independent.
    """
    distance, weight = np.abs(bins.predicted - bins.observed), bins.count / bins.count.sum()
    variance = bins.observed * (1.0 - bins.observed) / bins.count
    squared = float(weight @ distance**2)
    real = max(0.0, squared - float(weight @ variance))
    return float(weight @ distance) * math.sqrt(real / squared) if real else 0.0


def plain_error(chance: ArrayLike, outcome: ArrayLike, num_bins: int = 20) -> float:
    """Return the calibration error over bins of equal width, nothing taken off: that of most papers, DeepSpec's too."""
    chances, outcomes = _same_length(chance, outcome)
    place = np.minimum((chances * num_bins).astype(np.int64), num_bins - 1)
    distance = np.abs(np.bincount(place, chances) - np.bincount(place, outcomes))
    return float(distance.sum() / len(chances))


def area_under_curve(chance: ArrayLike, outcome: ArrayLike) -> float:
    """Return P(an event that happened was given more than one that did not), half for equals; nan if either is missing.

    By the rank sum of Mann and Whitney.
    """
    chances, outcomes = _same_length(chance, outcome)
    _, group, counts = np.unique(chances, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[group]
    hits = float(outcomes.sum())
    misses = len(outcomes) - hits
    if not hits or not misses:
        return math.nan
    return float((rank @ outcomes - hits * (hits + 1) / 2) / (hits * misses))


def _same_length(chance: ArrayLike, outcome: ArrayLike) -> tuple[F64, F64]:
    chances, outcomes = np.asarray(chance, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if chances.ndim != 1 or chances.shape != outcomes.shape or not len(chances):
        raise ValueError(f"reliability needs as many outcomes as chances, got {chances.shape} and {outcomes.shape}")
    return chances, outcomes
