"""Latency quantiles of arms against the control, bootstrapped over whole blocks: 95 % each, for a single look."""

import math
from collections.abc import Sequence

import numpy as np

from core.experiments.blocks import F64, Block
from core.experiments.metrics import METRICS
from core.experiments.spec import Experiment
from core.experiments.unit_sums import LATENCY_BOUNDS, Counts, latency_quantile
from core.statistics import Interval, bootstrap_interval

QUANTILES = {
    "first_s_p50": ("first", 0.5),
    "first_s_p95": ("first", 0.95),
    "token_s_p50": ("token", 0.5),
    "token_s_p95": ("token", 0.95),
}
RESAMPLES = 300


def quantile_ratios(experiment: Experiment, blocks: Sequence[Block], arm: str) -> dict[str, Interval]:
    """Return the ratio of every quantile to the control's, over blocks in which both had answers."""
    found = {}
    pairs = [
        (ours, theirs) for one in blocks if (ours := one.sums(arm)) and (theirs := one.sums(experiment.control_arm))
    ]
    for name, (counts, share) in QUANTILES.items():
        kept = [pair for pair in pairs if all(METRICS[name].value(sums) for sums in pair)]
        if len(kept) < 2:
            continue
        rows = np.array([[_row(getattr(sums, counts)) for sums in pair] for pair in kept])

        def ratio(chosen: F64, share: float = share) -> float:
            ours, theirs = (_quantile(side, share) for side in chosen.sum(axis=0))
            return ours / theirs

        found[name] = bootstrap_interval(rows, ratio, resamples=RESAMPLES)
    return found


def _row(counts: Counts) -> F64:
    row = np.zeros(len(LATENCY_BOUNDS) + 1)
    for index, count in counts.items():
        row[index] = count
    return row


def _quantile(row: F64, share: float) -> float:
    counts = {index: int(row[index]) for index in np.flatnonzero(row).tolist()}
    return latency_quantile(counts, share) or math.nan
