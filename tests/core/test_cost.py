"""What a cost table answers between, on and beyond the points that were measured."""

import msgspec
import numpy as np
import pytest

from core.cost import CostTable
from core.errors import ShapeError

TABLE = CostTable(
    sequences=(1, 4, 16),
    lengths=(0, 1, 3),
    contexts=(32, 512),
    plain_s=((1.0, 2.0, 6.0), (2.0, 4.0, 12.0)),
    verify_s=(
        ((1.5, 2.0, 3.0), (3.0, 4.0, 6.0), (8.0, 12.0, 20.0)),
        ((3.0, 4.0, 6.0), (6.0, 8.0, 12.0), (16.0, 24.0, 40.0)),
    ),
    draft_s=((0.5, 0.75, 1.5), (1.0, 1.5, 3.0)),
    prefill_row_s=0.1,
    catch_up_row_s=0.2,
)


@pytest.mark.parametrize("c", range(2))
@pytest.mark.parametrize("s", range(3))
def test_what_was_measured_is_met_exactly(c, s):
    context, sequences = TABLE.contexts[c], TABLE.sequences[s]
    assert TABLE.step_s(sequences, 0, 0, context) == pytest.approx(TABLE.plain_s[c][s])
    for length, seconds in zip(TABLE.lengths, TABLE.verify_s[c][s], strict=True):
        step_s = TABLE.step_s(sequences, sequences, sequences * length, context)
        assert step_s == pytest.approx(seconds + TABLE.draft_s[c][s])


def test_between_the_points_it_is_linear():
    assert TABLE.step_s(10, 0, 0, 32) == pytest.approx(4.0)
    assert TABLE.step_s(4, 0, 0, 272) == pytest.approx(3.0)
    assert TABLE.step_s(4, 4, 8, 32) == pytest.approx(5.0 + 0.75)


def test_beyond_the_points_it_goes_on_as_it_ended():
    assert TABLE.step_s(28, 0, 0, 32) == pytest.approx(10.0)
    assert TABLE.step_s(4, 0, 0, 992) == pytest.approx(6.0)
    assert TABLE.step_s(4, 4, 20, 32) == pytest.approx(8.0 + 0.75)


def test_before_the_first_context_nothing_gets_cheaper():
    assert TABLE.step_s(4, 0, 0, 1) == TABLE.step_s(4, 0, 0, 32)


def test_a_mixed_step_follows_some_and_verifies_rows_among_all():
    follow_and_draft = (3.0 - 2.0) + 0.75
    four_rows_in_sixteen = (12.0 - 8.0) * 4 / 16
    assert TABLE.step_s(16, 4, 4, 32) == pytest.approx(6.0 + follow_and_draft + four_rows_in_sixteen)


def test_other_rows_are_added_at_their_price():
    plain = TABLE.step_s(1, 0, 0, 32)
    assert TABLE.step_s(1, 0, 0, 32, prefill_rows=10, catch_up_rows=5) - plain == pytest.approx(2.0)


def test_many_plans_are_priced_at_once():
    seconds = TABLE.step_s(16, np.array([0, 4, 16]), np.array([0, 4, 16]), 32)
    assert seconds == pytest.approx([TABLE.step_s(16, n, n, 32) for n in (0, 4, 16)])


def test_more_of_anything_never_costs_less():
    by_drafts = TABLE.step_s(5, 5, np.arange(100), 100)
    by_followed = TABLE.step_s(40, np.arange(41), 0, 100)
    by_sequences = np.array([TABLE.step_s(n, 0, 0, 100) for n in range(1, 100)])
    for seconds in (by_drafts, by_followed, by_sequences):
        assert (np.diff(seconds) >= 0).all()


def test_curves_are_the_prices_of_all_numbers_up_to_the_last():
    prices = TABLE.at(100)
    assert prices.speculation_curve(9) == pytest.approx(prices.speculation_s(np.arange(10)))
    assert prices.verification_curve(5, 4) == pytest.approx(prices.verification_s(5, np.arange(5)))
    assert prices.verification_curve(5, 30) == pytest.approx(prices.verification_s(5, np.arange(31)))


def test_one_point_is_a_table_too():
    table = CostTable((2,), (0,), (32,), ((1.0,),), (((1.5,),),), ((0.5,),), 0.0, 0.0)
    assert table.step_s(7, 7, 3, 900) == pytest.approx(2.0)


def test_it_survives_json():
    table = msgspec.json.decode(msgspec.json.encode(TABLE), type=CostTable)
    assert table == TABLE
    assert table.step_s(3, 2, 4, 77) == TABLE.step_s(3, 2, 4, 77)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequences": (4, 1, 16)}, "sequences of a cost table must ascend"),
        ({"contexts": ()}, "contexts of a cost table must ascend"),
        ({"lengths": (1, 2, 3)}, "lengths must begin at 0"),
        ({"plain_s": ((1.0, 2.0, 3.0),)}, r"plain_s of a cost table must be \[2, 3\]"),
        ({"draft_s": ((1.0, 2.0), (1.0, 2.0, 3.0))}, "draft_s .* different lengths"),
        ({"plain_s": ((1.0, 2.0, float("nan")),) * 2}, "plain_s of a cost table must be"),
        ({"draft_s": ((1.0, 2.0, -1.0),) * 2}, "draft_s of a cost table must be"),
    ],
)
def test_a_table_that_does_not_fit_its_grids_is_refused(change, message):
    with pytest.raises(ShapeError, match=message):
        msgspec.structs.replace(TABLE, **change)


PADDED = msgspec.structs.replace(TABLE, row_shapes=(4, 8, 16))


def test_where_steps_are_padded_rows_are_free_up_to_the_next_shape():
    prices = PADDED.at(32)
    assert prices.verification_curve(4, 13) == pytest.approx([0.0] + [1.0] * 4 + [3.0] * 8 + [3.25])
    assert prices.smooth_verification_curve(4, 13) == pytest.approx(0.25 * np.arange(14))
    assert TABLE.at(32).verification_curve(4, 13) == pytest.approx(0.25 * np.arange(14))


def test_padding_counts_the_rows_of_others():
    prices = PADDED.at(32)
    assert prices.verification_curve(4, 3, other_rows=2) == pytest.approx([1.0, 1.0, 1.0, 3.0])
    assert prices.tops(6, 20) == (2, 10)
    assert prices.tops(4, 11) == (0, 4)
    assert TABLE.at(32).tops(4, 11) == ()


def test_row_shapes_must_ascend():
    with pytest.raises(ShapeError, match="row_shapes"):
        msgspec.structs.replace(TABLE, row_shapes=(8, 4))
