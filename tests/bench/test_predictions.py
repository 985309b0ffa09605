"""Predicted against actual: what is compared, and how."""

from dataclasses import dataclass

import pytest

from bench.predictions import judge
from core.errors import SpecdError


@dataclass
class Step:
    predicted_step_s: float
    step_s: float
    predicted_tokens: float | None = None
    tokens: int = 1


def test_seconds_are_compared_step_by_step_and_in_all():
    found = judge(4, [Step(1.0, 1.0), Step(1.1, 1.0), Step(3.0, 4.0)])
    assert found.seconds_off[0] == pytest.approx(0.1)
    assert found.seconds_ratio == pytest.approx(5.1 / 6.0)


def test_tokens_count_where_they_were_predicted():
    found = judge(4, [Step(1.0, 1.0, 3.0, 4), Step(1.0, 1.0, None, 100)])
    assert found.tokens_ratio == pytest.approx(0.75)


def test_without_predictions_nothing_is_claimed():
    with pytest.raises(SpecdError, match="no step at 4 at once was predicted"):
        judge(4, [])
