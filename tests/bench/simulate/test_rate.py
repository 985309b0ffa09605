"""Requests come at the rate that was asked for, in bursts as large as was asked for, and as the day goes."""

from itertools import takewhile

import numpy as np
import pytest
from msgspec.structs import replace

from bench.simulate.case import Case, play
from bench.simulate.rate import arrival_times
from bench.simulate.settings import Bursts, Day, Shape
from tests.bench.simulate.cases import simulation


def counts(bursts, day, *, seconds, bins, rate=20.0):
    """How many came in each of so many equal parts of the time."""
    times = list(takewhile(lambda at_s: at_s < seconds, arrival_times(rate, bursts, day, np.random.default_rng(0))))
    assert times == sorted(times)
    return np.histogram(times, bins, (0.0, seconds))[0]


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.5])
def test_stretches_differ_by_chance_and_by_as_much_as_was_asked_for(variation):
    found = counts(Bursts(variation=variation, stretch_s=5.0), Day(), seconds=10_000.0, bins=2000)
    assert found.mean() == pytest.approx(100, rel=0.08)
    # Poisson's own variance is the mean; the rate's comes to it.
    assert found.var() == pytest.approx(100 + (100 * variation) ** 2, rel=0.15)


def test_within_a_stretch_requests_come_as_a_poisson_process():
    found = counts(Bursts(variation=1.0, stretch_s=1000.0), Day(), seconds=1000.0, bins=500)
    assert found.var() == pytest.approx(found.mean(), rel=0.2)


def test_the_rate_follows_the_day_and_its_mean_is_what_was_asked_for():
    quarters = counts(Bursts(), Day(swing=0.8, length_s=400.0), seconds=40_000.0, bins=400).reshape(100, 4).mean(axis=0)
    # A quarter's mean of a sine is 2 / pi.
    busy, quiet = 2000 * (1 + 0.8 * 2 / np.pi), 2000 * (1 - 0.8 * 2 / np.pi)
    assert quarters == pytest.approx([busy, busy, quiet, quiet], rel=0.02)


def test_bursts_make_requests_wait_where_an_even_rate_would_not():
    even = simulation(kind="poisson", output=20, loads=(16.0,), seconds=30.0, engine=Shape(max_num_seqs=4))
    bursty = replace(even, traffic=replace(even.traffic, bursts=Bursts(variation=1.5, stretch_s=1.0)))
    calm_s, bursty_s = (play(Case(wanted, "off", 16.0, 1)).first_token_s[1] for wanted in (even, bursty))
    assert bursty_s > 3 * calm_s
