"""The cost of the service: first tokens compared round by round."""

import pytest

from bench.service_overhead import later_by_ms
from bench.window import Window
from core.errors import SpecdError


def waits(*seconds):
    return Window(1.0, first_token_s=list(seconds))


def test_rounds_are_paired_and_those_without_a_first_token_left_out():
    later = later_by_ms([waits(0.010, 0.012), waits(), waits(0.020)], [waits(0.004), waits(0.1), waits(0.013)])
    assert later.estimate == pytest.approx(7.0)
    assert later.low <= 7.0 <= later.high


def test_without_any_round_on_both_sides_nothing_is_claimed():
    with pytest.raises(SpecdError, match="no round saw first tokens on both sides"):
        later_by_ms([waits()], [waits(0.1)])
