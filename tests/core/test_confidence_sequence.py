"""Intervals that hold at all times together: for any symmetric differences, however they depend on each other."""

import math

import numpy as np
import pytest

from core.confidence_sequence import confidence_sequence, log_evidence, mixture_scale

NUM_RUNS, NUM_BLOCKS, SPREAD = 1000, 120, 0.04
SCALE = mixture_scale(24, SPREAD**2)


def signed(sizes, rng):
    """Return differences of any sizes, whose signs a fair coin decides: what swapping arms in a block does."""
    return sizes * rng.choice([-1.0, 1.0], size=sizes.shape)


@pytest.mark.parametrize("law", ["normal", "drifting", "heavy"])
def test_looking_after_every_block_finds_nothing_where_nothing_is(law):
    rng = np.random.default_rng(1)
    sizes = (
        SPREAD
        * {
            "normal": lambda: rng.normal(size=(NUM_RUNS, NUM_BLOCKS)),
            "drifting": lambda: np.exp(rng.normal(0, 0.3, size=(NUM_RUNS, NUM_BLOCKS)).cumsum(axis=1)),
            "heavy": lambda: rng.standard_cauchy(size=(NUM_RUNS, NUM_BLOCKS)),
        }[law]()
    )
    runs = signed(np.abs(sizes), rng)
    totals, squares = runs.cumsum(axis=1), (runs**2).cumsum(axis=1)
    evidence = SCALE**2 * totals**2 / (2 * (1 + SCALE**2 * squares)) - np.log1p(SCALE**2 * squares) / 2
    assert evidence[3, 50] == pytest.approx(log_evidence(runs[3, :51], SCALE))
    # One in twenty at most; by chance of 1,000 runs up to 70.
    assert (evidence.max(axis=1) >= math.log(20)).sum() < 70


def test_the_interval_is_where_the_evidence_is_too_little_and_closes_in():
    rng = np.random.default_rng(2)
    differences = rng.normal(0.03, SPREAD, size=200)
    found = confidence_sequence(differences, SCALE)
    assert found.low < 0.03 < found.high
    for limit in (found.low, found.high):
        assert log_evidence(differences, SCALE, limit) == pytest.approx(math.log(20), abs=1e-6)
    assert found.high - found.low < confidence_sequence(differences[:60], SCALE).high - found.low


def test_a_few_differences_exclude_nothing():
    assert confidence_sequence([0.5, 0.5, 0.5], SCALE).low == -math.inf
    with pytest.raises(ValueError, match="at least one difference"):
        confidence_sequence([], SCALE)


def test_what_hardly_varies_is_known_after_sixteen_differences():
    rng, scale = np.random.default_rng(3), mixture_scale(24, 1e-3**2)
    found = confidence_sequence(rng.normal(0.1, 1e-3, size=16), scale)
    assert 0 < found.low < 0.1 < found.high < 0.5


@pytest.mark.parametrize("effect", [0.02, 0.3])
def test_looking_after_every_block_excludes_the_effect_itself_no_more_often_than_it_says(effect):
    rng = np.random.default_rng(4)
    runs = effect + signed(np.abs(SPREAD * rng.normal(size=(300, 60))), rng)
    excluded = sum(any(log_evidence(run[:n], SCALE, effect) >= math.log(20) for n in range(2, 61)) for run in runs)
    # One in twenty at most; by chance of 300 runs up to 26.
    assert excluded < 26


def test_differences_that_are_all_the_same_are_found_as_soon_as_signs_could_tell():
    # Twenty equal signs come by chance once in half a million times.
    assert confidence_sequence([0.1] * 20, mixture_scale(20, 0.01)).low > 0
