"""When requests come on their own account: a Poisson process whose rate comes in bursts and follows the day.

In every stretch of time the rate is multiplied by a gamma variable of mean 1, drawn for it, and at every moment by the
day's curve, 1 + swing * sin(2 pi t / length), of mean 1 over a day. So all of it has the rate that was asked for, and
with neither it is a plain Poisson process.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from bench.simulate.settings import Bursts, Day


def arrival_times(rate: float, bursts: Bursts, day: Day, random: np.random.Generator) -> Iterator[float]:
    """Yield seconds, ascending and for ever, of so many requests a second on average."""
    highest = 1.0 + day.swing
    for start_s, end_s, factor in _stretches(bursts, random):
        peak, now_s = rate * factor * highest, start_s
        # Thinning: as many as at the day's height, of which some are left out.
        while peak > 0 and (now_s := now_s + float(random.exponential(1.0 / peak))) < end_s:
            of_day = 1.0 + day.swing * math.sin(math.tau * now_s / day.length_s)
            if not day.swing or random.random() * highest < of_day:
                yield now_s


def _stretches(bursts: Bursts, random: np.random.Generator) -> Iterator[tuple[float, float, float]]:
    """Yield beginnings, ends and factors of the rate; one stretch for ever where there are no bursts."""
    if not bursts.variation:
        yield 0.0, math.inf, 1.0
        return
    variance = bursts.variation**2
    for number in itertools.count():
        yield number * bursts.stretch_s, (number + 1) * bursts.stretch_s, float(random.gamma(1 / variance, variance))
