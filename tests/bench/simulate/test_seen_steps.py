"""A table that was corrected by steps says of such steps what they took, and of others what is likely."""

import numpy as np
import pytest
from msgspec.structs import replace

from bench.simulate.seen_steps import SeenStep, corrected, deviations, price
from core.cost import CostTable

TABLE = CostTable(
    sequences=(1, 4, 16),
    lengths=(0, 3, 7),
    contexts=(16,),
    plain_s=((0.010, 0.012, 0.020),),
    verify_s=(((0.011, 0.012, 0.014), (0.013, 0.016, 0.020), (0.022, 0.030, 0.044)),),
    draft_s=((0.002, 0.003, 0.006),),
    prefill_row_s=1e-4,
    catch_up_row_s=1e-4,
)


def seen(num_sequences, length, *, followed, seconds=0.0):
    return SeenStep(num_sequences, num_sequences * followed, num_sequences * length, 16.0, seconds)


def steps_of(num_sequences, length, factor, *, followed=True, count=20):
    seconds = factor * price(TABLE, seen(num_sequences, length, followed=followed))
    # They scatter, and evenly.
    shares = np.linspace(0.8, 1.2, count).tolist()
    return [seen(num_sequences, length, followed=followed, seconds=seconds * share) for share in shares]


def ratio(table, num_sequences, length, *, followed=True):
    step = seen(num_sequences, length, followed=followed)
    return price(table, step) / price(TABLE, step)


def test_each_load_and_length_has_a_factor_of_its_own():
    table = corrected(TABLE, [*steps_of(4, 3, 1.5), *steps_of(4, 7, 1.2), *steps_of(16, 7, 1.4)])
    assert [ratio(table, *at) for at in ((4, 3), (4, 7), (16, 7))] == pytest.approx([1.5, 1.2, 1.4])


def test_plain_steps_do_not_follow_those_that_speculate():
    table = corrected(TABLE, [*steps_of(4, 7, 0.7), *steps_of(4, 0, 1.1, followed=False)])
    assert table.plain_s[0] == pytest.approx([1.1 * seconds for seconds in TABLE.plain_s[0]])


def test_what_was_not_seen_follows_its_load_then_its_kind():
    table = corrected(TABLE, [*steps_of(4, 3, 1.5), *steps_of(4, 7, 1.1), *steps_of(16, 7, 1.4)])
    assert ratio(table, 16, 3) == pytest.approx(1.4)
    assert ratio(table, 1, 7) == pytest.approx((1.5 + 1.1 + 1.4) / 3)


def test_a_row_of_prefill_costs_what_it_makes_a_step_longer():
    filling = [
        replace(step, seconds=step.seconds + rows * 3e-4, prefill_rows=rows)
        # As many rows beside steps that were quick as beside slow ones.
        for step, rows in zip(steps_of(4, 3, 1.5), [*range(10, 20), *range(19, 9, -1)], strict=True)
    ]
    table = corrected(TABLE, [*steps_of(4, 3, 1.5), *filling])
    assert table.prefill_row_s == pytest.approx(3e-4)
    assert ratio(table, 4, 3) == pytest.approx(1.5)
    assert corrected(TABLE, [*steps_of(4, 3, 1.5), *filling[:5]]).prefill_row_s == TABLE.prefill_row_s


def test_where_every_step_has_prefill_its_load_has_a_factor_nevertheless():
    rng = np.random.default_rng(0)
    filling = [
        replace(step, seconds=step.seconds + rows * 3e-4, prefill_rows=rows)
        for factor, at in ((1.5, (4, 3)), (1.2, (16, 7)))
        for step, rows in zip(steps_of(*at, factor, count=400), rng.integers(20, 200, 400).tolist(), strict=True)
    ]
    table = corrected(TABLE, filling)
    assert table.prefill_row_s == pytest.approx(3e-4, rel=0.03)
    assert [ratio(table, *at) for at in ((4, 3), (16, 7))] == pytest.approx([1.5, 1.2], rel=0.03)


def test_a_prompt_that_is_alone_tells_nothing_of_steps_that_verify_nothing():
    alone = [replace(step, seconds=0.004, prefill_rows=50) for step in steps_of(1, 0, 1.0)]
    table = corrected(TABLE, [*steps_of(1, 7, 1.2), *alone])
    assert [ratio(table, 1, length) for length in (0, 3, 7)] == pytest.approx([1.2] * 3)


def test_a_few_steps_tell_nothing():
    table = corrected(TABLE, steps_of(4, 3, 3.0, count=5))
    assert [ratio(table, 4, 3), ratio(table, 1, 0)] == pytest.approx([1.0, 1.0])


def test_where_drafts_were_cheaper_than_thought_and_plain_steps_dearer_both_cost_what_they_took():
    table = corrected(TABLE, [*steps_of(4, 7, 0.7), *steps_of(4, 0, 1.3, followed=False)])
    assert ratio(table, 4, 7) == pytest.approx(0.7)
    assert ratio(table, 4, 0, followed=False) == pytest.approx(1.3)


def test_all_steps_of_a_kind_together_cost_what_they_took_even_where_prefill_is_not_by_the_row():
    rng = np.random.default_rng(0)
    steps = [
        # Twice as many rows cost less than twice as much, and of drafts there are now more, now fewer.
        replace(step, num_verified=drafts, prefill_rows=rows, seconds=step.seconds + 1e-4 * drafts + 1e-3 * rows**0.5)
        for step, drafts, rows in zip(
            steps_of(4, 3, 1.5, count=200),
            rng.integers(8, 17, 200).tolist(),
            rng.integers(0, 100, 200).tolist(),
            strict=True,
        )
    ]
    table = corrected(TABLE, steps)
    assert sum(price(table, step) for step in steps) == pytest.approx(sum(step.seconds for step in steps))


def test_what_a_table_misses_of_one_kind_of_step_is_no_scatter_of_all():
    steady = [replace(step, seconds=price(TABLE, step)) for step in steps_of(4, 7, 1.0)]
    dear = [replace(step, seconds=2 * step.seconds) for step in steps_of(4, 3, 1.0)]
    found = np.array(deviations(TABLE, [*steady, *dear]))
    assert found.mean() == pytest.approx(1.0)
    assert found.max() == pytest.approx(1.2)
    assert deviations(TABLE, dear[:5]) == []


def test_steps_scatter_about_the_corrected_table_by_one_on_average():
    steps = steps_of(4, 3, 2.0)
    assert np.mean(deviations(corrected(TABLE, steps), steps)) == pytest.approx(1.0)
