"""Greedy text is the target's own, whatever drafts, policy and company it has; planted bugs are noticed."""

from dataclasses import replace

import pytest
import torch

from drafters.ngram import NGram
from engine import engine as engine_module
from equality import assert_same_texts
from every_other import every_other
from models import paged
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

NUM_TOKENS = 128


def random_prompt(index):
    generator = torch.Generator().manual_seed(index)
    return tuple(torch.randint(0, 32, (3 + 5 * index,), generator=generator).tolist())


PROMPTS = [random_prompt(index) for index in range(16)]
POLICIES = {
    "fixed-1": lambda: Fixed(1),
    "fixed-4": lambda: Fixed(4),
    "confidence": lambda: Confidence(0.4),
    "conditional": lambda: Confidence(0.5, cumulative=False),
}


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def make_drafter(name, target):
    return tiny_dspark(target) if name == "dspark" else NGram(max_drafts=4)


def greedy(count):
    return [request(PROMPTS[i], i, str(i), max_tokens=NUM_TOKENS, temperature=0.0) for i in range(count)]


@pytest.fixture(scope="module")
def plain(target):
    return run(make_engine(target, None, Off(), SHAPE, ()), greedy(16))


@pytest.mark.parametrize(("drafter", "policy", "concurrency"), every_other(["dspark", "ngram"], [*POLICIES], [1, 16]))
def test_greedy_text_is_the_same_with_and_without_speculation(target, plain, drafter, policy, concurrency):
    engine = make_engine(target, make_drafter(drafter, target), POLICIES[policy](), SHAPE, ())
    assert_same_texts(target, PROMPTS, run(engine, greedy(concurrency)), plain)
    stats = engine.stats
    assert stats.drafted > 0
    assert stats.accepted > 0
    assert stats.accepted < stats.verified
    assert not stats.fallbacks


def test_a_policy_of_off_drafts_nothing_and_takes_no_features(target, plain):
    engine = make_engine(target, tiny_dspark(target), Off(), SHAPE, ())
    assert_same_texts(target, PROMPTS, run(engine, greedy(4)), plain)
    assert engine.stats.drafted == 0
    assert engine.stats.seconds["draft"] == 0


def test_speculation_and_plain_decoding_mix_in_one_batch(target, plain):
    caps = [None, 0, 1, 3] * 4
    requests = [
        request(PROMPTS[i], i, str(i), max_tokens=NUM_TOKENS, temperature=0.0, max_drafts=cap)
        for i, cap in enumerate(caps)
    ]
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
    for each in requests:
        engine.add(each)
    most = dict.fromkeys(map(str, range(16)), 0)
    got = {name: [] for name in most}
    while engine.has_work:
        for emission in engine.step():
            got[emission.request_id].extend(emission.token_ids)
            most[emission.request_id] = max(most[emission.request_id], emission.verified)
    assert_same_texts(target, PROMPTS, got, plain)
    assert list(most.values()) == [4, 0, 1, 3] * 4


def test_a_planted_rollback_bug_is_noticed(target, plain, monkeypatch):
    """Keys and values of rejected drafts stay in the cache: a row once written is never written again."""
    honest, written = paged.plan_attention, {"up to": -1}

    def keeps_rejected_rows(kv, cu_rows, positions, visible, *rest):
        layout = honest(kv, cu_rows, positions, visible, *rest)
        if len(kv.keys) != len(target.shape.layers):
            return layout
        write = torch.where(positions > written["up to"], layout.write, 0)
        written["up to"] = max(written["up to"], int(positions.max()))
        return replace(layout, write=write)

    monkeypatch.setattr(paged, "plan_attention", keeps_rejected_rows)
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
    with pytest.raises(AssertionError):
        assert_same_texts(target, PROMPTS, run(engine, greedy(1)), plain)


def test_a_planted_position_bug_is_noticed(target, plain, monkeypatch):
    """Draft rows stand one position too far to the right."""
    honest = engine_module.make_rows

    def shifts_drafts(batch, draft, lengths, tables):
        rows = honest(batch, draft, lengths, tables)
        wrong = rows.verify.positions + (rows.offset >= rows.base[rows.sequence])
        return replace(rows, verify=replace(rows.verify, positions=wrong))

    monkeypatch.setattr(engine_module, "make_rows", shifts_drafts)
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
    with pytest.raises(AssertionError):
        assert_same_texts(target, PROMPTS, run(engine, greedy(1)), plain)
