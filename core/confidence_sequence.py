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
BISECTIONS = 60


def log_evidence(differences: ArrayLike, scale: float, effect: float = 0.0) -> float:
    """Return the log of the evidence against `effect`: it passes log(1 / alpha) ever with probability alpha at most.

    scale  1 / differences; the spread of the normal mixture, to be chosen before the data (`mixture_scale`)
    """
    centred = np.asarray(differences, dtype=np.float64) - effect
    total, squares, width = float(centred.sum()), float((centred**2).sum()), scale**2
    return width * total**2 / (2 * (1 + width * squares)) - math.log1p(width * squares) / 2


def confidence_sequence(differences: ArrayLike, scale: float, alpha: float = 0.05) -> Interval:
    """Return the mean difference with the limits between which the evidence is below 1 / alpha.

    Limits are infinite while the differences are too few to exclude anything, which ten or so are. Raises ValueError
    for no differences.
    """
    sample = np.asarray(differences, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("confidence_sequence needs at least one difference, got none")
    mean, enough = float(sample.mean()), math.log(1 / alpha)

    def limit(sign: float) -> float:
        if log_evidence(sample, scale, mean + sign * FARTHEST) < enough:
            return sign * math.inf
        near, far = 0.0, FARTHEST
        for _ in range(BISECTIONS):
            middle = (near + far) / 2
            near, far = (near, middle) if log_evidence(sample, scale, mean + sign * middle) >= enough else (middle, far)
        return mean + sign * far

    return Interval(mean, limit(-1.0), limit(1.0))


def mixture_scale(num_differences: int, variance: float, alpha: float = 0.05) -> float:
    """Return the scale that makes the interval about as narrow as can be at a number of differences, of a variance."""
    squares = max(num_differences * variance, 1e-12)
    tail = -2 * math.log(alpha)
    return math.sqrt((tail + math.log1p(tail)) / squares)
