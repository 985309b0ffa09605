"""What every registered policy promises, and what each of the simple ones says."""

import numpy as np
import pytest

from core.planning import FixedLength, Threshold
from core.registry import POLICIES
from engine.group import check_plan, check_weight
from policies.batch_table import BatchTable
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from tests.policies.cases import G, Rounds, chances, linear_table, view

DEMANDED = {
    "fixed": {"length": 3},
    "confidence": {"threshold": 0.4},
    "batch_table": {"lengths": ((1, 4, 5), (5, 9, 2))},
}
CASES = [(name, DEMANDED.get(name, {})) for name in POLICIES.names()] + [("greedy", {"literal": True})]
by_name = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{'-'.join(o)}" for n, o in CASES])
ARRAYS = [field for field in view().__struct_fields__ if isinstance(getattr(view(), field), np.ndarray)]


def make(name, options):
    return POLICIES.load(name)(**options)


def seen(size=4, gamma=G, **changes):
    changes = {"cost": linear_table(), "gamma_max": np.minimum(np.arange(size) * 3, gamma).astype(np.int32)} | changes
    return view(size, **changes)


def is_sound(plan, given):
    """What the engine checks, and that nothing had to be cut to the view's bounds."""
    size = len(given.slots)
    check_plan(plan, given.survival_lag.shape[1])
    assert plan.draft_len.shape == plan.follow.shape == (size,)
    assert plan.draft_len.dtype == np.int32
    assert plan.follow.dtype == np.bool_
    assert ((plan.draft_len >= 0) & (plan.draft_len <= given.gamma_max)).all()
    assert plan.floor is None or ((plan.floor >= 0) & (plan.floor <= plan.draft_len)).all()
    assert plan.weight is None or len(check_weight(plan.weight)) == size
    return True


HARD_VIEWS = {
    "usual": {},
    "no-cost-table": {"cost": None},
    "no-memory": {"kv_free": 0.0, "queue_depth": 9},
    "others": {"extra_rows": 300, "extra_sequences": 40},
    "queue": {"queue_depth": 50, "oldest_wait_s": 1e6},
}


@by_name
@pytest.mark.parametrize("size", [0, 1, 5, 64])
@pytest.mark.parametrize("changes", HARD_VIEWS.values(), ids=HARD_VIEWS)
def test_a_plan_covers_every_sequence_within_its_bounds(name, options, size, changes):
    policy = make(name, options)
    for step in range(3):
        given = seen(size, step=step, **changes)
        assert is_sound(policy.plan(given), given)


@by_name
def test_stale_prefilling_late_and_urgent_sequences_are_within_the_bounds_too(name, options):
    policy = make(name, options)
    for step in range(12):
        given = seen(
            6,
            step=step,
            gamma_max=np.array([0, 0, G, G, 1, G], np.int32),
            stale_rows=np.array([40, 0, 0, 0, 0, 0], np.int32),
            samples=np.array([1, 0, 1, 1, 1, 1], np.bool_),
            deadline_in_s=np.array([0.01, 0.01, -5.0, 0.5, np.inf, 0.0], np.float32),
            priority=np.array([-100, 100, 0, 1, 2, 3], np.int32),
        )
        assert is_sound(policy.plan(given), given)


@by_name
def test_a_drafter_of_no_drafts_is_never_asked(name, options):
    given = seen(3, gamma=0, survival_lag=np.zeros((3, 0), np.float32))
    assert not make(name, options).plan(given).draft_len.any()


@by_name
def test_a_plan_leaves_the_view_alone(name, options):
    policy, given = make(name, options), seen(deadline_in_s=np.full(4, 0.2, np.float32))
    before = {field: getattr(given, field).copy() for field in ARRAYS}
    plan = policy.plan(given)
    plan.draft_len[:] = -1
    for field in ARRAYS:
        np.testing.assert_array_equal(getattr(given, field), before[field])


def same(plan, other):
    assert type(plan.rule) is type(other.rule)
    for field in (*plan.rule.__struct_fields__,):
        np.testing.assert_array_equal(getattr(plan.rule, field), getattr(other.rule, field))
    for field in ("draft_len", "follow", "floor", "weight"):
        np.testing.assert_equal(getattr(plan, field), getattr(other, field))
    return True


def played(name, options, num_steps=30):
    table = linear_table(base=4.0, row=0.05, draft=(0.2, 0.05))
    rounds = Rounds(make(name, options), table, chances(0.9, 0.5, 0.1, 0.8), priority=np.array([1, 2, 1, 1], np.int32))
    rounds.facts["deadline_in_s"] = np.array([0.5, np.inf, 1.0, np.inf], np.float32)
    rounds.play(num_steps)
    return rounds


@by_name
def test_a_plan_follows_from_what_was_seen_and_nothing_else(name, options):
    assert same(played(name, options).next(), played(name, options).next())


@by_name
def test_a_plan_does_not_know_the_drafts_of_its_own_step(name, options):
    rounds, other = played(name, options), played(name, options)
    other.survival = 1.0 - other.survival
    other.random = np.random.default_rng(99)
    assert same(rounds.next(), other.next())


@by_name
def test_it_can_be_made_from_its_settings(name, options):
    assert {"plan", "observe", "name"} <= set(dir(make(name, options)))
    assert make(name, options).name == name


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


TABLE = BatchTable(((1, 2, 5), (4, 8, 3), (9, 16, 0)))


@pytest.mark.parametrize(
    ("size", "others", "length"),
    [(1, 0, 5), (2, 0, 5), (3, 0, 5), (4, 0, 3), (2, 2, 3), (8, 0, 3), (9, 0, 0), (1, 8, 0), (64, 0, 0)],
    ids=lambda value: str(value),
)
def test_a_batch_table_says_how_much_a_batch_of_that_size_drafts(size, others, length):
    plan = TABLE.plan(view(size, extra_sequences=others))
    assert plan.rule == FixedLength(length)
    assert plan.draft_len.tolist() == [length] * size
    assert plan.follow.all() == (length > 0)
