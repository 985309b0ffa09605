"""What curves say: ratios, per-user speed at a throughput, ranks, when budgets settle."""

import pytest

from bench.replay.findings import Curve, find, rank_correlation, settling_step, user_speed_at


def curve(policy, rates, first=None, second=None, rows=(8, 4, 2)):
    rates = tuple(map(float, rates))
    return Curve(policy, (1, 8, 64), rates, first or rates, second or rates, rows)


def test_the_best_length_is_chosen_in_one_half_and_compared_in_the_other():
    curves = {
        "off": curve("off", (1, 8, 40)),
        "fixed:1": curve("fixed:1", (2, 12, 50), first=(2, 12, 50), second=(2, 20, 50)),
        "fixed:7": curve("fixed:7", (4, 16, 30), first=(4, 16, 30), second=(4, 10, 30)),
        "load_adaptive": curve("load_adaptive", (4, 16, 55), second=(4, 12, 55)),
    }
    found = find(curves, 64)
    # At 8 the length 7 won the first half, so 10 is the bar, though length 1 came to 20 in the second.
    assert found.to_best_fixed == pytest.approx((1.0, 1.2, 1.1))
    assert found.to_off == pytest.approx((4.0, 2.0, 55 / 40))
    assert found.single_fixed == "fixed:7"
    assert found.load_correlation == pytest.approx(-1.0)


def test_user_speed_is_that_of_the_least_load_with_the_throughput():
    assert user_speed_at(curve("a", (4, 16, 72)), 16.0) == pytest.approx(2.0)
    assert user_speed_at(curve("a", (4, 16, 72)), 44.0) == pytest.approx(44 / 36)
    assert user_speed_at(curve("a", (4, 16, 72)), 73.0) is None


def test_budgets_settle_with_the_first_step_from_which_none_is_far_off():
    assert settling_step([1.0, 5.0, 4.0, 3.2, 3.0, 3.1, 3.0, 3.0], slice(4, 8)) == 3
    assert settling_step([3.0] * 8, slice(4, 8)) == 0


def test_ranks_share_their_mean_where_values_are_equal():
    assert rank_correlation([1, 2, 3, 4], [8, 8, 3, 1]) == pytest.approx(-0.9487, abs=1e-4)
