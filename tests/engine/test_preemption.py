"""Blocks for a third of the load: nothing is lost, nothing repeated, everything is freed; prefixes are still found."""

import pytest

from engine.shape import EngineShape
from equality import assert_same_texts
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_eagle3, tiny_target

DRAFTERS = {"dspark": tiny_dspark, "eagle3": tiny_eagle3}

PROMPTS = [tuple((7 * i + j) % 32 for j in range(5 + i)) for i in range(12)]
NUM_TOKENS = 60
# Twelve texts of at most 76 tokens want 224 blocks of 4.
THIRD = EngineShape(max_num_seqs=12, max_num_batched_tokens=32, kv_cache_tokens=300, block_size=4)


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def storm(**sampling):
    options = {"temperature": 0.0, "max_tokens": NUM_TOKENS} | sampling
    return [request(prompt, i, str(i), **options) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def calm(target):
    return run(make_engine(target, None, Off(), SHAPE), storm())


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("drafter", [None, *DRAFTERS])
def test_a_storm_loses_nothing_and_frees_everything(target, calm, drafter, prefix_cache):
    made = DRAFTERS[drafter](target) if drafter else None
    shape = EngineShape(**{f: getattr(THIRD, f) for f in THIRD.__struct_fields__} | {"prefix_cache": prefix_cache})
    engine = make_engine(target, made, Fixed(4) if drafter else Off(), shape)
    assert_same_texts(target, PROMPTS, run(engine, storm()), calm)
    assert engine.scheduler.num_preemptions > 3
    assert engine.memory.pool.num_free == engine.memory.pool.num_usable
    assert engine.num_free_slots == 12
    assert bool(engine.stats.accepted) == bool(drafter)


def test_a_preempted_answer_goes_on_with_the_penalties_and_limits_of_all_its_tokens(target):
    sampling = {"frequency_penalty": 0.5, "min_tokens": 30, "temperature": 0.0}
    calm = run(make_engine(target, None, Off(), SHAPE), storm(**sampling))
    engine = make_engine(target, tiny_dspark(target), Fixed(4), THIRD)
    assert run(engine, storm(**sampling)) == calm
    assert engine.scheduler.num_preemptions > 3


def test_aborting_one_that_waits_to_start_again_forgets_it(target):
    engine = make_engine(target, None, Off(), THIRD)
    for each in storm():
        engine.add(each)
    while not engine.scheduler.num_preemptions:
        engine.step()
    waiting = engine.scheduler.waiting[0].request.id
    engine.abort(waiting)
    left = set()
    while engine.has_work:
        left |= {emission.request_id for emission in engine.step()}
    assert waiting not in left
    assert engine.memory.pool.num_free == engine.memory.pool.num_usable


@pytest.mark.parametrize("tokens", [pytest.param(4096, marks=pytest.mark.slow), 800])
def test_prefixes_are_found_as_often_with_speculation_as_without(target, tokens):
    """A system prompt, then turns of it: hits must not depend on drafts, whether or not the cache is short."""
    system = tuple((5 * j) % 32 for j in range(41))
    shape = EngineShape(max_num_seqs=4, max_num_batched_tokens=64, kv_cache_tokens=tokens, block_size=4)
    hits = []
    for drafter in (None, *(make(target) for make in DRAFTERS.values())):
        engine = make_engine(target, drafter, Fixed(4) if drafter else Off(), shape)
        for turn in range(24):
            prompt = (*system, *((turn * 3 + j) % 32 for j in range(turn % 5 + 2)))
            run(engine, [request(prompt, turn, str(turn), temperature=0.0, max_tokens=20)])
        hits.append((engine.scheduler.prefix_hits, engine.scheduler.prefix_queries))
        assert bool(engine.stats.accepted) == bool(drafter)
    assert hits[0] == hits[1] == hits[2]
    assert hits[0][0] > 0.7 * hits[0][1]
