"""A plan that neither drafts nor follows may stand for several steps, in which no policy is asked."""

import pytest

from core.types import Request, Sampling
from engine.arms import serve_arms
from engine.engine import Engine
from engine.groups import Arm
from engine.looks import EVERY, is_looked_at
from policies.base import NOTHING, draft_all, draft_nothing
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target


class Resting:
    """Plans nothing for `stands` steps at a time; follows everybody if told to."""

    name = "resting"

    def __init__(self, stands, *, follows=False):
        self.stands, self.follows = stands, follows
        self.asked, self.taught = [], []

    def plan(self, view):
        self.asked.append(view.step)
        plan = draft_all(view, NOTHING) if self.follows else draft_nothing(view)
        plan.draft_len[:] = 0
        return type(plan)(plan.draft_len, plan.rule, plan.follow, stands=self.stands)

    def observe(self, outcome):
        self.taught.append(outcome.step)


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def ask(name="0", tokens=40):
    return request((1, 2, 3), int(name), name, max_tokens=tokens, temperature=0.0)


def test_it_is_asked_for_once_in_so_many_steps_and_texts_are_those_of_plain_decoding(target):
    policy = Resting(5)
    engine = make_engine(target, tiny_dspark(target), policy)
    assert run(engine, [ask()]) == run(make_engine(target, None, Off()), [ask()])
    assert policy.asked == list(range(0, 40, 5))


def test_all_its_rounds_are_counted_and_few_of_them_are_shown(target):
    policy = Resting(1000)
    engine = make_engine(target, tiny_dspark(target), policy)
    run(engine, [ask()])
    assert policy.asked == [0]
    assert policy.taught == [step for step in range(1, 41) if is_looked_at(step)]
    assert len(policy.taught) == 40 // EVERY
    assert engine.stats.rounds == engine.stats.groups[engine.groups.default].rounds == 40


def test_who_comes_and_who_goes_ends_it(target):
    policy = Resting(1000)
    engine = make_engine(target, tiny_dspark(target), policy)
    engine.add(ask("0", tokens=20))
    for step in range(30):
        if step == 4:
            engine.add(ask("1", tokens=30))
        engine.step()
    # Asked at first, in the step that the newcomer joins, and in the one after the first has ended.
    assert policy.asked == [0, 4, 20]


def test_a_plan_that_follows_is_made_in_every_step(target):
    policy = Resting(1000, follows=True)
    engine = make_engine(target, tiny_dspark(target), policy)
    run(engine, [ask(tokens=10)])
    assert policy.asked == list(range(10))


def test_an_arm_that_takes_over_is_asked_at_once(target):
    policy = Resting(1000)
    engine = Engine(target, {"dspark": tiny_dspark(target)}, {"resting": lambda: policy}, SHAPE, ())
    engine.add(Request("0", (1, 2, 3), Sampling(temperature=0.0, max_tokens=60), 0))
    for _ in range(6):
        engine.step()
    serve_arms(engine, lambda request: Arm("x/long", lambda: Fixed(4)))
    while engine.has_work:
        engine.step()
    assert policy.asked == [0]
    assert engine.stats.groups["dspark", "x/long"].verified > 0


@pytest.mark.parametrize("stands", [0, -1, 2.0, None], ids=str)
def test_it_cannot_stand_for_less_than_its_own_step(target, stands):
    engine = make_engine(target, tiny_dspark(target), Resting(stands))
    assert len(run(engine, [ask(tokens=5)])["0"]) == 5
    assert engine.stats.fallbacks["policy"] == 5
