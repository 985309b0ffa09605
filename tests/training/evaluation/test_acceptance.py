"""Accepted length, conditional acceptance and confidence of a trace worked out by hand."""

import math

import numpy as np
import pytest

from core.planning import Calibration
from core.reliability import plain_error
from policies.calibration_fit import identity
from tests.training.evaluation.traces import G, counted
from training.evaluation.acceptance import length_difference, measure_acceptance
from training.evaluation.confidence import judge_confidence

# Three drafts a round; of 8 rounds 6 keep the first, 4 of these the second, 1 of these the third.
ACCEPTED = [0, 0, 1, 1, 2, 2, 2, 3]
PROMPTS = [0, 0, 0, 0, 1, 1, 1, 1]


def test_tau_and_conditional_acceptance_are_those_of_the_trace():
    found = measure_acceptance(counted(PROMPTS, ACCEPTED))
    assert found.length.estimate == pytest.approx((8 + 11) / 8)
    assert [each.estimate for each in found.conditional] == pytest.approx([6 / 8, 4 / 6, 1 / 4])
    assert [each.estimate for each in found.survival] == pytest.approx([6 / 8, 4 / 8, 1 / 8])
    assert found.reached == (8, 6, 4)
    assert found.verified == 3.0
    assert found.share == pytest.approx(19 / 32)
    assert found.by_length == pytest.approx((2 / 8, 2 / 8, 3 / 8, 1 / 8))
    assert (found.num_prompts, found.num_rounds) == (2, 8)


def test_limits_are_over_prompts_not_over_rounds():
    found = measure_acceptance(counted(PROMPTS, ACCEPTED))
    # Resamples of two prompts are both, the first twice, or the second twice.
    assert (found.length.low, found.length.high) == pytest.approx((6 / 4, 13 / 4))


def test_drafts_past_an_end_of_text_are_no_rejections():
    found = measure_acceptance(counted([0, 0], [2, 3], judged=[2, 3]))
    assert [each.estimate for each in found.conditional] == [1.0, 1.0, 1.0]


def test_tau_is_pooled_over_rounds_a_long_answer_weighs_more():
    assert measure_acceptance(counted([0, 0, 0, 1], [0, 0, 0, 3])).length.estimate == pytest.approx(7 / 4)


def test_a_difference_is_paired_by_prompt():
    rng = np.random.default_rng(0)
    prompts, easy = np.repeat(np.arange(30), 4), np.repeat(rng.integers(0, 3, 30), 4)
    better, worse = counted(prompts, easy + 1), counted(prompts, easy)
    found = length_difference(better, worse)
    assert (found.estimate, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    # Alone, each varies from prompt to prompt far more than that.
    alone = measure_acceptance(worse).length
    assert alone.high - alone.low > 0.3


def test_prompts_that_one_of_two_never_answered_are_left_out():
    found = length_difference(counted([0, 1], [1, 3]), counted([1, 2], [1, 0]))
    assert found.estimate == pytest.approx(4 - 2)
    assert length_difference(counted([0], [1]), counted([1], [1])) is None


def test_nothing_counted_has_no_length():
    assert measure_acceptance(counted([], [])).length is None


def logit(chance):
    return math.log(chance / (1 - chance))


def test_confidence_is_judged_by_survivals():
    # The first draft is said to be kept in 3 of 4 cases, and is; the second in 1 of 2, and always is.
    evidence = [[logit(0.75), logit(0.5), logit(0.5)]] * 4
    judged = judge_confidence(counted([0, 1, 2, 3], [0, 2, 2, 2], evidence), identity(G))
    assert [each.predicted for each in judged.survival] == pytest.approx([0.75, 0.375, 0.1875])
    assert [each.observed for each in judged.survival] == pytest.approx([0.75, 0.75, 0.0])
    assert [each.observed for each in judged.conditional] == pytest.approx([0.75, 1.0, 0.0])
    assert judged.length_ratio == pytest.approx((1 + 0.75 + 0.375 + 0.1875) / (1 + 1.5))
    assert judged.brier == pytest.approx(((0.25 * 0.75) + (0.25 * 0.75 + 0.375**2) + 0.1875**2) / 3)
    assert judged.plain_error == pytest.approx((0.0 + 0.375 + 0.1875) / 3)
    assert judged.auc == pytest.approx(0.5)


def test_a_map_that_knows_better_makes_the_error_less():
    rng = np.random.default_rng(0)
    evidence = rng.normal(0.0, 2.0, (4000, G))
    kept = rng.random((4000, G)) < 1 / (1 + np.exp(-0.5 * evidence))
    rounds = counted(np.arange(4000) // 10, kept.cumprod(1).sum(1), evidence)
    raw, better = judge_confidence(rounds, identity(G)), judge_confidence(rounds, Calibration((0.5,) * G, (0.0,) * G))
    assert better.error < 0.015 < 0.05 < raw.error
    assert better.brier < raw.brier
    assert better.auc > 0.6


def test_no_drafts_have_no_confidence():
    assert judge_confidence(counted([0], [0], judged=[0]), identity(G)) is None


def test_the_plain_error_is_over_bins_of_equal_width():
    # Two bins of twenty: 0.52 twice, one of them kept; 0.98 twice, both kept.
    assert plain_error([0.52, 0.52, 0.98, 0.98], [0, 1, 1, 1]) == pytest.approx((0.04 + 0.04) / 4)
    assert plain_error([1.0], [1]) == 0.0
