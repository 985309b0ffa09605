"""The shipped pair through the real engine: greedy text is the target's own, and every cell did speculate."""

import json
from pathlib import Path

import pytest
import torch

import bench
from core.types import Sampling
from drafters.dspark import DSpark
from drafters.ngram import NGram
from engine.shape import EngineShape
from equality import assert_same_texts
from models.folders import drafter_folder, target_folder
from models.load_drafter import load_dspark
from models.load_target import load_target
from models.tokenizer import Tokenizer
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from toys import make_engine, request, run

SHAPE = EngineShape(max_num_seqs=16, kv_cache_tokens=16384)
POLICIES = {"fixed-1": Fixed(1), "fixed-7": Fixed(7), "confidence": Confidence(0.3)}


@pytest.fixture(scope="module")
def target():
    return load_target(target_folder("demo"), torch.float32)


@pytest.fixture(scope="module")
def prompts():
    path = Path(bench.__file__).parent / "prompts" / "demo.json"
    tokenizer = Tokenizer(target_folder("demo"))
    entries = json.loads(path.read_text(encoding="utf-8")).values()
    return [tuple(tokenizer.encode(text)) for entry in entries for text in entry["prompts"][:4]]


def greedy(prompts, num_tokens):
    options = {"max_tokens": num_tokens, "temperature": 0.0, "ignore_eos": True}
    return [request(prompt, i, str(i), **options) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def plain(target, prompts):
    return run(make_engine(target, None, Off(), SHAPE, ()), greedy(prompts, 256))


def make_drafter(name, target):
    return (
        DSpark("dspark", load_dspark(drafter_folder("dspark", "demo"), target), target) if name == "dspark" else NGram()
    )


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("drafter", ["dspark", "ngram"])
def test_greedy_text_is_the_same_with_and_without_speculation(
    target, prompts, plain, drafter, policy, concurrency, record_property
):
    engine = make_engine(target, make_drafter(drafter, target), POLICIES[policy], SHAPE, ())
    got = run(engine, greedy(prompts[:concurrency], 256))
    record_property("margins", assert_same_texts(target, prompts, got, plain))
    assert 0 < engine.stats.accepted < engine.stats.verified <= engine.stats.drafted


def test_it_answers_a_sum_and_is_accepted(target, prompts):
    tokenizer = Tokenizer(target_folder("demo"))
    engine = make_engine(target, make_drafter("dspark", target), Fixed(7), SHAPE, (2,), tokenizer)
    prompt = "<|im_start|>user\nWhat is 48 + 37?<|im_end|>\n<|im_start|>assistant\n"
    [done] = engine.generate([prompt], Sampling(max_tokens=80, temperature=0.0))
    assert done.text.rstrip().endswith("Answer: 85")
    assert done.accepted_length > 1.5
