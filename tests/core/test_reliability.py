"""Calibration error, ranking and squared error of predicted chances."""

import math

import numpy as np
import pytest

from core.reliability import area_under_curve, calibration_error, equal_mass_bins, equal_width_bins, measure


def drawn(shift=0.0, size=30_000, seed=0):
    """Chances, and outcomes that come `shift` more often than they say."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.1, 0.9, size)
    return chance, rng.random(size) < chance + shift


def test_a_right_prediction_has_no_error_once_luck_is_taken_off():
    errors = [calibration_error(equal_mass_bins(*drawn(seed=seed))) for seed in range(20)]
    assert np.mean(errors) < 0.0025
    bins = equal_mass_bins(*drawn())
    plain = (np.abs(bins.predicted - bins.observed) * bins.count).sum() / bins.count.sum()
    assert 0.004 < plain < 0.012


def test_a_wrong_prediction_is_off_by_what_it_is_off_by():
    assert calibration_error(equal_mass_bins(*drawn(shift=0.05))) == pytest.approx(0.05, abs=0.006)


def test_bins_are_sorted_and_equally_full():
    chance, outcome = drawn(size=100)
    bins = equal_mass_bins(chance, outcome, num_bins=15)
    assert bins.count.sum() == 100
    assert set(bins.count) == {6, 7}
    assert (np.diff(bins.predicted) > 0).all()
    assert bins.predicted @ bins.count == pytest.approx(chance.sum())
    assert bins.observed @ bins.count == outcome.sum()


def test_the_area_under_the_curve_counts_pairs_and_halves_ties():
    assert area_under_curve([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1]) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert math.isnan(area_under_curve([0.1, 0.4], [1, 1]))


def test_ranking_and_calibration_are_two_things():
    chance, outcome = drawn()
    honest, bold = measure(chance, outcome), measure(chance**3, outcome)
    assert bold.auc == pytest.approx(honest.auc)
    assert bold.error > 0.2 > 0.01 > honest.error
    assert bold.brier > honest.brier
    assert honest.predicted == pytest.approx(honest.observed, abs=0.01)


def test_nothing_cannot_be_judged():
    with pytest.raises(ValueError, match="as many outcomes as chances"):
        measure([], [])


def test_bins_of_equal_width_hold_each_prediction_once_and_empty_ones_are_left_out():
    bins = equal_width_bins([0.0, 0.05, 0.55, 0.5, 1.0], [0, 1, 1, 0, 1])
    assert bins.count.tolist() == [2, 2, 1]
    assert bins.predicted.tolist() == pytest.approx([0.025, 0.525, 1.0])
    assert bins.observed.tolist() == [0.5, 0.5, 1.0]
