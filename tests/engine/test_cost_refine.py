"""The cost table in use follows the steps that are really run, and nothing else."""

import numpy as np
import pytest

from core.planning import Plan, StepOutcome, TopK
from engine.cost_refine import PUBLISH_EVERY, CostRefinement
from engine.looks import EVERY
from tests.policies.cases import G, linear_table, view

TABLE = linear_table()


def outcome(size, verified, step_s, step, *, prefill_rows=0, catch_up_rows=0):
    lengths = np.full(size, verified, dtype=np.int32)
    return StepOutcome(
        step=step,
        slots=np.arange(size, dtype=np.int32),
        drafted=lengths,
        verified=lengths,
        accepted=lengths,
        step_s=step_s,
        rows=size * (1 + verified) + prefill_rows + catch_up_rows,
        prefill_rows=prefill_rows,
        catch_up_rows=catch_up_rows,
        evidence=np.zeros((size, G), np.float32),
        survival=np.zeros((size, G), np.float32),
        soft_labels=np.zeros((size, G), np.float32),
        floored=np.zeros(size, np.int32),
    )


def play(costs, size, verified, slower, steps=EVERY * PUBLISH_EVERY * 8, **others):
    """Steps that take `slower` times what the measured table says, drafts and all."""
    follow = np.full(size, verified > 0)
    plan = Plan(np.full(size, verified, dtype=np.int32), TopK(size * verified), follow)
    seen = view(size)
    seconds = float(TABLE.step_s(size, size if verified else 0, size * verified, 12))
    for step in range(steps):
        costs.observe(seen, plan, outcome(size, verified, seconds * slower, step, **others))


def ratio(costs, size, verified):
    """What the table in use says of a step over what the measured one said."""
    facts = size, size if verified else 0, size * verified, 12
    return float(costs.table.step_s(*facts) / TABLE.step_s(*facts))


def test_steps_that_take_longer_than_measured_are_expected_to():
    costs = CostRefinement(TABLE)
    play(costs, 8, 3, 1.5)
    assert ratio(costs, 8, 3) == pytest.approx(1.5, rel=0.02)
    # A load and a kind of step that were never seen go with the average of all.
    assert ratio(costs, 64, 0) == pytest.approx(1.5, rel=0.1)


def test_each_load_and_kind_of_step_has_a_correction_of_its_own():
    costs = CostRefinement(TABLE)
    for _ in range(4):
        play(costs, 1, 7, 1.0)
        play(costs, 32, 7, 1.6)
        play(costs, 32, 0, 1.2)
    assert ratio(costs, 1, 7) == pytest.approx(1.0, rel=0.08)
    assert ratio(costs, 32, 7) == pytest.approx(1.6, rel=0.08)
    assert ratio(costs, 32, 0) == pytest.approx(1.2, rel=0.08)


def test_one_interrupted_step_hardly_shows():
    costs = CostRefinement(TABLE)
    play(costs, 4, 3, 1.0)
    play(costs, 4, 3, 500.0, steps=1)
    play(costs, 4, 3, 1.0, steps=EVERY * PUBLISH_EVERY)
    assert ratio(costs, 4, 3) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("others", [{"prefill_rows": 50}, {"catch_up_rows": 50}], ids=str)
def test_steps_of_mostly_other_rows_teach_nothing(others):
    costs = CostRefinement(TABLE)
    play(costs, 4, 3, 3.0, **others)
    assert costs.table is TABLE


def test_the_table_stays_monotone_whatever_was_seen():
    costs = CostRefinement(TABLE)
    play(costs, 64, 7, 0.2)
    play(costs, 1, 0, 5.0)
    for name in ("plain_s", "draft_s", "verify_s"):
        assert (np.diff(np.array(getattr(costs.table, name)), axis=1) >= 0).all()


def test_a_table_that_was_handed_out_never_changes():
    costs = CostRefinement(TABLE)
    play(costs, 4, 3, 2.0)
    first, before = costs.table, costs.table.plain_s
    play(costs, 4, 3, 1.0)
    assert first is not costs.table
    assert first.plain_s == before
