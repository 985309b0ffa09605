"""Intervals that may be looked at as often as one likes: they hold at all times together, with the stated probability.

The differences d_1, d_2, ... need no more than to be symmetric about the effect, whatever came before: a randomised
block is, for swapping the arms in it changes the sign of its difference and nothing else. Then exp(l S - l^2 V / 2),
with S the sum and V the sum of squares of the centred differences, is a supermartingale for every l (de la Pena 1999),
and so is its mean over a normal l, which is what `log_evidence` returns. No variance is assumed, nothing has to be
independent. Howard et al., Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021, section 3.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.statistics import Interval

F64 = NDArray[np.float64]

# Effects are looked for up to a factor of 4 either way; where even that cannot be told from none, nothing is known.
FARTHEST = math.log(4.0)
NEARER, NEAREST, BISECTIONS = 0.8, 1e-7, 40
# After about three times as many differences as this an effect that is far from all of them is excluded.
SOON = 4


def log_evidence(differences: ArrayLike, scale: float, effect: float = 0.0) -> float:
    """Return the log of the evidence against `effect`: it passes log(1 / alpha) ever with probability alpha at most.

    scale  1 / differences; the spread of the normal mixture, to be chosen before the data (`mixture_scale`)
    """
    centred = np.asarray(differences, dtype=np.float64) - effect
    total, squares = float(centred.sum()), float((centred**2).sum())
    # Far from an effect differences are as large as their distance from it, whatever they vary by: against it a mixture
    # as narrow as that distance tells soonest. Either may be right, so the evidence is the mean of both.
    narrow = scale / math.sqrt(1 + SOON * (scale * effect) ** 2)
    first, second = (evidence_of_sums(total, squares, each) for each in (scale, narrow))
    return float(np.logaddexp(first, second)) - math.log(2)


def evidence_of_sums(total: float, squares: float, scale: float) -> float:
    """Return the log of the evidence by the sum of the centred differences and the sum of their squares."""
    width = scale**2
    return width * total**2 / (2 * (1 + width * squares)) - math.log1p(width * squares) / 2


def share_log_evidence(hits: int, number: int, share: float) -> float:
    """Return the log of the evidence that draws are hits with another probability than `share`, of `hits` of `number`.

    It is the likelihood ratio of a uniform mixture over all shares, a martingale from draw to draw: it passes
    log(1 / alpha) ever with probability alpha at most. Raises ValueError unless share is above 0 and below 1.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share_log_evidence needs a share between 0 and 1, got {share}")
    mixture = math.lgamma(hits + 1) + math.lgamma(number - hits + 1) - math.lgamma(number + 2)
    return mixture - hits * math.log(share) - (number - hits) * math.log1p(-share)


def confidence_sequence(differences: ArrayLike, scale: float, alpha: float = 0.05) -> Interval:
    """Return the mean difference with the limits between which the evidence is below 1 / alpha.

    Limits are infinite while the differences are too few to exclude anything, which ten or so are. Raises ValueError
    for no differences.
    """
    sample = np.asarray(differences, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("confidence_sequence needs at least one difference, got none")
    mean, enough = float(sample.mean()), math.log(1 / alpha)

    def is_excluded(distance: float) -> bool:
        return log_evidence(sample, scale, mean + distance) >= enough

    def limit(sign: float) -> float:
        # Evidence need not grow with the distance, so this goes inwards, to the first effect that is not excluded.
        far = sign * FARTHEST
        if not is_excluded(far):
            return sign * math.inf
        while abs(far) > NEAREST and is_excluded(far * NEARER):
            far *= NEARER
        near = far * NEARER
        for _ in range(BISECTIONS):
            middle = (near + far) / 2
            near, far = (near, middle) if is_excluded(middle) else (middle, far)
        return mean + far

    return Interval(mean, limit(-1.0), limit(1.0))


def mixture_scale(num_differences: int, variance: float, alpha: float = 0.05) -> float:
    """Return the scale that makes the interval about as narrow as can be at a number of differences, of a variance."""
    squares = max(num_differences * variance, 1e-12)
    tail = -2 * math.log(alpha)
    return math.sqrt((tail + math.log1p(tail)) / squares)
