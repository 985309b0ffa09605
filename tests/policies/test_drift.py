"""Drift alarms: rare while predictions are right, quick when they are not; and the way down the ladder and back."""

import numpy as np

from policies.drift import ALPHA, QUIET_ROUNDS, TOLERANCE, DriftTest, Fallback, Ladder

DRAFTS = 500


def alarms(shift, num_checks, seed):
    """The check at which an alarm was raised, or None; drafts are accepted `shift` more often than predicted."""
    random, test = np.random.default_rng(seed), DriftTest()
    for check in range(num_checks):
        predicted = random.uniform(0.2, 0.7, DRAFTS)
        if test.bet(float(((random.random(DRAFTS) < predicted + shift) - predicted).sum()), DRAFTS):
            return check
    return None


def test_right_predictions_raise_no_alarm():
    for shift in (0.0, TOLERANCE, -TOLERANCE):
        raised = [alarms(shift, 100, seed) for seed in range(100)]
        # At a chance of ALPHA each, two of a hundred would be a wonder of one in two hundred.
        assert sum(each is not None for each in raised) <= 1
    assert ALPHA == 0.001


def test_drift_is_noticed_soon_on_either_side():
    for shift in (0.12, -0.12):
        assert max(alarms(shift, 100, seed) for seed in range(20)) < 10


def test_small_drift_is_noticed_in_the_end():
    assert all(alarms(0.06, 200, seed) is not None for seed in range(10))


def test_a_long_quiet_time_does_not_dull_it():
    random, test = np.random.default_rng(0), DriftTest()
    for _ in range(2000):
        assert not test.bet(float(random.normal(0, 10)), DRAFTS)
    checks = 0
    while not test.bet(0.12 * DRAFTS, DRAFTS):
        checks += 1
    assert checks < 10


def test_the_ladder_is_climbed_one_rung_an_alarm_and_left_when_quiet():
    ladder = Ladder()
    rungs = []
    while ladder.num_alarms < 4:
        if ladder.check(0.3 * DRAFTS, DRAFTS, 200):
            rungs.append(ladder.rung)
    assert rungs == [Fallback.REFIT, Fallback.WIDEN, Fallback.HISTORY, Fallback.HISTORY]
    for left in (Fallback.WIDEN, Fallback.REFIT, Fallback.NONE, Fallback.NONE):
        for _ in range(QUIET_ROUNDS // 200):
            assert not ladder.check(0.0, DRAFTS, 200)
        assert ladder.rung is left
