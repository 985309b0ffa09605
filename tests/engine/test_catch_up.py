"""A drafter that was not kept up with the target catches up, and drafts as if it had never been away."""

import numpy as np
import pytest

from core.planning import FixedLength, Plan
from drafters.ngram import NGram
from policies.base import draft_nothing
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

PROMPT = tuple(range(20))
GREEDY = {"temperature": 0.0, "max_tokens": 60}


class Flicker:
    """Drafts for some steps, follows nothing for some, and asks for catch-up again."""

    name = "flicker"

    def __init__(self, on=8, away=5):
        self.on, self.away, self.steps, self.most_stale = on, away, 0, 0

    def plan(self, view):
        self.steps += 1
        self.most_stale = max(self.most_stale, int(view.stale_rows.max(initial=0)))
        if self.steps % (self.on + self.away) >= self.on:
            return draft_nothing(view)
        return Plan(view.gamma_max.copy(), FixedLength(4), np.ones(len(view.slots), dtype=np.bool_))

    def observe(self, outcome):
        pass


class Watched:
    """A drafter whose every committed row is recorded."""

    def __init__(self, inner):
        self.inner, self.rows = inner, {}

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def extend(self, commit):
        bounds = commit.cu_rows.tolist()
        for b, slot in enumerate(commit.slots.tolist()):
            rows = slice(bounds[b], bounds[b + 1])
            positions = commit.positions[rows].tolist()
            seen = self.rows.setdefault(slot, [])
            assert positions == list(range(len(seen), len(seen) + len(positions))), "rows must follow without gaps"
            follows = commit.next_tokens[rows].tolist()
            assert commit.tokens[rows].tolist()[1:] == follows[:-1]
            seen.extend(zip(commit.tokens[rows].tolist(), commit.features[rows].tolist(), strict=True))
        self.inner.extend(commit)


@pytest.fixture(scope="module")
def target():
    return tiny_target()


@pytest.fixture(scope="module")
def plain(target):
    return run(make_engine(target, None, Off()), [request(PROMPT, **GREEDY)])["r"]


@pytest.mark.parametrize("chunk", [1, 3, 32])
@pytest.mark.parametrize("drafter", ["dspark", "ngram"])
def test_the_text_is_the_same_and_drafts_come_again(target, plain, drafter, chunk):
    made = tiny_dspark(target) if drafter == "dspark" else NGram(max_drafts=4)
    policy = Flicker()
    engine = make_engine(target, made, policy, type(SHAPE)(max_num_batched_tokens=chunk, block_size=4))
    assert run(engine, [request(PROMPT, **GREEDY)])["r"] == plain
    assert policy.most_stale >= 5
    assert engine.stats.accepted > 0
    assert not engine.stats.fallbacks
    # A drafter that needs no features is told tokens, and costs the target nothing.
    assert (engine.stats.catch_up_rows > 0) == (drafter == "dspark")


def test_features_are_those_of_a_drafter_that_always_followed(target, plain):
    always, late = Watched(tiny_dspark(target)), Watched(tiny_dspark(target))
    run(make_engine(target, always, Fixed(4)), [request(PROMPT, **GREEDY)])
    run(make_engine(target, late, Flicker()), [request(PROMPT, **GREEDY)])
    shared = min(len(always.rows[0]), len(late.rows[0]))
    assert shared > 60
    for (token, features), (same, again) in zip(always.rows[0][:shared], late.rows[0][:shared], strict=True):
        assert token == same
        assert features == pytest.approx(again, abs=1e-4)


def test_a_prefix_from_a_plain_request_is_caught_up_with_once_and_then_shared(target, plain):
    engine = make_engine(target, tiny_dspark(target), Fixed(4))
    assert run(engine, [request(PROMPT, name="plain", max_drafts=0, **GREEDY)])["plain"] == plain
    assert engine.stats.drafted == engine.stats.catch_up_rows == 0
    assert run(engine, [request(PROMPT, name="first", **GREEDY)])["first"] == plain
    caught_up = engine.stats.catch_up_rows
    assert caught_up == engine.scheduler.prefix_hits == 16
    assert run(engine, [request(PROMPT, name="second", **GREEDY)])["second"] == plain
    assert engine.stats.catch_up_rows == caught_up
    assert engine.scheduler.prefix_hits == 32
    assert engine.stats.accepted > 0


def test_two_that_share_a_prefix_do_not_both_write_its_drafter_part(target, plain):
    engine = make_engine(target, tiny_dspark(target), Fixed(4))
    run(engine, [request(PROMPT, name="plain", max_drafts=0, **GREEDY)])
    both = run(engine, [request(PROMPT, name=name, **GREEDY) for name in ("a", "b")])
    assert both == {"a": plain, "b": plain}
    # The one that waited for the shared blocks has its own four rows of that step to catch up with.
    assert engine.stats.catch_up_rows == 16 + 4
    assert engine.scheduler.prefix_hits == 32


def test_catch_up_leaves_the_targets_cache_as_it_is(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(4))
    run(engine, [request(PROMPT, name="plain", max_drafts=0, **GREEDY)])
    layers = (*engine.memory.kv.keys, *engine.memory.kv.values)
    for layer in layers:
        # Running a row again gives what is there already: only a mark shows whether it was written.
        layer.add_(0.01)
    held = [layer.clone() for layer in layers]
    engine.add(request(PROMPT, name="again", **GREEDY))
    engine.step()
    assert engine.stats.catch_up_rows == 16
    shared = engine.scheduler.running[0].blocks[:4]
    for before, after in zip(held, layers, strict=True):
        assert before[shared].equal(after[shared])
