"""Means of answers by arm, with their limits."""

import pytest

from client.wire import Job, Speculated, Usage
from core.statistics import mean_interval
from core.types import Sampling
from service.telemetry.answer_log import AnswerRecord
from service.telemetry.arm_sums import ArmSums, Mean, RunningMean

VALUES = [0.010, 0.012, 0.011, 0.035, 0.009]


def record(arm, token_s, status=200):
    job = Job("0" * 32, "fake", (1,), Sampling(), bytes(16), 1, arm=arm)
    drafts = Speculated(rounds=3, verified=9, accepted=4)
    return AnswerRecord(job, "dspark", "fixed", 1, status, "stop", 0.1, token_s, 1.0, Usage(1, 7), drafts, 0)


def test_running_means_have_the_limits_of_the_whole_sample():
    running = RunningMean()
    for value in VALUES:
        running.add(value)
    told, wanted = running.told(), mean_interval(VALUES)
    assert (told.estimate, told.low, told.high) == pytest.approx((wanted.estimate, wanted.low, wanted.high))


def test_one_answer_has_a_mean_without_limits_and_none_has_none():
    running = RunningMean()
    assert running.told() is None
    running.add(None)
    assert running.told() is None
    running.add(0.5)
    assert running.told() == Mean(0.5, None, None)


def test_arms_are_kept_apart_and_failures_count_for_nothing():
    sums = ArmSums()
    for each in (record("b", 0.01), record("a", 0.02), record("a", 0.04), record("a", 9.0, status=503)):
        sums.saw(each)
    first, second = sums.told()
    assert (first.arm, first.answers, first.tokens, first.verified, first.accepted) == ("a", 2, 14, 18, 8)
    assert first.token_s.estimate == pytest.approx(0.03)
    assert (second.arm, second.answers, second.token_s.low) == ("b", 1, None)
