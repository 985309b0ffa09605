"""Whatever the schema, the answer is valid by a validator that knows nothing of grammars; and drafts are accepted."""

import json
from pathlib import Path

import jsonschema
import pytest

from core.config import DSparkSettings, EngineSettings, FixedSettings, Settings
from core.grammar import Grammar, GrammarKind
from core.types import FinishReason, Request, Sampling
from drafters.ngram import NGram
from engine.build import build_engine
from engine.completion import Completion
from models.answer_text import AnswerText
from models.folders import DEMO_FOLDER
from policies.fixed import Fixed
from schemas import random_schema
from tests.service.fakes import EOS, write_tokenizer
from toys import SHAPE, make_engine, tiny_target


def ask(index, seed, **sampling):
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(random_schema(seed)))
    sampling = Sampling(max_tokens=480, grammar=grammar, **sampling)
    return Request(str(index), tuple(b"Say it in JSON: " + bytes([65 + index % 26])), sampling, index)


def answers(engine, requests):
    done = {one.id: Completion(AnswerText(engine.tokenizer, one.sampling)) for one in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for emission in engine.step():
            done[emission.request_id].add(emission)
    return list(done.values())


@pytest.mark.parametrize("num_schemas", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_every_answer_is_valid_by_its_schema(tmp_path: Path, num_schemas):
    shape = SHAPE.__class__(max_num_seqs=32, max_num_batched_tokens=512, kv_cache_tokens=32768, block_size=16)
    tokenizer = write_tokenizer(tmp_path)
    engine = make_engine(tiny_target(257, sharpness=0.3), NGram(max_drafts=4), Fixed(4), shape, (EOS,), tokenizer)
    found = answers(engine, [ask(i, i) for i in range(num_schemas)])
    ended = [(seed, one) for seed, one in enumerate(found) if one.finish_reason is FinishReason.STOP]
    assert len(ended) == num_schemas
    for seed, one in ended:
        jsonschema.validate(json.loads(one.text), random_schema(seed))
    stats = engine.stats
    assert stats.accepted > stats.forced_accepted > 0
    assert stats.accepted < stats.verified
    assert not stats.fallbacks


PROMPTS = ("What is 17 + 25?", "Write a function that adds two numbers.", "Tell me about your day.", "What is 9 * 8?")


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO_FOLDER / "target" / "model.safetensors").is_file(), reason="no demo model")
def test_the_demo_pair_s_drafts_are_accepted_at_least_half_as_often_under_a_grammar(capsys):
    settings = Settings(
        engine=EngineSettings(max_num_seqs=16, kv_cache_tokens=16384, profile=False),
        drafter=DSparkSettings(),
        policy=FixedSettings(length=5),
    )
    accepted = {}
    for is_constrained in (False, True):
        engine = build_engine(settings)
        for temperature in (0.0, 0.7):
            for seed, prompt in enumerate(PROMPTS * 4):
                text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
                grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(random_schema(seed))) if is_constrained else None
                engine.generate([text], Sampling(max_tokens=96, temperature=temperature, grammar=grammar))
        accepted[is_constrained] = engine.stats.accepted_length - 1
        forced = engine.stats.forced_accepted / engine.stats.rounds
    with capsys.disabled():
        print(f"\naccepted per round: free {accepted[False]:.2f}, in JSON {accepted[True]:.2f} (forced {forced:.2f})")
    assert accepted[False] < 0.8 or accepted[True] >= accepted[False] / 2
