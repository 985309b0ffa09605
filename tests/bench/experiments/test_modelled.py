"""Experiments on a modelled machine find what is there, and a split by requests finds what is not."""

from itertools import count

import numpy as np
import pytest

from bench.experiments.modelled import alone, split_by_requests, start_run, switchback, throughput_alone
from bench.experiments.series import Series, Traffic, series_of
from bench.experiments.trials import breached_after, false_positives, power_of, trial
from bench.replay.run import STAGGER, STAGGER_RANGE, Tally
from core.experiments.analysis import analyse
from core.experiments.unit_sums import UnitSums, total
from policies.fixed import Fixed

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
    found = false_positives(same, [wandering(101, seed) for seed in range(10)], 200)
    assert found.low <= 0.05, found


def test_a_planted_effect_is_found_more_often_the_longer_one_looks_and_its_interval_holds_it():
    same = trial("same", FIXED_3, FIXED_3)
    power = power_of(same, [wandering(241, seed) for seed in range(4)], 40, 1.03)
    shares = list(power.found.values())
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < shares[-1]
    assert power.covers.high >= 0.95
    assert power.median_blocks < 1.5 * power.predicted


def test_a_planted_harm_is_stopped_by_its_guardrail_and_none_is_not():
    same = trial("same", FIXED_3, FIXED_3, guardrails={"step_s": 1.02})
    series = [series_of(seed, Traffic(16), 3, 60, 0.5) for seed in range(4)]
    assert breached_after(same, series, 4, 1.0, 16) == [None] * 4
    assert breached_after(same, series, 4, 1.5, 16) == [3] * 4


def test_series_of_fixed_lengths_are_the_engine_s_own_to_the_last_count():
    run, numbers = start_run(12, policy=lambda: Fixed(3)), count()
    series = Series(0, draw=lambda: next(numbers) % 300)
    series.load = 12
    for index in range(12):
        series.send(index * STAGGER % STAGGER_RANGE)
    for _ in range(150):
        tally, sums = Tally([0.0]), UnitSums()
        run.step(tally)
        series.step(3, sums)
        assert (sums.rounds, sums.tokens, sums.verified) == (tally.rounds, tally.tokens, tally.verified)
        assert sums.seconds == pytest.approx(tally.seconds[0])
    assert run.num_sent > 12


def test_a_split_by_requests_calls_the_worse_policy_the_better_one():
    split = trial("split", FIXED_3, FIXED_7)
    shown = split_by_requests(split, 256, 5000)
    true = throughput_alone(split, "treatment", 256, 5000) / throughput_alone(split, "control", 256, 5000)
    assert true < 1 < 1.3 < shown


@pytest.mark.slow
def test_of_200_replayed_experiments_without_an_effect_no_more_than_5_percent_find_one():
    same = trial("same", FIXED_3, FIXED_3)
    series = [series_of(seed, Traffic(16, 0.4), 3, 145, 0.5) for seed in range(200)]
    found = false_positives(same, series, 200)
    assert found.low <= 0.05, found
    assert list(power_of(same, series, 40, 1.05).found.values())[-1] > 0.8


@pytest.mark.slow
def test_arms_that_take_turns_at_saturation_find_the_winner_and_how_much_it_wins_by():
    winner = trial("winner", FIXED_7, {"policy": "load_adaptive"})
    found = analyse(winner, switchback(winner, 128, 100, 2.0))
    long = [total(alone(winner, arm, 128, 60, 2.0, seed=1)) for arm in ("treatment", "control")]
    ratio = (long[0].tokens / long[0].seconds) / (long[1].tokens / long[1].seconds)
    assert found.advice == "ship"
    assert found.arms[0].primary.ratio.low <= ratio <= found.arms[0].primary.ratio.high
