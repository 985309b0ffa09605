"""A plan is kept only while little happens that could change it."""

import numpy as np
import pytest

from policies.standing_plan import StandingPlan
from tests.policies.cases import G, view


def standing(size=2, follow=True, some_draft=True):
    return StandingPlan(view(size, step=1), np.full(size, follow), some_draft, 4)


def test_it_holds_for_as_long_as_it_was_made_for():
    kept = standing()
    plans = [kept.again(view(2, step=step)) for step in range(2, 8)]
    assert [plan is not None for plan in plans] == [True, True, True, False, False, False]
    assert all(plan.follow.all() and (plan.draft_len == G).all() for plan in plans[:3])


def test_nobody_need_have_been_asked_in_between():
    kept = standing(follow=False, some_draft=False)
    assert kept.steps_left(2) == 3
    # By four steps further, each of one token.
    assert kept.again(view(2, step=4, context_len=np.array([15, 15], np.int32))) is not None
    long = StandingPlan(view(2, step=1), np.zeros(2, dtype=np.bool_), False, 4 * G)
    grown = view(2, step=1).context_len + 2 * G
    assert long.again(view(2, step=1 + 2 * G, context_len=grown)) is not None
    assert long.again(view(2, step=2 + 2 * G, context_len=grown + 2 * G)) is None


def test_drafts_stay_within_what_fits():
    assert standing().again(view(2, step=2, gamma_max=np.array([2, G], np.int32))).draft_len.tolist() == [2, G]


def test_who_cannot_draft_just_now_stays_followed():
    again = standing().again(view(2, step=2, gamma_max=np.array([0, G], np.int32)))
    assert again.draft_len.tolist() == [0, G]
    assert again.follow.all()


def test_plain_decoding_stands_too():
    again = standing(follow=False, some_draft=False).again(view(2, step=2))
    assert not again.draft_len.any()
    assert not again.follow.any()


@pytest.mark.parametrize(
    "change",
    [
        {"slots": np.array([0, 2], np.int32)},
        {"context_len": np.array([5, 14], np.int32)},
        {"context_len": np.array([12, 14], np.int32)},
        {"context_len": np.array([12 + G + 2, 14], np.int32)},
    ],
    ids=["other-slots", "shorter", "no-further", "too-far"],
)
def test_a_newcomer_among_few_ends_it(change):
    assert standing().again(view(2, step=2, **change)) is None


@pytest.mark.parametrize("some_draft", [True, False])
def test_a_few_newcomers_among_many_are_treated_as_the_last_were_and_named(some_draft):
    context = view(32, step=2).context_len
    context[[3, 30]] = 5
    again = standing(32, follow=not some_draft, some_draft=some_draft).again(view(32, step=2, context_len=context))
    assert again.new_slots.tolist() == [3, 30]
    assert again.follow[[3, 30]].tolist() == [some_draft] * 2
    assert again.follow[[0, 31]].tolist() == [not some_draft] * 2


def test_a_long_prompt_grows_by_more_than_drafts_and_is_still_the_same_sequence():
    prefill = {"samples": np.array([False, True]), "context_len": np.array([400, 14], np.int32)}
    assert standing().again(view(2, step=2, **prefill)).new_slots.tolist() == []


def test_much_of_a_load_gone_or_come_ends_it():
    assert standing(32).again(view(24, step=2)) is not None
    assert standing(32).again(view(23, step=2)) is None
    assert standing(32).again(view(33, step=2)) is None
