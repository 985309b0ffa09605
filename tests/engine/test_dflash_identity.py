"""The family behind the real engine: whatever drafts, a text in batch-invariant numerics is the plain one by bits."""

import pytest
import torch

from core.types import Numerics
from policies.fixed import Fixed, Off
from toys import make_engine, request, run, tiny_dflash, tiny_dspark, tiny_target

NUM_TOKENS = 64
LAWS = {"greedy": {"temperature": 0.0}, "coupled": {"temperature": 1.0, "seed": 7}}
WINDOWS = {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 6}
MAKERS = {
    "gated": lambda target: tiny_dspark(target, head="gated"),
    "rnn": lambda target: tiny_dspark(target, head="rnn"),
    "fill-in with a head": lambda target: tiny_dspark(target, block_size=5, sample_from_anchor=False),
    "shifted": tiny_dflash,
    # Four drafts: a block reaches one row further than there are drafts, over the end of a KV block.
    "fill-in": lambda target: tiny_dflash(target, block_size=5, sample_from_anchor=False),
    "window": lambda target: tiny_dflash(target, **WINDOWS),
}


def random_prompt(index):
    generator = torch.Generator().manual_seed(index)
    return tuple(torch.randint(0, 32, (3 + 5 * index,), generator=generator).tolist())


PROMPTS = [random_prompt(index) for index in range(3)]


@pytest.fixture(scope="module")
def target():
    return tiny_target(numerics=Numerics.BATCH_INVARIANT)


def requests(law, first=0):
    return [request(prompt, first + i, str(i), max_tokens=NUM_TOKENS, **LAWS[law]) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def plain(target):
    texts = {}
    for law in LAWS:
        texts[law] = {}
        for each in requests(law):
            texts[law] |= run(make_engine(target, None, Off()), [each])
    return texts


def assert_drafts_were_kept_and_lost(engine):
    assert 0 < engine.stats.accepted < engine.stats.verified <= engine.stats.drafted
    assert not engine.stats.fallbacks


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("maker", MAKERS)
def test_whatever_drafts_the_text_is_the_plain_one(target, plain, maker, law):
    drafter = MAKERS[maker](target)
    assert drafter.spec.max_drafts == 4
    engine = make_engine(target, drafter, Fixed(4))
    assert run(engine, requests(law, first=1000)) == plain[law]
    assert_drafts_were_kept_and_lost(engine)


def proposals_of(drafter, engine, asked):
    """Run one request; its text, and the tokens and evidence of every proposal on the way."""
    propose, seen = type(drafter).propose, []

    def recorded(ask):
        draft = propose(drafter, ask)
        seen.append((draft.tokens.tolist(), draft.evidence.tolist()))
        return draft

    drafter.propose = recorded
    text = run(engine, [asked])
    del drafter.propose
    return text, seen


@pytest.mark.parametrize("maker", ["rnn", "fill-in", "window"])
def test_a_prefix_hit_brings_the_drafters_rows_along_and_the_same_drafts(target, maker):
    drafter = MAKERS[maker](target)
    cold, warm = (make_engine(target, drafter, Fixed(4)) for _ in range(2))
    asked = request(PROMPTS[2], 9, max_tokens=32, temperature=0.0)
    wanted = proposals_of(drafter, cold, asked)
    run(warm, [request(PROMPTS[2], 1, "before", max_tokens=12, temperature=1.0)])
    assert proposals_of(drafter, warm, asked) == wanted
    assert warm.scheduler.prefix_hits > 0
    assert warm.stats.catch_up_rows == 0
    assert_drafts_were_kept_and_lost(cold)
