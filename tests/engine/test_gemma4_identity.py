"""Gemma 4 behind the real engine with drafters of its own kind: batch-invariant, the text is the plain one by bits."""

import pytest
import torch

from core.types import Numerics
from models.gemma4_draft import Gemma4Backbone
from policies.fixed import Fixed, Off
from tests.drafters.gemma4_cases import VOCAB_SIZE, canonical, gemma4_target
from toys import make_engine, request, run, tiny_dspark, tiny_eagle3

NUM_TOKENS = 32
LAWS = {"greedy": {"temperature": 0.0}, "coupled": {"temperature": 1.0, "seed": 7}}


def gemma4_dspark(target, **changes):
    return tiny_dspark(target, agreement=5.0, backbone=Gemma4Backbone.from_json(canonical(**changes)))


MAKERS = {
    "keys as values": gemma4_dspark,
    "values of their own": lambda target: gemma4_dspark(target, attention_k_eq_v=False),
    "eagle3 with layers of qwen3": tiny_eagle3,
}


def random_prompt(index):
    generator = torch.Generator().manual_seed(index)
    return tuple(torch.randint(0, VOCAB_SIZE, (3 + 5 * index,), generator=generator).tolist())


PROMPTS = [random_prompt(index) for index in range(3)]


@pytest.fixture(scope="module")
def target():
    return gemma4_target(Numerics.BATCH_INVARIANT)


def requests(law, first=0):
    return [request(prompt, first + i, str(i), max_tokens=NUM_TOKENS, **LAWS[law]) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def plain(target):
    texts = {law: {} for law in LAWS}
    for law in LAWS:
        for each in requests(law):
            texts[law] |= run(make_engine(target, None, Off()), [each])
    return texts


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("maker", MAKERS)
def test_whatever_drafts_the_text_is_the_plain_one(target, plain, maker, law):
    engine = make_engine(target, MAKERS[maker](target), Fixed(4))
    assert run(engine, requests(law, first=1000)) == plain[law]
    assert 0 < engine.stats.accepted < engine.stats.verified <= engine.stats.drafted
    assert not engine.stats.fallbacks
