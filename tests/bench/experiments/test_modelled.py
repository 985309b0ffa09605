"""Experiments on a modelled machine find what is there, and a split by requests finds what is not."""

import numpy as np
import pytest

from bench.experiments.modelled import alone, split_by_requests, switchback, throughput_alone
from bench.experiments.trials import false_positives, found_after, trial
from core.experiments.analysis import analyse
from core.experiments.unit_sums import UnitSums, total

FIXED_3 = {"policy": "fixed", "parameters": {"length": 3}}
FIXED_7 = {"policy": "fixed", "parameters": {"length": 7}}


def wandering(num_slots, seed):
    """Return slots whose speed keeps four fifths of where it was: as loads do."""
    rng, place, slots = np.random.default_rng(seed), 0.0, []
    for _ in range(num_slots):
        place = 0.8 * place + rng.normal(0, 0.05)
        slots.append(UnitSums(seconds=float(np.exp(-place)), busy_s=1.0, steps=100, tokens=1000, rounds=300))
    return slots


def test_of_200_experiments_without_an_effect_no_more_than_5_percent_find_one():
    same = trial("same", FIXED_3, FIXED_3)
    found = false_positives(same, [wandering(100, seed) for seed in range(10)], 200)
    assert found["low"] <= 0.05, found


def test_a_planted_effect_of_3_percent_is_found_more_often_the_longer_one_looks():
    same = trial("same", FIXED_3, FIXED_3)
    power = list(found_after(same, [wandering(240, seed) for seed in range(4)], 40, 1.03).values())
    assert power == sorted(power)
    assert power[0] < 0.5 < power[-1]


def test_a_split_by_requests_calls_the_worse_policy_the_better_one():
    split = trial("split", FIXED_3, FIXED_7)
    shown = split_by_requests(split, 256, 5000)
    true = throughput_alone(split, "treatment", 256, 5000) / throughput_alone(split, "control", 256, 5000)
    assert true < 1 < 1.3 < shown


@pytest.mark.slow
def test_of_200_replayed_experiments_without_an_effect_no_more_than_5_percent_find_one():
    same = trial("same", FIXED_3, FIXED_3)
    series = [alone(same, "control", 16, 160, 2.0, seed) for seed in range(4)]
    found = false_positives(same, series, 200)
    assert found["low"] <= 0.05, found
    assert list(found_after(same, series, 40, 1.03).values())[-1] > 0.5


@pytest.mark.slow
def test_arms_that_take_turns_at_saturation_find_the_winner_and_how_much_it_wins_by():
    winner = trial("winner", FIXED_7, {"policy": "load_adaptive"})
    found = analyse(winner, switchback(winner, 128, 100, 2.0))
    long = [total(alone(winner, arm, 128, 60, 2.0, seed=1)) for arm in ("treatment", "control")]
    ratio = (long[0].tokens / long[0].seconds) / (long[1].tokens / long[1].seconds)
    assert found.advice == "ship"
    assert found.arms[0].primary.ratio.low <= ratio <= found.arms[0].primary.ratio.high
