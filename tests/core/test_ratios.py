"""Ratios of sums, and what covariates take out."""

import numpy as np
import pytest

from core.ratios import adjusted, adjusted_in_turn, fit_adjustment, ratio_interval


def test_the_delta_method_covers_the_ratio_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        below = rng.uniform(1, 3, size=60)
        above = 2.5 * below + rng.normal(0, 1, size=60)
        found = ratio_interval(above, below)
        hits += found.low <= 2.5 <= found.high
    # 95 % of 400, give or take three standard deviations.
    assert 366 <= hits <= 394


def test_long_units_count_for_more():
    assert ratio_interval([10, 1], [10, 10]).estimate == pytest.approx(0.55)
    with pytest.raises(ValueError, match="add up to more than 0"):
        ratio_interval([1], [0])


def test_what_a_covariate_explains_is_taken_out_and_the_mean_stays():
    rng = np.random.default_rng(1)
    known = rng.normal(size=(500, 1))
    outcomes = 0.1 + 2 * known[:, 0] + rng.normal(0, 0.1, size=500)
    theta = fit_adjustment(outcomes[:100], known[:100])
    left = adjusted(outcomes[100:], known[100:], theta)
    assert theta[0] == pytest.approx(2.0, abs=0.1)
    assert left.std() < 0.06 * outcomes.std()
    assert left.mean() == pytest.approx(0.1, abs=0.03)


def test_too_little_to_fit_adjusts_nothing():
    assert fit_adjustment([1.0, 2.0, 3.0], np.ones((3, 1))).tolist() == [0.0]


def test_each_outcome_is_adjusted_by_those_before_it_alone():
    rng = np.random.default_rng(2)
    known = rng.normal(size=(300, 2))
    outcomes = known @ np.array([2.0, -1.0]) + rng.normal(0, 0.1, size=300)
    outcomes[20:] += 0.4
    left = adjusted_in_turn(outcomes, known, 20)
    assert left[100:].std() < 0.06 * outcomes.std()
    assert left.mean() == pytest.approx(0.4, abs=0.02)
    # What comes later changes nothing.
    assert adjusted_in_turn(outcomes[:150], known[:150], 20) == pytest.approx(left[:130])
    theta = fit_adjustment(outcomes[:20], known[:20])
    assert left[0] == pytest.approx(outcomes[20] - known[20] @ theta)


def test_a_covariate_of_which_no_more_than_all_can_be_in_the_outcomes_is_held_to_that_and_others_take_the_rest():
    rng = np.random.default_rng(3)
    known = rng.normal(size=(400, 2))
    known[:, 1] += 0.5 * known[:, 0]
    for true, held in ((1.7, 1.0), (0.4, 0.4), (-0.6, 0.0)):
        outcomes = known @ np.array([true, 2.0]) + rng.normal(0, 0.1, size=400)
        theta = fit_adjustment(outcomes, known, share=0)
        best = float(known[:, 1] @ (outcomes - theta[0] * known[:, 0]) / (known[:, 1] @ known[:, 1]))
        assert theta == pytest.approx([held, best], abs=0.03)
        in_turn = outcomes[399] - adjusted_in_turn(outcomes, known, 399, share=0)[0]
        assert in_turn == pytest.approx(known[399] @ theta, abs=0.05)


def test_fewer_than_16_outcomes_say_nothing_of_a_covariate():
    known = np.arange(1.0, 21.0)[:, None]
    assert fit_adjustment(known[:15, 0], known[:15]).tolist() == [0.0]
    assert fit_adjustment(known[:16, 0], known[:16]).tolist() == pytest.approx([1.0])
    left = adjusted_in_turn(known[:, 0], known, 0)
    assert left[:16].tolist() == known[:16, 0].tolist()


def test_without_covariates_or_enough_to_fit_them_outcomes_stay():
    outcomes = np.arange(5.0)
    assert adjusted_in_turn(outcomes, np.zeros((5, 0)), 2).tolist() == [2.0, 3.0, 4.0]
    assert adjusted_in_turn(outcomes, np.ones((5, 1)), 2)[:2].tolist() == [2.0, 3.0]
