"""The default policy on recorded acceptance and a modelled GPU: against every fixed length, and against none."""

from functools import cache

import pytest

from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive
from tests.policies.replay import Clock, G, Loop, recorded

LOADS = (1, 4, 16, 64, 256)


@cache
def recording():
    return recorded()


def rate(clock, load, policy):
    return Loop(recording(), clock, policy, load, clock.table()).rate(max(3000, 60 * load))


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", ["smooth", "staircase"])
def test_it_is_never_slower_than_the_best_fixed_length_or_than_none(name, load):
    clock = Clock(name)
    adaptive = rate(clock, load, LoadAdaptive())
    best_fixed = max(rate(clock, load, Fixed(length)) for length in range(1, G + 1))
    assert adaptive >= 0.98 * best_fixed
    assert adaptive >= 0.97 * rate(clock, load, Off())


@pytest.mark.parametrize("name", ["smooth", "staircase"])
def test_at_some_load_in_between_it_beats_every_fixed_length(name):
    clock = Clock(name)
    assert rate(clock, 64, LoadAdaptive()) >= 1.05 * max(rate(clock, 64, Fixed(length)) for length in range(1, G + 1))
