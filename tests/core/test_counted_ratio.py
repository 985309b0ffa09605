"""What is counted is compared by how often it comes, not by how large the sides are."""

import math

import numpy as np
import pytest

from core.confidence_sequence import log_evidence, mixture_scale
from core.counted_ratio import counted_log_ratio


@pytest.mark.parametrize(("size", "other_size"), [(100, 100), (150, 100), (30, 4000)])
def test_nothing_on_either_side_is_no_difference_whatever_the_sides_are(size, other_size):
    assert counted_log_ratio(0, size, 0, other_size) == 0.0


@pytest.mark.parametrize("counts", [(3, 150, 1, 100), (0, 70, 2, 100), (99, 100, 240, 250), (7, 3, 1, 2)])
def test_swapping_the_sides_changes_the_sign_and_nothing_else(counts):
    cases, size, other_cases, other_size = counts
    assert counted_log_ratio(*counts) == pytest.approx(-counted_log_ratio(other_cases, other_size, cases, size))


def test_of_many_cases_it_is_the_log_of_the_ratio_of_shares():
    assert counted_log_ratio(3000, 10_000, 1000, 5000) == pytest.approx(math.log(1.5), abs=2e-3)
    assert counted_log_ratio(50, 100, 0, 100) > math.log(50)


def test_one_side_empty_is_no_comparison():
    with pytest.raises(ValueError, match="sizes above 0, got 0 and 5"):
        counted_log_ratio(0, 0, 1, 5)


@pytest.mark.parametrize("both", [1, 2, 5, 40, 230])
def test_by_chance_it_is_zero_on_average_for_sides_of_any_size(both):
    size, other_size = 150, 90
    ways = {k: math.comb(size, k) * math.comb(other_size, both - k) for k in range(both + 1)}
    values = {k: counted_log_ratio(k, size, both - k, other_size) for k, way in ways.items() if way}
    mean = sum(ways[k] * value for k, value in values.items()) / sum(ways.values())
    assert mean == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.98])
@pytest.mark.parametrize("size", [33, 75, 150, 300])
def test_over_400_blocks_a_rate_that_all_have_in_common_is_found_to_differ_no_more_often_than_it_may(share, size):
    rng, other_size, num_blocks, alpha, num_found = np.random.default_rng(size), 100, 400, 0.05, 0
    for _ in range(20):
        ours, theirs = rng.binomial(size, share, num_blocks), rng.binomial(other_size, share, num_blocks)
        values = [
            counted_log_ratio(a, size, b, other_size) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)
        ]
        scale = mixture_scale(24, 0.05, alpha)
        num_found += any(log_evidence(values[:n], scale) >= math.log(1 / alpha) for n in range(4, num_blocks, 4))
    # One in twenty may; smoothed shares alone differ up to twenty times in twenty.
    assert num_found <= 4
