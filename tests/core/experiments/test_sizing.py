"""How long an experiment takes, held against experiments."""

import math

import numpy as np
import pytest

from core.confidence_sequence import log_evidence, mixture_scale
from core.experiments.sizing import blocks_needed


@pytest.mark.parametrize(("effect", "spread"), [(0.03, 0.05), (0.05, 0.1), (-0.03, 0.08)])
def test_about_four_of_five_experiments_have_found_the_effect_by_then(effect, spread):
    rng, number, scale = np.random.default_rng(0), blocks_needed(effect, spread, 24), mixture_scale(24, spread**2)
    found = 0
    for _ in range(200):
        blocks = rng.normal(effect, spread, size=number)
        found += any(log_evidence(blocks[:n], scale) >= math.log(20) for n in range(24, number + 1, 4))
    assert 0.78 < found / 200 < 0.95


def test_half_the_effect_takes_about_four_times_as_long():
    assert blocks_needed(0.01, 0.05, 24) == pytest.approx(4 * blocks_needed(0.02, 0.05, 24), rel=0.1)


def test_what_cannot_be_found_has_no_length_and_a_clear_effect_takes_the_least():
    assert blocks_needed(0.0, 0.05, 24) is None
    assert blocks_needed(1e-6, 0.5, 24) is None
    assert blocks_needed(0.1, 0.0, 24) == 24
    assert blocks_needed(0.5, 0.01, 24) == 24
