"""Ratios of sums over units, such as tokens over seconds: intervals by the delta method, and covariates' adjustment.

A ratio's unit is what was randomised, never a token or a request: those of one unit resemble each other.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.statistics import Interval

F64 = NDArray[np.float64]

# Outcomes that there must be for each covariate before its part is taken out.
OUTCOMES_PER_COVARIATE = 16


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, level: float = 0.95) -> Interval:
    """Return sum(numerators) / sum(denominators) with normal limits by the delta method, a value each per unit.

    The variance of the ratio r is that of the residuals n_i - r d_i, over n mean(d)^2. Fewer than two units give
    infinite limits. Raises ValueError for no units, or denominators that add up to 0.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if below.size == 0 or below.sum() == 0:
        raise ValueError("ratio_interval needs units whose denominators add up to more than 0")
    ratio = float(above.sum() / below.sum())
    if below.size < 2:
        return Interval(ratio, -math.inf, math.inf)
    spread = float((above - ratio * below).std(ddof=1)) / (math.sqrt(below.size) * float(below.mean()))
    half = NormalDist().inv_cdf(0.5 + level / 2) * spread
    return Interval(ratio, ratio - half, ratio + half)


def fit_adjustment(outcomes: ArrayLike, covariates: ArrayLike, share: int | None = None) -> F64:
    """Return theta [k] that takes most variance out of outcomes [n] by covariates [n, k], both centred on 0 by design.

    CUPED (Deng et al. 2013). `share` is the place of a covariate of which no less than nothing and no more than all can
    be in the outcomes: its theta is held between 0 and 1. Too few outcomes to fit, fewer than 16 per covariate, give
    zeros: no adjustment.
    """
    values, known = np.asarray(outcomes, dtype=np.float64), np.asarray(covariates, dtype=np.float64)
    if known.ndim != 2 or len(values) < OUTCOMES_PER_COVARIATE * known.shape[1]:
        return np.zeros(known.shape[1] if known.ndim == 2 else 0)
    theta: F64 = _thetas((known.T @ known)[None], (known.T @ values)[None], share)[0]
    return theta


def adjusted(outcomes: ArrayLike, covariates: ArrayLike, theta: F64) -> F64:
    """Return outcomes [n] less what covariates [n, k] explain of them."""
    values: F64 = np.asarray(outcomes, dtype=np.float64) - np.asarray(covariates, dtype=np.float64) @ theta
    return values


def adjusted_in_turn(outcomes: ArrayLike, covariates: ArrayLike, num_before: int, share: int | None = None) -> F64:
    """Return the outcomes after the first `num_before`, each less what covariates explain of it by those before it.

    Nothing is adjusted by what came later, so an interval that holds at all times holds for these too. The first ones
    are centred on 0, the others on an effect, which is taken off by its mean so far. `share` is as in fit_adjustment.
    """
    values, known = np.asarray(outcomes, dtype=np.float64), np.asarray(covariates, dtype=np.float64)
    later = np.arange(len(values)) >= num_before
    effects = _sums_before(values * later) / np.maximum(_sums_before(later.astype(np.float64)), 1)
    crossed = _sums_before(known * values[:, None]) - effects[:, None] * _sums_before(known * later[:, None])
    squared = _sums_before(known[:, :, None] * known[:, None, :])
    thetas = _thetas(squared, crossed, share)
    thetas[: OUTCOMES_PER_COVARIATE * known.shape[1]] = 0.0
    left: F64 = values - (known * thetas).sum(axis=1)
    return left[num_before:]


def _thetas(squared: F64, crossed: F64, share: int | None) -> F64:
    """Return the least squares' solutions [n, k] by the sums of covariates' products with each other and outcomes."""
    thetas: F64 = (np.linalg.pinv(squared, rcond=1e-8, hermitian=True) @ crossed[:, :, None])[:, :, 0]
    if share is None or not thetas.size:
        return thetas
    held = thetas[:, share].clip(0.0, 1.0)
    others = [place for place in range(thetas.shape[1]) if place != share]
    left = crossed[:, others] - squared[:, others, share] * held[:, None]
    thetas[:, others] = _thetas(squared[:, others][:, :, others], left, None)
    thetas[:, share] = held
    return thetas


def _sums_before(rows: F64) -> F64:
    """Return, for each row, the sum of those before it."""
    return rows.cumsum(axis=0) - rows
