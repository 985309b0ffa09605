"""An experiment's arms take turns at the requests of a running engine, and no text changes by it."""

import pytest

from core.types import Request, Sampling
from drafters.ngram import NGram
from engine.arms import forget_arms, serve_arms
from engine.engine import Engine
from engine.groups import Arm
from equality import assert_same_texts
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, run, tiny_dspark, tiny_target

PROMPTS = [tuple((5 * i + j) % 32 for j in range(4 + i)) for i in range(4)]
ARMS = [
    Arm("x/long", lambda: Fixed(4)),
    Arm("x/short", lambda: Fixed(1)),
    Arm("x/lookup", lambda: Fixed(3), drafter="ngram"),
    Arm("x/plain", Off, max_drafts=0),
]


@pytest.fixture(scope="module")
def target():
    return tiny_target()


@pytest.fixture
def engine(target):
    drafters = {"dspark": tiny_dspark(target), "ngram": NGram(max_drafts=6)}
    return Engine(target, drafters, {"fixed": lambda: Fixed(2)}, SHAPE, ())


def requests():
    sampling = Sampling(temperature=0.0, max_tokens=60)
    return [Request(str(i), prompt, sampling, i) for i, prompt in enumerate(PROMPTS)]


def test_arms_take_turns_between_steps_and_no_text_changes(target, engine):
    plain = run(make_engine(target, None, Off()), requests())
    for request in requests():
        engine.add(request)
    texts: dict[str, list[int]] = {request.id: [] for request in requests()}
    step = 0
    while engine.has_work:
        arm = ARMS[step // 3 % len(ARMS)]
        serve_arms(engine, lambda request, arm=arm: arm)
        for emission in engine.step():
            texts[emission.request_id].extend(emission.token_ids)
        step += 1
    assert_same_texts(target, PROMPTS, texts, plain)
    groups = engine.stats.groups
    for key in (("dspark", "x/long"), ("dspark", "x/short"), ("ngram", "x/lookup"), ("none", "off")):
        assert groups[key].rounds > 0, key
    assert groups["dspark", "x/long"].accepted > 0
    assert groups["dspark", "fixed"].rounds == 0


def test_a_running_plain_batch_begins_to_draft_when_its_arm_does(engine):
    serve_arms(engine, lambda request: ARMS[3])
    for request in requests():
        engine.add(request)
    for _ in range(4):
        engine.step()
    assert engine.stats.drafted == 0
    serve_arms(engine, lambda request: ARMS[0])
    for _ in range(4):
        engine.step()
    assert engine.stats.drafted > 0


def test_each_arm_has_a_policy_of_its_own_that_it_keeps_from_turn_to_turn(engine):
    made = []

    def make():
        made.append(Fixed(2))
        return made[-1]

    arms = [Arm("x/a", make), Arm("x/b", make)]
    for request in requests():
        engine.add(request)
    for step in range(6):
        serve_arms(engine, lambda request, arm=arms[step % 2]: arm)
        engine.step()
    assert len(made) == 2
    assert engine.groups.by_key["dspark", "x/a"].policy is not engine.groups.by_key["dspark", "x/b"].policy


def test_who_takes_no_part_keeps_the_defaults_and_a_forgotten_arm_is_gone(engine):
    for request in requests():
        engine.add(request)
    serve_arms(engine, lambda request: ARMS[0] if request.id == "0" else None)
    engine.step()
    assert [one.group[1] for one in engine.scheduler.running] == ["x/long", "fixed", "fixed", "fixed"]
    serve_arms(engine, None)
    forget_arms(engine, ["x/long"])
    engine.step()
    assert {one.group[1] for one in engine.scheduler.running} == {"fixed"}
    assert ("dspark", "x/long") not in engine.groups.by_key


def test_a_drafter_that_comes_to_a_running_sequence_hears_of_it_and_the_one_before_is_released(target):
    heard = []

    class Listening(NGram):
        def open(self, slot, tokens, num_cached):
            heard.append(("open", slot, list(tokens)))
            super().open(slot, tokens, num_cached)

        def release(self, slot):
            heard.append(("release", slot))
            super().release(slot)

    drafters = {"dspark": tiny_dspark(target), "ngram": Listening(max_drafts=6)}
    engine = Engine(target, drafters, {"fixed": lambda: Fixed(2)}, SHAPE, ())
    engine.add(requests()[0])
    for _ in range(3):
        engine.step()
    (sequence,) = engine.scheduler.running
    serve_arms(engine, lambda request: ARMS[2])
    assert heard == [("open", sequence.slot, sequence.tokens)]
    serve_arms(engine, lambda request: ARMS[0])
    assert heard[1:] == [("release", sequence.slot)]
