"""Policies on recorded acceptance and a modelled GPU: against every fixed length, and against none."""

from functools import cache

import pytest

from policies.fixed import Fixed, Off
from policies.goodput import Goodput
from policies.greedy import Greedy
from policies.load_adaptive import LoadAdaptive
from policies.slo import Slo
from tests.policies.replay import Clock, G, Loop, recorded

LOADS = (1, 4, 16, 64, 256)
CLOCKS = ("smooth", "staircase")


@cache
def recording():
    return recorded()


def played(clock, load, policy, num_rounds=60):
    loop = Loop(recording(), clock, policy, load, clock.table())
    return loop, loop.rate(max(3000, num_rounds * load))


def rate(clock, load, policy):
    return played(clock, load, policy)[1]


@cache
def best_fixed(name, load):
    return max(rate(Clock(name), load, Fixed(length)) for length in range(1, G + 1))


@cache
def plain(name, load):
    return rate(Clock(name), load, Off())


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize(
    ("make", "share"),
    [(LoadAdaptive, 0.98), (Slo, 0.98), (Greedy, 0.98), (Goodput, 0.97)],
    ids=["load_adaptive", "slo", "greedy", "goodput"],
)
def test_it_is_never_slower_than_the_best_fixed_length_or_than_none(name, load, make, share):
    found = rate(Clock(name), load, make())
    assert found >= share * best_fixed(name, load)
    assert found >= 0.97 * plain(name, load)


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("make", [LoadAdaptive, Greedy], ids=["load_adaptive", "greedy"])
def test_at_some_load_in_between_live_survivals_beat_every_fixed_length(name, make):
    assert rate(Clock(name), 64, make()) >= 1.05 * best_fixed(name, 64)


def test_taken_literally_algorithm_1_sticks_at_no_drafts_on_a_staircase_and_repaired_it_does_not():
    clock = Clock("staircase")
    literal, stuck_rate = played(clock, 256, Greedy(literal=True))
    repaired, free_rate = played(clock, 256, Greedy())
    assert literal.verified == 0
    # What it drafts in vain, it pays for: slower than never to speculate.
    assert stuck_rate < 0.9 * plain("staircase", 256)
    assert repaired.verified > 2 * repaired.step_index * 256
    assert free_rate > 1.2 * plain("staircase", 256)


def test_on_a_smooth_table_the_literal_algorithm_speculates():
    assert rate(Clock("smooth"), 64, Greedy(literal=True)) > best_fixed("smooth", 64)


def test_padded_shapes_are_filled_to_the_row():
    clock = Clock("staircase")
    loop = Loop(recording(), clock, LoadAdaptive(), 64, clock.table())
    shapes = set(clock.table().row_shapes)
    rows = [64 + loop.step().rule.budget + loop.caught_up for _ in range(120)][60:]
    assert len(rows) == 60
    assert all(each in shapes for each in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOCKS)
def test_over_a_long_run_with_many_newcomers_it_holds(name):
    clock = Clock(name)
    long = [played(clock, 256, policy, 600)[1] for policy in (LoadAdaptive(), Fixed(1), Fixed(2), Fixed(3))]
    assert long[0] >= 1.03 * max(long[1:])
