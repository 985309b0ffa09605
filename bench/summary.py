"""From windows to numbers: one row per load and mode, and its ratio to the baseline, paired by round."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from bench.interleave import Measured
from bench.window import Window
from core.statistics import Interval, bootstrap_interval, mean_interval


class Row(Struct, frozen=True):
    """What one mode did under one load.

    tokens_per_s            of all clients together
    tokens_per_s_per_user   how fast an answer grows once it has begun
    first_token_ms, gap_ms  median and 95th percentile: to the first token, and between two arrivals of one answer
    accepted_length         tokens per round of verification, the bonus token included
    verify_length, drafts   drafts sent to the target and drafts proposed, per sequence and step
    part_ms                 the parts of a step, each averaged over all steps
    ratio, ratio_per_user   speed over the baseline's in the same round, 95 % intervals by paired bootstrap
    rates                   tokens per second of every window
    """

    mode: str
    concurrency: int
    temperature: float
    tokens_per_s: Interval
    tokens_per_s_per_user: float
    first_token_ms: tuple[float, float] | None
    gap_ms: tuple[float, float] | None
    accepted_length: float | None
    verify_length: float | None
    drafts: float | None
    steps_per_s: float | None
    part_ms: dict[str, float]
    ratio: Interval | None
    ratio_per_user: Interval | None
    rates: list[float]


def summarise(measured: Measured, baseline: str | None) -> list[Row]:
    """Return the rows of a run; ratios are to `baseline`, None for none."""
    rows = []
    for load, by_mode in measured.items():
        plain = by_mode[baseline] if baseline is not None else None
        for mode, windows in by_mode.items():
            rows.append(_row((mode, load.concurrency, load.temperature), windows, plain))
    return rows


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Return sum(ours) / sum(theirs) with limits from resampling rounds; None if a round has no speed."""
    pairs = np.array([ours, theirs], dtype=np.float64).T
    if not np.isfinite(pairs).all() or not pairs[:, 1].sum():
        return None
    return bootstrap_interval(pairs, _ratio_of_sums)


def _ratio_of_sums(pairs: np.ndarray) -> float:
    total = pairs.sum(axis=0)
    return float(total[0] / total[1]) if total[1] else math.nan


def _row(key: tuple[str, int, float], windows: list[Window], plain: list[Window] | None) -> Row:
    rates = [window.tokens_per_s for window in windows]
    rounds = sum(window.rounds for window in windows)
    steps = _total([window.steps for window in windows])
    drafted = _total([window.drafted for window in windows])
    gaps = [gap for window in windows for gap in window.gaps_s]
    parts = sorted({part for window in windows for part in window.part_s})
    return Row(
        *key,
        tokens_per_s=mean_interval(rates),
        tokens_per_s_per_user=sum(window.gap_tokens for window in windows) / sum(gaps) if gaps else math.nan,
        first_token_ms=_quantiles_ms([seconds for window in windows for seconds in window.first_token_s]),
        gap_ms=_quantiles_ms(gaps),
        accepted_length=1 + sum(window.accepted for window in windows) / rounds if rounds else None,
        verify_length=sum(window.verified for window in windows) / rounds if rounds else None,
        drafts=drafted / rounds if rounds and drafted is not None else None,
        steps_per_s=steps / sum(window.seconds for window in windows) if steps is not None else None,
        part_ms={
            part: 1000 * sum(window.part_s.get(part, 0.0) for window in windows) / steps for part in parts if steps
        },
        ratio=paired_ratio(rates, [window.tokens_per_s for window in plain]) if plain else None,
        ratio_per_user=_ratio_per_user(windows, plain) if plain else None,
        rates=[round(rate, 1) for rate in rates],
    )


def _ratio_per_user(windows: list[Window], plain: list[Window]) -> Interval | None:
    return paired_ratio(
        [window.tokens_per_s_per_user for window in windows], [window.tokens_per_s_per_user for window in plain]
    )


def _total(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _quantiles_ms(seconds: list[float]) -> tuple[float, float] | None:
    if not seconds:
        return None
    middle, high = np.quantile(seconds, [0.5, 0.95])
    return round(1000 * float(middle), 3), round(1000 * float(high), 3)
