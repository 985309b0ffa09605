"""What speculation brings is told in numbers that can be worked out by hand."""

import numpy as np
import pytest

from core.planning import EarlyStop, FixedLength, StepOutcome, Threshold, TopK
from engine.benefit import Benefit, plain_seconds
from engine.budget import allowed_drafts, expected_accepts
from engine.looks import EVERY
from policies.base import draft_all
from policies.fixed import Fixed
from tests.policies.cases import G, linear_table, view
from toys import SHAPE, make_engine, request, tiny_dspark, tiny_target

TABLE = linear_table(base=4.0, sequence=0.1, row=0.1)


def outcome(accepted, *, step=1, verified=None, step_s=0.006, prefill_rows=0, survival=0.5):
    size = len(accepted)
    verified = np.full(size, 3, dtype=np.int32) if verified is None else np.array(verified, dtype=np.int32)
    filled = np.full((size, G), survival, dtype=np.float32)
    return StepOutcome(
        step=step,
        slots=np.arange(size, dtype=np.int32),
        drafted=verified,
        verified=verified,
        accepted=np.array(accepted, dtype=np.int32),
        step_s=step_s,
        rows=size + int(verified.sum()) + prefill_rows,
        prefill_rows=prefill_rows,
        catch_up_rows=0,
        evidence=filled,
        survival=filled,
        soft_labels=filled,
        floored=np.zeros(size, dtype=np.int32),
    )


def test_tokens_are_priced_at_the_plain_steps_that_would_have_brought_them():
    # Four sequences: a plain step takes 4.8 ms and brings 4 tokens; 4 + 8 tokens are three of those.
    told = plain_seconds(view(4, cost=TABLE), outcome([2, 2, 2, 2]), TABLE)
    assert told == pytest.approx(3 * 0.0048)
    with_prefill = plain_seconds(view(4, cost=TABLE), outcome([2, 2, 2, 2], prefill_rows=10), TABLE)
    assert with_prefill == pytest.approx(3 * 0.0048 + 10 * 0.0001)


@pytest.mark.parametrize(("step_s", "pays"), [(0.0072, 2.0), (0.0144, 1.0), (0.0288, 0.5)])
def test_the_benefit_is_tokens_per_second_now_over_those_of_plain_steps(step_s, pays):
    benefit = Benefit()
    for step in range(3 * EVERY):
        benefit.observe(view(4, cost=TABLE), outcome([2, 2, 2, 2], step=step, step_s=step_s))
    assert benefit.ratio == pytest.approx(pays)
    assert (benefit.plain_s, benefit.spent_s) == (pytest.approx(3 * 3 * 0.0048), pytest.approx(3 * step_s))


def test_what_was_long_ago_is_forgotten_by_the_ratio_but_not_by_the_sums():
    benefit = Benefit()
    benefit.count(100.0, 1.0)
    for _ in range(2000):
        benefit.count(1.0, 2.0)
    assert benefit.ratio == pytest.approx(0.5, rel=0.01)
    assert benefit.plain_s == pytest.approx(2100.0)


def test_without_a_cost_table_nothing_is_said():
    benefit = Benefit()
    for step in range(2 * EVERY):
        benefit.observe(view(4), outcome([2, 2, 2, 2], step=step))
    assert (benefit.ratio, benefit.plain_s) == (None, 0.0)


@pytest.mark.parametrize(
    ("rule", "floor", "allowed"),
    [
        (FixedLength(3), None, 12),
        (FixedLength(3), [7, 0, 0, 0], 16),
        (FixedLength(64), None, 28),
        (TopK(5), None, 5),
        (TopK(99), None, 28),
        (TopK(1), [2, 2, 0, 0], 4),
        (EarlyStop((0.1, 0.2, 0.3)), None, 2),
        (Threshold(0.3), None, 28),
    ],
    ids=str,
)
def test_a_plan_allows_what_its_rule_lets_through_at_most(rule, floor, allowed):
    plan = draft_all(view(4), rule)
    if floor is not None:
        plan = type(plan)(plan.draft_len, rule, plan.follow, floor=np.array(floor, dtype=np.int32))
    assert allowed_drafts(plan) == allowed


def test_expected_accepts_are_the_survivals_of_the_verified_drafts_alone():
    assert expected_accepts(outcome([0, 0], verified=[3, 1], survival=0.25)) == pytest.approx(1.0)


def test_an_engine_counts_what_it_allowed_expected_and_worked_on():
    target = tiny_target()
    engine = make_engine(target, tiny_dspark(target), Fixed(2), SHAPE, ())
    engine.add(request(tuple(range(20)), max_tokens=12))
    emissions = []
    while engine.has_work:
        emissions += engine.step()
    told = engine.snapshot()
    assert told["verified"] <= told["allowed"] <= told["drafted"] + 2
    assert 0 < told["expected"] <= told["verified"]
    # The prompt's last token is what the first new one is drawn from: it counts as that.
    assert told["step_tokens"].total == 19 + 12
    assert sum(told["step_tokens"].counts) == told["steps"]
    assert sum(emission.num_drafted for emission in emissions) == told["drafted"]
    assert told["kv_blocks"]["size"] == SHAPE.block_size
