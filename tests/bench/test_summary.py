"""From windows to rows: sums over windows, ratios paired by round."""

import math

import pytest

from bench.load import Load
from bench.summary import paired_ratio, summarise
from bench.window import Window

LOAD = Load(4, 1.0)


def window(tokens, seconds=1.0, **fields):
    return Window(seconds, tokens=tokens, **fields)


def row_of(windows, plain):
    rows = summarise({LOAD: {"off": plain, "fixed:3": windows}}, "off")
    return {row.mode: row for row in rows}["fixed:3"]


def test_a_ratio_is_paired_so_noise_that_hits_both_leaves_no_interval():
    ratio = paired_ratio([200.0, 100.0, 50.0, 400.0], [100.0, 50.0, 25.0, 200.0])
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_noise_that_differs_widens_the_interval():
    ratio = paired_ratio([200.0, 100.0, 150.0, 50.0], [100.0, 100.0, 100.0, 100.0])
    assert ratio.estimate == pytest.approx(1.25)
    assert ratio.low < 1.2 < 1.3 < ratio.high


def test_no_ratio_without_speed_on_both_sides():
    assert paired_ratio([1.0, math.nan], [1.0, 1.0]) is None
    assert paired_ratio([1.0, 1.0], [0.0, 0.0]) is None


def test_lengths_are_per_round_over_all_windows():
    counted = window(10, rounds=4, verified=12, accepted=8, drafted=20, steps=4)
    row = row_of([counted, window(10, rounds=0, drafted=0, steps=0)], [window(10), window(10)])
    assert (row.accepted_length, row.verify_length, row.drafts) == (3.0, 3.0, 5.0)


def test_what_a_server_does_not_tell_is_left_out():
    row = row_of([window(10), window(12)], [window(10), window(10)])
    assert (row.accepted_length, row.verify_length, row.drafts, row.steps_per_s, row.part_ms) == (None,) * 4 + ({},)


def test_parts_are_milliseconds_per_step():
    parts = [window(1, steps=2, part_s={"verify": 0.02}), window(1, steps=2, part_s={"verify": 0.04, "draft": 0.004})]
    row = row_of(parts, [window(1), window(1)])
    assert row.part_ms == pytest.approx({"verify": 15.0, "draft": 1.0})
    assert row.steps_per_s == 2.0


def test_waits_are_told_as_median_and_95th_percentile():
    row = row_of([window(9, first_token_s=[0.01] * 19 + [0.5]), window(9)], [window(9), window(9)])
    assert row.first_token_ms[0] == 10.0
    assert 10.0 < row.first_token_ms[1] < 500.0


def test_without_a_baseline_there_are_no_ratios():
    rows = summarise({LOAD: {"fixed:3": [window(5), window(5)]}}, None)
    assert (rows[0].ratio, rows[0].ratio_per_user) == (None, None)
