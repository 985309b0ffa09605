"""What every policy promises, and what each of the shipped ones says."""

import numpy as np
import pytest

from core.types import FixedLength, StepView, Threshold
from policies.confidence import Confidence
from policies.fixed import Fixed, Off

POLICIES = {"off": Off(), "fixed": Fixed(3), "confidence": Confidence(0.4)}


def view(size=4, gamma=7):
    return StepView(
        step=1,
        slots=np.arange(size, dtype=np.int32),
        gamma_max=np.minimum(np.arange(size, dtype=np.int32) * 3, gamma).astype(np.int32),
        samples=np.ones(size, dtype=np.bool_),
        context_len=np.full(size, 10, dtype=np.int32),
        extra_rows=0,
        extra_sequences=0,
        stale_rows=np.zeros(size, dtype=np.int32),
        survival_lag=np.full((size, gamma), np.nan, dtype=np.float32),
        kv_free=0.5,
        queue_depth=0,
    )


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [0, 1, 5, 64])
def test_a_plan_covers_every_sequence_within_its_bounds(name, size):
    seen = view(size)
    plan = POLICIES[name].plan(seen)
    assert plan.draft_len.shape == plan.follow.shape == (size,)
    assert plan.draft_len.dtype == np.int32
    assert (plan.draft_len >= 0).all()
    assert (plan.draft_len <= seen.gamma_max).all()


@pytest.mark.parametrize("name", POLICIES)
def test_a_plan_leaves_the_view_alone(name):
    seen = view()
    before = seen.gamma_max.copy()
    POLICIES[name].plan(seen).draft_len[:] = -1
    assert (seen.gamma_max == before).all()


def test_off_drafts_nothing_and_follows_nobody():
    plan = Off().plan(view())
    assert not plan.draft_len.any()
    assert not plan.follow.any()


def test_fixed_drafts_no_more_than_it_verifies():
    plan = Fixed(2).plan(view())
    assert plan.draft_len.tolist() == [0, 2, 2, 2]
    assert plan.rule == FixedLength(2)


def test_confidence_drafts_all_and_leaves_the_cut_to_the_threshold():
    plan = Confidence(0.4, cumulative=False).plan(view())
    assert plan.draft_len.tolist() == [0, 3, 6, 7]
    assert plan.rule == Threshold(0.4, cumulative=False)
