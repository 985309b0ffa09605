"""Deadlines get the drafts they need, priorities the better ones, and a long queue gets tokens per second."""

import numpy as np
import pytest

from policies.load_adaptive import LoadAdaptive
from policies.prices import Step
from policies.slo import Slo, fitted, most_in_time
from tests.policies.cases import G, Rounds, chances, linear_table

# A step of 8 takes 5.6 ms, and a draft row nearly what it brings at best: without deadlines little is verified.
TABLE = linear_table(base=4.0, sequence=0.1, row=0.35, draft=(0.1, 0.01))
NONE = np.inf


def played(quality, deadlines, *, num_steps=40, policy=None, table=TABLE, **facts):
    """Rounds under deadlines, in seconds from every step, of 1000 tokens."""
    facts |= {"deadline_in_s": np.array(deadlines, np.float32)}
    rounds = Rounds(policy or Slo(), table, chances(*quality), **facts)
    return rounds, rounds.play(num_steps)[-1]


def test_without_deadlines_and_priorities_it_is_load_adaptive():
    ours, theirs = Rounds(Slo(), TABLE, chances(0.9, 0.5, 0.2)), Rounds(LoadAdaptive(), TABLE, chances(0.9, 0.5, 0.2))
    for plan, other in zip(ours.play(60), theirs.play(60), strict=True):
        assert plan.rule == other.rule
        assert plan.draft_len.tolist() == other.draft_len.tolist()
        assert plan.weight is None
        assert np.array_equal(plan.floor, other.floor)


@pytest.mark.parametrize("deadline_s", [2.5, 3.0, 4.0, 6.0])
def test_the_floor_is_the_least_number_of_drafts_that_keeps_the_pace(deadline_s):
    _, plan = played([0.9] * 4, [deadline_s, NONE, 1e4, NONE])
    calm = Rounds(LoadAdaptive(), TABLE, chances(*[0.9] * 4)).play(40)[-1]
    needed = 1000 / deadline_s * calm.predicted_step_s - 1
    least = 1 + int(np.searchsorted(np.cumsum(0.9 ** np.arange(1, G + 1)), needed))
    assert abs(plan.floor[0] - min(least, G)) <= 1
    assert plan.floor[1:].tolist() == [0, 0, 0]
    assert plan.rule.budget >= plan.floor[0]


def test_an_urgent_sequence_goes_faster_than_it_would():
    urgent, _ = played([0.8] * 8, [1.5] + [NONE] * 7, num_steps=200)
    calm, _ = played([0.8] * 8, [NONE] * 8, num_steps=200)
    assert urgent.accepted[0] > 1.2 * calm.accepted[0]


def test_one_that_does_not_draft_is_caught_up_for_its_deadline():
    dear = linear_table(base=0.1, row=5.0)
    rounds, plan = played([0.8] * 4, [NONE] * 4, table=dear)
    assert not plan.follow.any()
    rounds.facts["deadline_in_s"] = np.array([8.0, NONE, NONE, NONE], np.float32)
    plans = rounds.play(12)
    assert plans[-1].follow.tolist() == [True, False, False, False]
    assert plans[-1].floor[0] > 0


def test_deadlines_are_looked_at_in_every_step_even_where_nothing_pays():
    dear = linear_table(base=0.1, row=5.0)
    for deadline_s, stands in ((NONE, True), (1e4, False)):
        rounds, _ = played([0.1] * 4, [deadline_s] + [NONE] * 3, table=dear)
        assert any(plan.stands > 1 for plan in rounds.play(16)) is stands


def test_a_deadline_that_is_past_asks_for_nothing():
    _, plan = played([0.9] * 2, [-1.0, NONE])
    assert plan.floor is None


def test_where_not_all_deadlines_fit_floors_are_scaled_by_weight():
    floor, weight = np.array([6, 6, 0], np.int32), np.array([2.0, 1.0, 1.0])
    assert fitted(floor, weight, 12).tolist() == [6, 6, 0]
    scaled = fitted(floor, weight, 6)
    assert scaled.sum() <= 6
    assert scaled[0] > scaled[1]


def test_a_queue_that_has_waited_too_long_takes_back_what_deadlines_cost_others():
    def floors(waited_s):
        _, plan = played([0.8] * 8, [0.5] * 8, queue_depth=5, oldest_wait_s=waited_s)
        return int(plan.floor.sum())

    patient, half, impatient = floors(0.0), floors(1.0), floors(10.0)
    assert patient > half > impatient
    calm = Rounds(LoadAdaptive(), TABLE, chances(*[0.8] * 8)).play(40)[-1]
    assert impatient <= calm.rule.budget


def test_greater_priority_gets_the_drafts_that_are_verified():
    rounds, plan = played([0.8] * 8, [NONE] * 8, num_steps=200, priority=np.array([4] * 4 + [1] * 4, np.int32))
    assert (plan.weight[:4] > plan.weight[4:]).all()
    assert rounds.accepted[:4].sum() > 1.3 * rounds.accepted[4:].sum()


@pytest.mark.parametrize(("pace", "most"), [(0.0, 28), (1 / 6.1e-3, 4), (1 / 1e-3, 28)])
def test_nobody_is_made_late_by_the_drafts_of_others(pace, most):
    table = linear_table(base=4.0, sequence=0.0, row=0.25, follow=0.0, draft=(0.0, 0.0))
    prices = table.at(32)
    step = Step(prices, 4, prices.plain_s(4))
    plan = LoadAdaptive().plan(Rounds(None, table, chances(*[0.9] * 4)).seen())
    tokens = np.cumsum(chances(*[0.9] * 4), axis=1)
    paces = np.array([pace, 0.0, 0.0, 0.0])
    # Late even in a step without drafts, or without a deadline: neither is a reason to hold others back.
    assert most_in_time(step, plan, paces, tokens, np.zeros(4, np.int32)) == most
