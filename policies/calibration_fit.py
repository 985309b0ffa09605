"""Fits of draft confidence: from a drafter's evidence to the chance that a draft is accepted. Pure numpy.

Two maps, both `core.planning.Calibration`, per position sigmoid(slope * evidence + intercept):

- `fit_temperatures` (sequential temperature scaling, DSpark, arXiv 2607.05147): one number per position, chosen so
  that the *survivals* are calibrated. Needs rounds in which every draft was verified: an offline fit.
- `fit_logistic` (Platt scaling of hazards): two numbers per position, of greatest likelihood for "accepted, given that
  all before it were". Works where drafts were trimmed, because it asks only about drafts that were judged: serving
  learns by it (policies/online_calibration.py), and so does `specd calibrate`.

Position k of a round is in the *risk set* if it was verified and all before it were accepted. Whether it is there is
decided by the past, by its own and earlier evidence and by earlier drafts' fates, never by its own fate: given the
evidence its label is missing at random. A cumulative label "accepted up to k" over all positions is not: rejections
before the cut are seen as zeros while survivors past it are not seen at all.
"""

import numpy as np
from numpy.typing import NDArray

from core.planning import F32, I32, Calibration
from core.reliability import calibration_error, equal_mass_bins

F64 = NDArray[np.float64]
Risk = NDArray[np.bool_]

# Log-spaced over 1/8..8, 1 in the middle: neighbours differ by 4.4 %.
TEMPERATURES = np.geomspace(1 / 8, 8, 97)
# Steps of a Newton iteration that starts near its end, and the most that one may move: it cannot run away.
STEPS, LONGEST_STEP = 12, 1.0
# More evidence never means less, and nothing is as steep as a switch.
STEEPEST = 8.0


def risk_set(verified: I32, accepted: I32, width: int) -> Risk:
    """Return which drafts [N, G] were judged: verified, and all before them accepted."""
    places = np.arange(width)
    return (places < verified[:, None]) & (places <= accepted[:, None])


def survivals(evidence: F32, calibration: Calibration) -> F64:
    """Return the predicted survivals [N, G], as `kernels.survival` does on the device."""
    return np.cumprod(hazards(evidence, calibration), axis=1, dtype=np.float64)


def hazards(evidence: F32, calibration: Calibration) -> F64:
    """Return the predicted conditional acceptances [N, G]."""
    return sigmoid(evidence * np.array(calibration.slope) + np.array(calibration.intercept))


def sigmoid(values: F64) -> F64:
    """Return 1 / (1 + exp(-values))."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def identity(width: int) -> Calibration:
    """Return the calibration that leaves evidence as it is."""
    return Calibration((1.0,) * width, (0.0,) * width)


def fit_temperatures(evidence: F32, accepted: I32, judged: I32) -> Calibration:
    """Fit one temperature per position on fully verified rounds, from left to right.

    evidence  [N, G]; logits of conditional acceptance
    accepted  [N], 0..G
    judged    [N], accepted..G; drafts past these do not count: an end of text was accepted before them
    At position k it takes the temperature with the least calibration error of the survival up to k, earlier positions
    frozen; of equals the nearest to 1, which is also that of a position without drafts. The slope is 1 / temperature,
    the intercept 0.
    """
    candidates: list[float] = sorted(TEMPERATURES.tolist(), key=lambda temperature: abs(np.log(temperature)))
    exact, before, slope = evidence.astype(np.float64), np.ones(len(evidence)), []
    for k in range(evidence.shape[1]):
        counts = judged > k
        if not counts.any():
            slope.append(1.0)
            continue
        outcome = (accepted[counts] > k).astype(np.float64)
        errors = [
            calibration_error(equal_mass_bins(before[counts] * sigmoid(exact[counts, k] / temperature), outcome))
            for temperature in candidates
        ]
        slope.append(1.0 / candidates[int(np.argmin(errors))])
        before = before * sigmoid(exact[:, k] * slope[-1])
    return Calibration(tuple(slope), (0.0,) * len(slope))


def fit_logistic(evidence: F32, risk: Risk, labels: F32, start: Calibration) -> Calibration:
    """Fit slope and intercept per position by weighted logistic regression on the risk set.

    evidence  [N, G]; what is not finite does not count
    risk      [N, G]; `risk_set`
    labels    [N, G] in 0..1: hard outcomes, or the chance of acceptance before the token was drawn, which says the same
              with less noise
    A position without labels keeps what `start` says.
    """
    weight = (risk & np.isfinite(evidence)).astype(np.float64)
    clean = np.where(weight > 0, evidence, 0.0).astype(np.float64)
    return newton(clean.T, weight.T, (weight * labels).T, start)


def newton(evidence: F64, weight: F64, hits: F64, start: Calibration, steps: int = STEPS) -> Calibration:
    """Return the logistic fit of greatest likelihood per row, by Newton's method from `start`.

    evidence, weight, hits  [G, M]; cells with their weight and the part of it that was accepted
    """
    slope, intercept = np.array(start.slope), np.array(start.intercept)
    for _ in range(steps):
        chance = sigmoid(slope[:, None] * evidence + intercept[:, None])
        excess, spread = hits - weight * chance, weight * chance * (1.0 - chance)
        by_slope, by_intercept = (excess * evidence).sum(1), excess.sum(1)
        square, cross, total = (spread * evidence**2).sum(1), (spread * evidence).sum(1), spread.sum(1)
        # A little ridge keeps a row of one value solvable; it does not move the optimum, where the gradient is 0.
        square, total = square + 1e-3, total + 1e-3
        determinant = np.maximum(square * total - cross**2, 1e-9)
        step = np.stack((total * by_slope - cross * by_intercept, square * by_intercept - cross * by_slope))
        step = np.clip(step / determinant, -LONGEST_STEP, LONGEST_STEP)
        slope, intercept = np.clip(slope + step[0], 0.0, STEEPEST), intercept + step[1]
    return Calibration(tuple(slope.tolist()), tuple(intercept.tolist()))


def shift(evidence: F64, weight: F64, hits: F64, slope: F64, intercept: F64, steps: int = STEPS) -> F64:
    """Return the intercepts [G] of greatest likelihood where slopes [G] are given, from `intercept` [G]."""
    for _ in range(steps):
        chance = sigmoid(slope[:, None] * evidence + intercept[:, None])
        step = (hits - weight * chance).sum(1) / ((weight * chance * (1.0 - chance)).sum(1) + 1e-3)
        intercept = intercept + np.clip(step, -LONGEST_STEP, LONGEST_STEP)
    return intercept
