"""What the default policy does on machines and sequences whose right answer is plain."""

from types import SimpleNamespace

import numpy as np
import pytest
from structlog.testing import capture_logs

from core.planning import FixedLength, StepOutcome, TopK
from policies.load_adaptive import IDLE_REVIEW, LoadAdaptive
from tests.policies.cases import G, Rounds, chances, linear_table, view

CHEAP = linear_table(row=0.001)
DEAR = linear_table(base=0.1, row=5.0)


def settle(cost, survival, num_steps=100, policy=None):
    """Rounds that have been played until the policy has made up its mind."""
    rounds = Rounds(policy or LoadAdaptive(), cost, survival)
    rounds.play(num_steps)
    return rounds


def test_without_a_cost_table_everything_is_drafted_and_it_is_said_once():
    policy = LoadAdaptive()
    with capture_logs() as logs:
        plans = [policy.plan(view(step=step)) for step in range(3)]
    assert [entry["event"] for entry in logs] == ["cost_table_missing"]
    for plan in plans:
        assert plan.draft_len.tolist() == [G] * 4
        assert plan.rule == FixedLength(G)
        assert plan.follow.all()


@pytest.mark.parametrize("size", [1, 4, 32])
def test_where_rows_are_cheap_all_likely_drafts_are_verified(size):
    plan = settle(CHEAP, chances(*[0.9] * size)).next()
    assert plan.draft_len.tolist() == [G] * size
    assert plan.rule == TopK(G * size)


@pytest.mark.parametrize("size", [1, 4, 32])
def test_where_rows_are_dear_nothing_is_drafted_and_nobody_followed(size):
    plan = settle(DEAR, chances(*[0.9] * size)).next()
    assert not plan.draft_len.any()
    assert not plan.follow.any()


def test_it_is_not_asked_in_every_step_where_nothing_pays():
    stood = [plan.stands for plan in settle(DEAR, chances(*[0.9] * 4)).play(IDLE_REVIEW)]
    # Until the next review, whenever it is asked.
    assert sorted(stood) == list(range(1, IDLE_REVIEW + 1))
    assert {plan.stands for plan in settle(CHEAP, chances(*[0.9] * 4)).play(IDLE_REVIEW)} == {1}


def test_rising_load_shortens_drafts_and_then_ends_them():
    table = linear_table(base=4.0, sequence=0.0, row=0.1, draft=(0.2, 0.1))
    lengths = [settle(table, chances(*[0.8] * size)).next().rule.budget / size for size in (1, 4, 16, 64)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] >= 5
    assert lengths[-1] == 0


def test_one_poor_sequence_stops_alone():
    plan = settle(linear_table(draft=(0.5, 0.4)), chances(0.9, 0.05, 0.9)).next()
    assert plan.draft_len.tolist() == [G, 0, G]
    assert plan.follow.tolist() == [True, False, True]


def test_a_draft_that_is_never_accepted_is_not_trusted_however_sure_it_is():
    rounds = Rounds(LoadAdaptive(), linear_table(draft=(0.5, 0.4)), chances(0.9, 0.9))
    rounds.random = SimpleNamespace(random=lambda size: np.array([0.5, 0.999]))
    assert rounds.play(60)[-1].follow.tolist() == [True, False]


def test_near_break_even_it_does_not_flap():
    table = linear_table(row=0.25, draft=(0.8, 0.1), catch_up=0.25)
    random = np.random.default_rng(0)
    rounds = Rounds(LoadAdaptive(), table, chances(0.5))
    follows = []
    for _ in range(400):
        rounds.survival = chances(np.clip(random.normal(0.5, 0.15), 0.05, 0.95)).astype(np.float32)
        follows.append(bool(rounds.next().follow[0]))
    assert np.count_nonzero(np.diff(follows)) <= 8


def test_a_sequence_that_stopped_is_probed_ever_more_rarely():
    rounds = Rounds(LoadAdaptive(probe_after=16), linear_table(catch_up=0.0, draft=(0.05, 0.01)), chances(0.02))
    drafts = np.array([plan.draft_len[0] > 0 for plan in rounds.play(800)])
    probes = np.flatnonzero(drafts[1:] & ~drafts[:-1])
    gaps = np.diff(probes)
    assert len(probes) >= 4
    assert (gaps[1:] >= 1.7 * gaps[:-1]).all()
    assert drafts[probes[0] :].sum() <= 2 * len(probes)


def test_a_probe_that_costs_too_much_to_catch_up_with_is_not_made():
    rounds = settle(linear_table(catch_up=5.0), chances(0.02))
    assert not any(plan.follow.any() for plan in rounds.play(800))


@pytest.mark.parametrize("step", [0, 1, 100_000])
def test_steps_before_a_sequence_came_are_no_reason_to_probe_it(step):
    policy = LoadAdaptive()
    plans = [policy.plan(view(1, step=step + i, cost=DEAR, context_len=np.array([9 + i], np.int32))) for i in range(9)]
    assert not any(plan.follow.any() for plan in plans)


def test_a_probe_that_finds_the_sequence_changed_brings_it_back():
    rounds = settle(linear_table(catch_up=0.0), chances(0.02))
    rounds.survival = chances(0.95).astype(np.float32)
    rounds.play(300)
    assert rounds.next().draft_len.tolist() == [G]


@pytest.mark.parametrize(("catch_up", "expected"), [(0.001, True), (50.0, False)])
def test_falling_load_brings_drafting_back_where_catching_up_pays(catch_up, expected):
    table = linear_table(base=8.0, row=1.0, draft=(0.5, 0.3), catch_up=catch_up)
    many = settle(table, chances(*[0.8] * 64))
    assert not many.next().follow.any()
    few = {"context_len": many.context[:1], "stale_rows": many.stale[:1], "survival_lag": many.lag[:1]}
    assert many.policy.plan(view(1, step=many.step, cost=table, **few)).follow.tolist() == [expected]


def test_a_newcomer_in_a_slot_is_not_judged_by_who_was_there_before():
    policy = LoadAdaptive()
    rounds = settle(linear_table(), chances(0.02), policy=policy)
    assert not rounds.next().follow.any()
    newcomer = view(1, step=rounds.step, cost=rounds.cost, context_len=np.array([5], np.int32))
    # What newcomers may expect was learnt from the poor one too, so a record of others is what counts here.
    policy._record = type(policy._record)(G)
    assert policy.plan(newcomer).draft_len.tolist() == [G]


def in_prefill(cost, step=1):
    return view(1, step=step, cost=cost, gamma_max=np.zeros(1, np.int32), samples=np.zeros(1, np.bool_))


@pytest.mark.parametrize(("cost", "expected"), [(CHEAP, True), (DEAR, False)])
def test_a_prompt_is_followed_if_its_answer_will_be_drafted(cost, expected):
    plan = LoadAdaptive().plan(in_prefill(cost))
    assert plan.follow.tolist() == [expected]
    assert plan.draft_len.tolist() == [0]


def test_who_must_not_draft_is_neither_followed_nor_caught_up_for():
    policy = LoadAdaptive()
    none = np.zeros(1, np.int32)
    policy.plan(in_prefill(CHEAP))
    plans = [policy.plan(view(1, step=step, cost=CHEAP, gamma_max=none)) for step in range(2, 12)]
    assert not plans[-1].follow.any()
    stale = policy.plan(view(1, step=12, cost=CHEAP, gamma_max=none, stale_rows=np.array([3], np.int32)))
    assert not stale.follow.any()


def test_a_sequence_without_room_for_drafts_just_now_stays_followed():
    rounds = settle(CHEAP, chances(0.9, 0.9))
    seen = view(2, step=rounds.step, cost=CHEAP, gamma_max=np.array([0, G], np.int32), survival_lag=rounds.lag)
    seen.context_len[:] = rounds.context
    plan = rounds.policy.plan(seen)
    assert plan.draft_len.tolist() == [0, G]
    assert plan.follow.all()


def test_rows_of_others_make_drafts_worth_more_only_through_the_time_they_take():
    table = linear_table(base=4.0, row=0.6, draft=(0.2, 0.1))
    alone = settle(table, chances(0.8)).next().rule.budget
    rounds = settle(table, chances(0.8))
    seen = view(1, step=rounds.step, cost=table, survival_lag=rounds.lag, extra_rows=40)
    seen.context_len[:] = rounds.context
    beside_prefill = rounds.policy.plan(seen).rule.budget
    assert beside_prefill > alone


def test_the_error_of_its_predictions_can_be_read():
    rounds = settle(CHEAP, chances(0.9))
    assert abs(rounds.policy.prediction_error) < 0.02
    for _ in range(200):
        plan = rounds.next()
        slower = StepOutcome(
            0,
            *[np.zeros(0, np.int32)] * 4,
            2 * rounds.cost.step_s(1, 1, 7, 32),
            1,
            0,
            0,
            *[np.zeros((0, 7), np.float32)] * 3,
            np.zeros(0, np.int32),
        )
        rounds.policy._predicted_s = float(rounds.cost.step_s(1, 1, plan.rule.budget, 32))
        rounds.policy.observe(slower)
    assert rounds.policy.prediction_error < -0.2


def test_short_memory_rests_drafting_and_keeps_drafters_up():
    rounds = settle(CHEAP, chances(0.9, 0.9))
    rounds.facts["kv_free"] = 0.04
    plan = rounds.next()
    assert not plan.draft_len.any()
    assert plan.follow.all()
    rounds.facts["kv_free"] = 0.08
    assert not rounds.next().draft_len.any()
    rounds.facts["kv_free"] = 0.12
    assert rounds.next().draft_len.tolist() == [G, G]


def test_a_queue_that_grows_for_want_of_memory_rests_drafting_and_one_that_does_not_grow_does_not():
    rounds = settle(CHEAP, chances(0.9))
    rounds.facts |= {"kv_free": 0.08, "queue_depth": 0}
    assert rounds.next().draft_len.any()
    rounds.facts["queue_depth"] = 2
    assert not rounds.next().draft_len.any()
    rounds.facts |= {"kv_free": 0.5, "queue_depth": 9}
    assert rounds.next().draft_len.any()


def test_many_sequences_are_reviewed_less_often_but_at_first_as_often_as_few():
    policy = LoadAdaptive()
    rounds = Rounds(policy, linear_table(base=40.0, row=0.05), chances(*[0.8] * 128))
    reviewed = []
    for _ in range(200):
        rounds.next()
        reviewed.append(policy._reviewed_step)
    gaps = np.diff(np.unique(reviewed))
    assert gaps[0] <= 5
    assert gaps[-1] == 8


def test_a_newcomer_among_many_is_drafted_for_at_once_and_learnt_about_from_the_start():
    rounds = settle(CHEAP, chances(*[0.9] * 32))
    rounds.context[5], rounds.lag[5] = 7, np.nan
    assert rounds.next().draft_len[5] == G
    rounds.play(40)
    assert rounds.policy.expected(rounds.seen())[5, 0] > 0.6
