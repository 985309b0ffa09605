"""How many times as often something that is counted happens on one of two sides as on the other, however rare it is.

Errors of answers are such, or preemptions of steps. Sides need not be of one size: a faster arm has more answers.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

# Cases that are added to both sides together, to each by its size: without any, zero would have no logarithm.
ADDED = 1.0
# An analysis asks for every block several times over.
KEPT_SIDES = 4096


def counted_log_ratio(cases: int, size: int, other_cases: int, other_size: int) -> float:
    """Return the log of how many times as often cases are among `size` as among `other_size`.

    It is 0 for no case on either side, and 0 on average over the ways that as many cases can fall on two sides of these
    sizes where neither attracts them. A log of smoothed shares alone is not: of a rare event it tells the sizes.
    Swapping the sides changes the sign and nothing else. Raises ValueError unless both sizes are above 0.
    """
    if size <= 0 or other_size <= 0:
        raise ValueError(f"counted_log_ratio needs sizes above 0, got {size} and {other_size}")
    both = cases + other_cases
    return float(_smoothed(cases, both, size / (size + other_size))) - _by_chance(both, size, other_size)


def _smoothed(cases: ArrayLike, both: int, part: float) -> F64:
    """Return the log ratio of the shares, by how many of both sides' cases are on one that is a `part` of all."""
    ours = np.asarray(cases, dtype=np.float64)
    ratio: F64 = np.log(ours / part + ADDED) - np.log((both - ours) / (1 - part) + ADDED)
    return ratio


@lru_cache(maxsize=KEPT_SIDES)
def _by_chance(both: int, size: int, other_size: int) -> float:
    """Return what the smoothed log ratio is on average where cases fall on either side at random: hypergeometric."""
    if size == other_size or both > size + other_size:
        # Even by symmetry; or several cases to each of one, so many that smoothing does nothing.
        return 0.0
    least, most = max(0, both - other_size), min(both, size)
    later = np.arange(least + 1, most + 1, dtype=np.float64)
    steps = np.log((size - later + 1) * (both - later + 1) / (later * (other_size - both + later)))
    logs = np.concatenate(([0.0], steps.cumsum()))
    law = np.exp(logs - logs.max())
    return float(law @ _smoothed(np.arange(least, most + 1), both, size / (size + other_size)) / law.sum())
