"""Intervals and tests shared by proofs, benchmarks and experiments: numpy only, every random choice seeded.

It knows nothing of what is measured; callers decide what one independent observation is.
"""

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

# Pearson's approximation is held to be good from this expected count on (Cochran 1954).
SMALLEST_EXPECTED = 5.0


class Interval(Struct, frozen=True):
    """A point estimate with its confidence limits."""

    estimate: float
    low: float
    high: float

    def exp(self) -> "Interval":
        """Return the interval of a ratio from that of its logarithm."""
        return Interval(math.exp(self.estimate), math.exp(self.low), math.exp(self.high))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of independent values with normal limits, mean -+ z * sd / sqrt(n).

    Fewer than two values give infinite limits. Raises ValueError for no values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("mean_interval needs at least one value, got none")
    mean = float(sample.mean())
    if sample.size < 2:
        return Interval(mean, -math.inf, math.inf)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    half = z * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    rows: ArrayLike,
    statistic: Callable[[F64], float],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return statistic(rows) with percentile-bootstrap limits.

    rows  [n] or [n, k]; the first axis is resampled with replacement, so a row must be one independent unit (a ratio
          of sums takes rows of (numerator, denominator))
    Raises ValueError for no rows.
    """
    sample = np.asarray(rows, dtype=np.float64)
    if len(sample) == 0:
        raise ValueError("bootstrap_interval needs at least one row, got none")
    rng = np.random.default_rng(seed)
    draws = [statistic(sample[rng.integers(len(sample), size=len(sample))]) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(statistic(sample)), float(low), float(high))


def total_variation(p: ArrayLike, q: ArrayLike) -> float:
    """Return half the L1 distance of two laws on the same cells."""
    return float(np.abs(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64)).sum() / 2)


def chi_square_p_value(counts: ArrayLike, law: ArrayLike) -> float:
    """Return Pearson's p-value that `counts` are independent draws from `law`.

    counts  how often each cell was seen
    law     the cells' probabilities, summing to 1
    Cells expected fewer than 5 times are pooled into one, together with the next larger cell if they are still too
    few; at most one cell left gives 1. A count where the law is zero gives 0.
    """
    observed = np.asarray(counts, dtype=np.float64).ravel()
    probability = np.asarray(law, dtype=np.float64).ravel()
    if observed[probability <= 0].any():
        return 0.0
    expected = probability * observed.sum()
    observed, expected = _pool(observed[probability > 0], expected[probability > 0])
    if len(expected) < 2:
        return 1.0
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return chi_square_tail(statistic, len(expected) - 1)


def binomial_tail(count: int, number: int, share: float) -> float:
    """Return P(X >= count) of `number` draws, each a hit with probability `share`, exactly but for rounding.

    Raises ValueError unless share is above 0 and below 1.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"binomial_tail needs a share between 0 and 1, got {share}")
    if count <= 0:
        return 1.0
    hit, miss, ways = math.log(share), math.log1p(-share), math.lgamma(number + 1)
    logs = (
        ways - math.lgamma(k + 1) - math.lgamma(number - k + 1) + k * hit + (number - k) * miss
        for k in range(count, number + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Return P(X >= statistic) for X chi-square with `freedom` degrees; relative error below 1e-10.

    It is Q(freedom / 2, statistic / 2), the upper regularised gamma: 1 - its power series left of the mean, else
    Lentz's continued fraction (Abramowitz and Stegun 6.5.29 and 6.5.31).
    """
    shape, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        return max(0.0, 1.0 - scale * _lower_series(shape, x))
    return scale * _upper_fraction(shape, x)


def chi_square_quantile(alpha: float, freedom: int) -> float:
    """Return the value that chi-square with `freedom` degrees exceeds with probability alpha, to 1e-9 or so."""
    low, high = 0.0, 1.0
    while chi_square_tail(high, freedom) > alpha:
        high *= 2
    return _bisect(lambda value: chi_square_tail(value, freedom) <= alpha, low, high)


def noncentral_chi_square_tail(statistic: float, freedom: int, noncentrality: float) -> float:
    """Return P(X >= statistic) for noncentral chi-square: central tails of freedom + 2j, j Poisson of half of it."""
    if noncentrality <= 0:
        return chi_square_tail(statistic, freedom)
    mean = noncentrality / 2
    spread = 12 * math.sqrt(mean) + 20
    terms = range(max(0, int(mean - spread)), int(mean + spread))
    weights = (math.exp(j * math.log(mean) - mean - math.lgamma(j + 1)) for j in terms)
    return sum(w * chi_square_tail(statistic, freedom + 2 * j) for j, w in zip(terms, weights, strict=True))


@cache
def draws_needed(freedom: int, variation: float, alpha: float, power: float) -> int:
    """Return how many draws let Pearson's test find any law that is off by `variation`, with probability `power`.

    The test is at level alpha over freedom + 1 cells. A total variation of d gives n draws a noncentrality of
    n sum (p - p0)^2 / p0 >= 4 n d^2, by Cauchy and Schwarz; so the number holds for every way of being off by d.
    """
    critical = chi_square_quantile(alpha, freedom)
    high = 1.0
    while noncentral_chi_square_tail(critical, freedom, high) < power:
        high *= 2
    enough = _bisect(lambda value: noncentral_chi_square_tail(critical, freedom, value) >= power, 0.0, high)
    return math.ceil(enough / (4 * variation**2))


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a claim that fails at low and holds at high begins to hold."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _lower_series(shape: float, x: float) -> float:
    """Return sum_k x^k / (shape (shape + 1) ... (shape + k))."""
    term = total = 1 / shape
    k = shape
    while term > total * 1e-16:
        k += 1
        term *= x / k
        total += term
    return total


def _upper_fraction(shape: float, x: float) -> float:
    """Return 1 / (x + 1 - shape - 1 (1 - shape) / (x + 3 - shape - ...)), for x >= shape + 1."""
    b = x + 1 - shape
    c, d = math.inf, 1 / b
    value = d
    for i in range(1, 10_000):
        a = -i * (i - shape)
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return value


def _pool(observed: F64, expected: F64) -> tuple[F64, F64]:
    order = np.argsort(expected, kind="stable")
    observed, expected = observed[order], expected[order]
    num_small = int((expected < SMALLEST_EXPECTED).sum())
    if num_small and expected[:num_small].sum() < SMALLEST_EXPECTED:
        num_small += 1
    if num_small < 2:
        return observed, expected
    pooled_observed = np.append(observed[num_small:], observed[:num_small].sum())
    return pooled_observed, np.append(expected[num_small:], expected[:num_small].sum())
