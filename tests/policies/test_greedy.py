"""Algorithm 1's table as it is handed to admission: with and without stairs, with and without the price of drafting."""

import numpy as np
import pytest
from msgspec.structs import replace

from core.planning import EarlyStop, FixedLength
from policies.greedy import Greedy
from tests.policies.cases import G, Rounds, chances, linear_table, view

SMOOTH = linear_table(row=0.3, draft=(0.5, 0.1))
PADDED = replace(SMOOTH, row_shapes=(4, 8, 16, 32))


def plan_of(table, *, literal=False, size=4):
    rounds = Rounds(Greedy(literal=literal), table, chances(*[0.9] * size))
    return rounds.play(30)[-1]


def test_repaired_it_counts_what_drafting_costs_in_every_candidate_and_none_among_them():
    plan = plan_of(SMOOTH)
    assert isinstance(plan.rule, EarlyStop)
    expected = SMOOTH.step_s(4, 4, np.arange(4 * G + 1), 32)
    np.testing.assert_allclose(plan.rule.step_s, expected, rtol=1e-9)
    assert plan.rule.tops == ()


def test_literal_it_counts_rows_only():
    plan = plan_of(SMOOTH, literal=True)
    plain_s = float(SMOOTH.step_s(4, 0, 0, 32))
    assert plan.rule.step_s[0] == pytest.approx(plain_s)
    assert plan.draft_len.tolist() == [G] * 4


def test_on_padded_shapes_the_stop_is_smooth_and_the_shape_is_filled():
    repaired, literal = plan_of(PADDED).rule, plan_of(PADDED, literal=True).rule
    assert repaired.tops == (0, 4, 12, 28)
    assert (np.diff(repaired.step_s) > 0).all()
    stairs = np.flatnonzero(np.diff(literal.step_s) > 0)
    assert stairs.tolist() == [0, 4, 12]
    assert literal.tops == ()


def test_it_also_decides_not_to_draft():
    dear = linear_table(base=0.1, row=5.0)
    assert not plan_of(dear).draft_len.any()
    assert plan_of(dear, literal=True).draft_len.all()


@pytest.mark.parametrize("literal", [False, True])
def test_without_a_cost_table_nothing_is_trimmed(literal):
    plan = Greedy(literal=literal).plan(view(3))
    assert plan.rule == FixedLength(G)
    assert plan.draft_len.tolist() == [G] * 3
