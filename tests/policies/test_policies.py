"""What every policy promises, and what each of the shipped ones says."""

import numpy as np
import pytest

from core.types import FixedLength, Threshold
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive
from tests.policies.cases import G, linear_table, view

POLICIES = {"off": Off(), "fixed": Fixed(3), "confidence": Confidence(0.4), "load_adaptive": LoadAdaptive()}


def seen(size=4, gamma=G):
    return view(size, cost=linear_table(), gamma_max=np.minimum(np.arange(size) * 3, gamma).astype(np.int32))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [0, 1, 5, 64])
def test_a_plan_covers_every_sequence_within_its_bounds(name, size):
    given = seen(size)
    plan = POLICIES[name].plan(given)
    assert plan.draft_len.shape == plan.follow.shape == (size,)
    assert plan.draft_len.dtype == np.int32
    assert (plan.draft_len >= 0).all()
    assert (plan.draft_len <= given.gamma_max).all()


@pytest.mark.parametrize("name", POLICIES)
def test_a_plan_leaves_the_view_alone(name):
    given = seen()
    before = given.gamma_max.copy()
    POLICIES[name].plan(given).draft_len[:] = -1
    assert (given.gamma_max == before).all()


def test_off_drafts_nothing_and_follows_nobody():
    plan = Off().plan(seen())
    assert not plan.draft_len.any()
    assert not plan.follow.any()


def test_fixed_drafts_no_more_than_it_verifies():
    plan = Fixed(2).plan(seen())
    assert plan.draft_len.tolist() == [0, 2, 2, 2]
    assert plan.rule == FixedLength(2)


def test_confidence_drafts_all_and_leaves_the_cut_to_the_threshold():
    plan = Confidence(0.4, cumulative=False).plan(seen())
    assert plan.draft_len.tolist() == [0, 3, 6, 7]
    assert plan.rule == Threshold(0.4, cumulative=False)
