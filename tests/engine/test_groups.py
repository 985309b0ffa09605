"""Drafters and policies by name, chosen per request, planned side by side in one batch."""

import typing

import pytest

from core.errors import RequestError
from core.types import Backlog, Request, Sampling, Speculation
from drafters.ngram import NGram
from engine.engine import Engine
from equality import assert_same_texts
from policies.base import draft_all
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

PROMPTS = [tuple((7 * i + j) % 32 for j in range(5 + i)) for i in range(12)]
CHOICES = [
    Speculation(),
    Speculation(drafter="ngram"),
    Speculation(policy="confidence"),
    Speculation(max_drafts=0),
    Speculation(policy="off"),
    Speculation(drafter="ngram", policy="confidence", max_drafts=2),
]


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def mixed(target, **policies):
    drafters = {"dspark": tiny_dspark(target), "ngram": NGram(max_drafts=6)}
    known = {"fixed": lambda: Fixed(4), "confidence": lambda: Confidence(0.3), "off": Off} | policies
    return Engine(target, drafters, known, SHAPE, ())


def asking(index, speculation, **sampling):
    options = {"temperature": 0.0, "max_tokens": 80} | sampling
    return Request(str(index), PROMPTS[index], Sampling(**options), index, speculation=speculation)


def test_every_choice_runs_in_one_batch_and_changes_no_text(target):
    plain = run(make_engine(target, None, Off()), [asking(i, Speculation()) for i in range(12)])
    engine = mixed(target)
    texts = run(engine, [asking(i, CHOICES[i % 6]) for i in range(12)])
    assert_same_texts(target, PROMPTS, texts, plain)
    groups = engine.stats.groups
    assert set(groups) == {
        ("dspark", "fixed"),
        ("dspark", "confidence"),
        ("dspark", "off"),
        ("ngram", "fixed"),
        ("ngram", "confidence"),
        ("none", "off"),
    }
    for (drafter, policy), counts in groups.items():
        assert counts.rounds > 0
        assert bool(counts.drafted) == (policy != "off" and drafter != "none")
    assert max(groups["ngram", "confidence"].verified_at) == 1
    assert max(groups["ngram", "fixed"].verified_at) <= 3
    assert sum(g.rounds for g in groups.values()) == engine.stats.rounds
    assert not engine.stats.fallbacks


def test_a_later_group_sees_what_earlier_ones_planned_whoever_came_first(target):
    class Seeing(Fixed):
        views: typing.ClassVar = []

        def plan(self, view):
            self.views.append((view.extra_rows, view.extra_sequences))
            return draft_all(view, super().plan(view).rule)

    engine = mixed(target, confidence=lambda: Seeing(4))
    run(engine, [asking(0, Speculation(policy="confidence")), asking(1, Speculation())])
    assert list(engine.groups.by_key) == [("dspark", "fixed"), ("dspark", "confidence")]
    # One anchor of the other group, and its four drafts.
    assert (1 + 4, 1) in Seeing.views


def test_a_policy_learns_only_from_its_own_sequences(target):
    seen = {}

    class Learning(Fixed):
        def observe(self, outcome):
            seen.setdefault(id(self), []).append(len(outcome.slots))

    engine = mixed(target, fixed=lambda: Learning(4))
    run(engine, [asking(0, Speculation()), asking(1, Speculation()), asking(2, Speculation(drafter="ngram"))])
    assert sorted(max(sizes) for sizes in seen.values()) == [1, 2]


@pytest.mark.parametrize(
    ("speculation", "message"),
    [
        (Speculation(drafter="dspork"), "unknown drafter 'dspork'; did you mean 'dspark'"),
        (Speculation(policy="confident"), "unknown policy 'confident'; did you mean 'confidence'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(target, speculation, message):
    engine = mixed(target)
    with pytest.raises(RequestError, match=message):
        engine.add(asking(0, speculation))
    assert not engine.has_work


def test_a_script_plans_whatever_is_added_inside_and_nothing_after(target):
    engine = mixed(target)
    with engine.scripted(Fixed(1), "ngram"):
        run(engine, [asking(0, Speculation(policy="off"))])
    assert list(engine.groups.by_key) == []
    run(engine, [request(PROMPTS[0], max_tokens=30)])
    assert list(engine.groups.by_key) == [("dspark", "fixed")]
    assert max(engine.stats.groups["ngram", "fixed"].verified_at) == 0
    assert max(engine.stats.groups["dspark", "fixed"].verified_at) == 3


class Watching(Fixed):
    """Keeps every view."""

    def __init__(self):
        super().__init__(2)
        self.views = []

    def plan(self, view):
        self.views.append(view)
        return super().plan(view)


def test_a_policy_hears_of_requests_that_wait_before_the_engine(target):
    watching = Watching()
    engine = make_engine(target, tiny_dspark(target), watching, SHAPE, ())
    engine.backlog = Backlog(7, 1.5)
    run(engine, [request(PROMPTS[0], max_tokens=4)])
    assert {(view.queue_depth, view.oldest_wait_s) for view in watching.views} == {(7, 1.5)}
