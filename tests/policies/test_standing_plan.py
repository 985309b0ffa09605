"""A plan is kept only while nothing happens that could change it."""

import numpy as np
import pytest

from core.types import Plan, TopK
from policies.standing_plan import StandingPlan
from tests.policies.cases import G, view


def standing(seen, draft_len=G):
    size = len(seen.slots)
    drafts = np.full(size, draft_len, np.int32)
    return StandingPlan(seen, Plan(drafts, TopK(5), drafts > 0), 0.005, 4)


def test_it_holds_for_as_long_as_it_was_made_for():
    kept = standing(view(2, step=1))
    plans = [kept.again(view(2, step=step)) for step in range(2, 8)]
    assert [plan is not None for plan in plans] == [True, True, True, False, False, False]
    assert all(plan.rule == TopK(5) and plan.follow.all() for plan in plans[:3])


def test_drafts_stay_within_what_fits():
    plan = standing(view(2, step=1)).again(view(2, step=2, gamma_max=np.array([2, G], np.int32)))
    assert plan.draft_len.tolist() == [2, G]


def test_plain_decoding_stands_too():
    plan = standing(view(2, step=1), draft_len=0).again(view(2, step=2))
    assert not plan.draft_len.any()
    assert not plan.follow.any()


@pytest.mark.parametrize(
    "change",
    [
        {"slots": np.array([0, 2], np.int32)},
        {"context_len": np.array([5, 14], np.int32)},
        {"context_len": np.array([12, 14], np.int32)},
        {"context_len": np.array([12 + G + 2, 14], np.int32)},
        {"samples": np.array([True, False])},
        {"gamma_max": np.array([0, G], np.int32)},
        {"extra_rows": 3},
    ],
    ids=["other-slots", "shorter", "no-further", "too-far", "prefill", "no-room", "rows-of-others"],
)
def test_what_is_new_ends_it(change):
    assert standing(view(2, step=1)).again(view(2, step=2)) is not None
    assert standing(view(2, step=1)).again(view(2, step=2, **change)) is None


def test_other_sequences_end_it():
    kept = standing(view(2, step=1))
    assert kept.again(view(3, step=2)) is None
    assert kept.again(view(1, step=2)) is None


def test_a_step_that_catches_up_is_thought_over_at_once():
    seen = view(2, step=1)
    kept = StandingPlan(seen, Plan(np.array([G, 0], np.int32), TopK(5), np.ones(2, np.bool_)), 0.005, 4)
    assert kept.again(view(2, step=2)) is None
