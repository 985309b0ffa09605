"""The last steps, told in numbers: what the policy saw, expected and chose, and what happened."""

import pytest

from core.planning import EarlyStop, FixedLength, Threshold, TopK
from engine.explain import KEPT_STEPS, name_rule
from policies.fixed import Fixed, Off
from toys import make_engine, request, run, tiny_dspark, tiny_target


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def test_records_add_up_to_what_the_engine_counted(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(3))
    run(engine, [request((1, 2, 3), i, str(i), max_tokens=12) for i in range(2)])
    records, stats = engine.recent.records(), engine.stats
    assert len(records) == stats.steps < KEPT_STEPS
    assert sum(step.tokens for step in records) == stats.emitted
    assert sum(step.verified for step in records) == stats.verified > 0
    assert sum(step.accepted for step in records) == stats.accepted
    assert {step.rule for step in records} == {"first 3"}
    assert {(step.drafter, step.policy) for step in records} == {engine.groups.default}


def test_what_a_policy_saw_is_of_earlier_steps(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(3))
    run(engine, [request((1, 2, 3), 0, "0", max_tokens=12)])
    first, second = engine.recent.records()[:2]
    assert first.survival is None
    assert first.planned == 0
    assert second.sequences == 1
    assert engine.recent.records()[2].survival is not None


def test_only_the_newest_steps_are_kept_and_plain_ones_have_nothing_to_tell(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(1))
    run(engine, [request((1, 2), 0, "0", max_tokens=60)])
    assert len(engine.recent.records()) == KEPT_STEPS
    assert engine.recent.records()[-1].step == engine.stats.steps
    plain = make_engine(target, None, Off())
    run(plain, [request((1, 2), 0, "0", max_tokens=5)])
    assert plain.recent.records() == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (FixedLength(2), "first 2"),
        (Threshold(0.3, cumulative=True), "survival >= 0.3"),
        (Threshold(0.5), "acceptance >= 0.5"),
        (TopK(12), "best 12"),
        (EarlyStop((1.0, 1.1, 1.2)), "while rates rise, at most 2"),
    ],
)
def test_rules_are_named_in_few_words(rule, words):
    assert name_rule(rule) == words
