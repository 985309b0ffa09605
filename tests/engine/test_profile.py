"""A profile drives the real step, leaves no trace, and writes down prices that can be true."""

import copy

import numpy as np
import pytest

from core.errors import EngineError
from drafters.ngram import NGram
from engine.profile import Times, lower, make_grid, make_table, profile, spread
from engine.shape import EngineShape
from engine.timed_steps import StepTime
from policies.fixed import Fixed
from policies.load_adaptive import LoadAdaptive
from tests.engine.test_engine import Broken
from toys import make_engine, request, run, tiny_dspark, tiny_target

SMALL = EngineShape(max_num_seqs=3, max_num_batched_tokens=32, kv_cache_tokens=1024, block_size=4)


@pytest.fixture(scope="module")
def target():
    return tiny_target()


@pytest.fixture(scope="module")
def engine(target):
    return make_engine(target, tiny_dspark(target), Fixed(4), SMALL)


@pytest.fixture(scope="module")
def table(engine):
    return profile(engine, "dspark")


def test_the_grid_is_what_the_engine_can_do(table):
    assert table.sequences == (1, 2, 3)
    assert table.lengths == (0, 1, 3, 4)
    assert table.contexts == (16, 428)


def test_every_price_is_paid(table):
    for prices in (table.plain_s, table.verify_s, table.draft_s):
        assert (np.array(prices) > 0).all()
    assert table.prefill_row_s > 0
    assert (np.array(table.verify_s)[:, :, 0] >= np.array(table.plain_s)).all()


@pytest.mark.parametrize(("tokens", "sequences"), [(320, (1, 2, 3)), (160, (1,)), (2048, (1, 2, 4, 8))])
def test_fewer_blocks_than_slots_make_a_smaller_grid(target, tokens, sequences):
    shape = EngineShape(max_num_seqs=8, max_num_batched_tokens=32, kv_cache_tokens=tokens, block_size=4)
    engine = make_engine(target, tiny_dspark(target), Fixed(4), shape)
    assert make_grid(engine, 4).sequences == sequences
    assert profile(engine, "dspark").sequences == sequences


def test_an_engine_without_room_for_one_sequence_cannot_be_profiled(target):
    shape = EngineShape(max_num_seqs=8, max_num_batched_tokens=32, kv_cache_tokens=64, block_size=4)
    with pytest.raises(EngineError, match="tokens of room for a sequence"):
        profile(make_engine(target, tiny_dspark(target), Fixed(4), shape), "dspark")


def test_it_leaves_the_engine_as_it_was(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SMALL)
    run(engine, [request((1, 2, 3), 1, "before", max_tokens=20)])
    group = next(iter(engine.stats.groups.values()))
    stats, snapshot = copy.deepcopy(engine.stats), engine.snapshot()
    profile(engine, "dspark")
    assert engine.stats == stats
    assert engine.snapshot() == snapshot
    assert not engine.has_work
    assert engine.memory.pool.num_free == engine.memory.pool.num_usable
    run(engine, [request((1, 2, 3), 1, "after", max_tokens=20)])
    assert group.rounds > stats.groups[next(iter(stats.groups))].rounds


def test_texts_are_the_same_before_and_after(target):
    def text(engine):
        return run(engine, [request(tuple(range(20)), 5, "r", max_tokens=40)])

    fresh, profiled = (make_engine(target, tiny_dspark(target), Fixed(4), SMALL) for _ in range(2))
    profile(profiled, "dspark")
    assert text(profiled) == text(fresh)


def test_an_engine_with_requests_is_not_profiled(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SMALL)
    engine.add(request((1, 2, 3)))
    with pytest.raises(EngineError, match="idle"):
        profile(engine, "dspark")


def test_a_drafter_that_fails_has_no_price(target):
    engine = make_engine(target, Broken(tiny_dspark(target), "propose"), Fixed(4), SMALL)
    with pytest.raises(EngineError, match="'dspark' failed"):
        profile(engine, "dspark")
    assert not engine.has_work


def test_a_drafter_that_finds_nothing_to_draft_still_has_prices(target):
    table = profile(make_engine(target, NGram(), Fixed(4), SMALL), "ngram")
    verify = np.array(table.verify_s)
    assert (np.diff(verify, axis=2) >= 0).all()
    assert (verify[:, :, -1] > verify[:, :, 0]).any()


def test_the_default_policy_plans_by_it(target, table):
    policy = LoadAdaptive()
    engine = make_engine(target, tiny_dspark(target), policy, SMALL)
    engine.costs["dspark"] = table
    texts = run(engine, [request((1, 2, 3 + i), i, str(i), max_tokens=60) for i in range(6)])
    assert all(len(text) == 60 for text in texts.values())
    assert engine.stats.fallbacks["policy"] == 0
    assert policy.prediction_error != 0.0


def test_noise_is_taken_out_from_above():
    assert lower(np.array([[3.0, 1.0, 2.0, 5.0, 4.0]]), 1).tolist() == [[1.0, 1.0, 2.0, 4.0, 4.0]]
    table = make_table(
        ((1, 2), (0, 1), (16,)),
        np.array([[1.0, 9.0]]),
        np.array([[[2.0, 3.0], [4.0, 3.5]]]),
        np.array([[0.5, 0.4]]),
        (0.1, 0.2),
    )
    assert table.plain_s == ((1.0, 3.5),)
    assert table.verify_s == (((2.0, 3.0), (3.5, 3.5)),)
    assert table.draft_s == ((0.4, 0.4),)


def test_drafts_that_were_missing_are_charged_for():
    def step(seconds, verified):
        return StepTime(0.0, seconds, verified)

    times = Times(step(1.0, 0), (step(2.0, 0), step(3.0, 1.0), step(5.0, 2.0), step(2.5, 0.5)))
    assert spread(times, (0, 1, 4, 7), 0.25) == [2.0, 3.0, 8.0, 2.0 + 7 * 0.25]


def test_a_first_step_that_noise_made_dear_makes_no_later_one_less_than_nothing():
    slow, quick = StepTime(0.0, 9.0, 0.0), StepTime(0.0, 1.0, 2.0)
    times = Times(quick, (slow, quick, quick))
    assert spread(times, (0, 2, 4), 0.25) == [9.0, 1.0, 1.0]


def test_what_was_predicted_is_counted_beside_what_steps_took():
    target = tiny_target()
    engine = make_engine(target, tiny_dspark(target), LoadAdaptive())
    engine.costs["dspark"] = profile(engine, "dspark")
    run(engine, [request((1, 2, 3), i, str(i), max_tokens=60) for i in range(4)])
    snapshot = engine.snapshot()
    assert snapshot["cost_actual_s"] > 0
    assert 0.2 < snapshot["cost_predicted_s"] / snapshot["cost_actual_s"] < 5
