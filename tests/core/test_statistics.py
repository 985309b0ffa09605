import math
from statistics import NormalDist

import numpy as np
import pytest

from core.statistics import (
    binomial_tail,
    bootstrap_interval,
    chi_square_p_value,
    chi_square_quantile,
    chi_square_tail,
    draws_needed,
    mean_interval,
    noncentral_chi_square_tail,
    total_variation,
)


@pytest.mark.parametrize(
    ("statistic", "freedom", "expected"),
    [
        (3.841458820694124, 1, 0.05),
        (18.307038053275146, 10, 0.05),
        (0.1, 5, math.erfc(math.sqrt(0.05)) + math.sqrt(0.2 / math.pi) * math.exp(-0.05) * (1 + 0.1 / 3)),
        (0.0, 3, 1.0),
        (99.2, 50, math.exp(-49.6) * sum(49.6**k / math.factorial(k) for k in range(25))),
        (12.0, 50, math.exp(-6) * sum(6.0**k / math.factorial(k) for k in range(25))),
        (200.0, 2, math.exp(-100)),
    ],
)
def test_tail_matches_tables_and_closed_forms(statistic, freedom, expected):
    assert chi_square_tail(statistic, freedom) == pytest.approx(expected, rel=1e-9)


def test_p_values_are_uniform_under_the_law():
    rng, law = np.random.default_rng(0), np.array([0.5, 0.25, 0.15, 0.06, 0.04])
    p_values = [chi_square_p_value(rng.multinomial(2000, law), law) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.42 < np.mean(p_values) < 0.58


def test_a_wrong_law_is_caught():
    counts = np.random.default_rng(0).multinomial(5000, [0.55, 0.45])
    assert chi_square_p_value(counts, [0.5, 0.5]) < 1e-6


def test_small_cells_are_pooled_and_impossible_ones_tell():
    law = np.array([0.9, *([0.001] * 100)])
    counts = np.random.default_rng(0).multinomial(500, law)
    assert chi_square_p_value(counts, law) > 0.01
    assert chi_square_p_value([10, 1], [1.0, 0.0]) == 0.0
    assert chi_square_p_value([10, 0], [1.0, 0.0]) == 1.0


def test_mean_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [(i := mean_interval(rng.normal(3.0, 2.0, 50))).low <= 3.0 <= i.high for _ in range(500)]
    assert 0.91 < np.mean(hits) < 0.98


def test_one_value_says_nothing_about_its_spread():
    interval = mean_interval([4.0])
    assert (interval.estimate, interval.low, interval.high) == (4.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_bootstrap_of_a_ratio_brackets_it():
    rng = np.random.default_rng(1)
    rows = np.column_stack((rng.poisson(6, 300), rng.poisson(3, 300)))
    interval = bootstrap_interval(rows, lambda r: r[:, 0].sum() / r[:, 1].sum())
    assert interval.low < 2.0 < interval.high
    assert interval.high - interval.low < 0.4
    assert interval == bootstrap_interval(rows, lambda r: r[:, 0].sum() / r[:, 1].sum())


def test_total_variation_is_half_the_distance():
    assert total_variation([0.7, 0.3], [0.5, 0.5]) == pytest.approx(0.2)


@pytest.mark.parametrize(("alpha", "freedom", "value"), [(0.05, 1, 3.841459), (0.01, 10, 23.209251)])
def test_a_quantile_is_where_the_tail_begins(alpha, freedom, value):
    assert chi_square_quantile(alpha, freedom) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("noncentrality", [0.0, 0.3, 4.0, 60.0])
def test_a_shifted_square_has_a_noncentral_tail(noncentrality):
    law, shift, root = NormalDist(), math.sqrt(noncentrality), math.sqrt(15.0)
    expected = law.cdf(shift - root) + law.cdf(-shift - root)
    assert noncentral_chi_square_tail(15.0, 1, noncentrality) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("freedom", "variation", "draws"), [(1, 0.15, 541), (7, 0.15, 730), (7, 0.05, 6569)])
def test_draws_are_as_many_as_the_power_needs(freedom, variation, draws):
    assert draws_needed(freedom, variation, 1e-4, 0.999) == pytest.approx(draws, rel=2e-3)


def test_the_promised_power_is_met_by_the_hardest_shift():
    # Moving equal mass between two halves of equal cells has the least noncentrality, 4 n TV^2.
    num, law = draws_needed(9, 0.1, 0.01, 0.9), np.full(10, 0.1)
    counts = np.random.default_rng(0).multinomial(num, np.repeat([0.12, 0.08], 5), size=1000)
    found = np.mean([chi_square_p_value(each, law) <= 0.01 for each in counts])
    assert found == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(("number", "share"), [(10, 0.5), (7, 0.3), (400, 0.02)])
def test_binomial_tails_are_sums_of_the_law(number, share):
    law = [math.comb(number, k) * share**k * (1 - share) ** (number - k) for k in range(number + 1)]
    for count in (0, 1, 4, number):
        assert binomial_tail(count, number, share) == pytest.approx(sum(law[count:]), rel=1e-9)


def test_a_sure_draw_has_no_tail():
    with pytest.raises(ValueError, match="a share between 0 and 1, got 1"):
        binomial_tail(1, 2, 1.0)
