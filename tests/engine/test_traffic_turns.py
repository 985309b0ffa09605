"""The shipped pair under traffic that changes: drafting stops where it does not pay, and comes back when it would."""

from itertools import count

import pytest
import torch

from bench.prompt_pool import PromptPool
from drafters.dspark import DSpark
from engine.shape import EngineShape
from models.folders import drafter_folder, target_folder
from models.load_drafter import load_dspark
from models.load_target import eos_token_ids, load_target
from models.tokenizer import Tokenizer
from policies.load_adaptive import LoadAdaptive
from tests.policies.cases import linear_table
from toys import make_engine, request

SIZE = 16
# Sixteen plain tokens take 8 ms; a drafter takes 4.1 for one sequence, which is more than seven drafts are worth, and
# 5.6 for all. Of all seven are worth verifying where most are accepted, and none where one or two are.
TABLE = linear_table(base=4.0, sequence=0.125, row=0.125, follow=0.0, draft=(4.0, 0.1))


@pytest.fixture
def engine():
    """An engine that is told what steps cost, so that what it decides is the same on any machine."""
    target, tokenizer = load_target(target_folder("demo"), torch.float32), Tokenizer(target_folder("demo"))
    drafter = DSpark("dspark", load_dspark(drafter_folder("dspark", "demo"), target), target)
    shape = EngineShape(max_num_seqs=SIZE, kv_cache_tokens=16384, prefix_cache=False)
    engine = make_engine(target, drafter, LoadAdaptive(), shape, eos_token_ids(target_folder("demo")), tokenizer)
    engine.costs["dspark"], engine.costs.are_refined = TABLE, False
    return engine


def play(engine, domain, num_steps, names, *, in_waves):
    """Run steps with SIZE requests at once, or with that many whenever all are done; returns the drafts accepted."""
    questions, before = PromptPool((domain,), 0).asked_from(0), engine.stats.accepted
    for _ in range(num_steps):
        live = len(engine.scheduler.running) + len(engine.scheduler.waiting)
        for _ in range(0 if live and in_waves else SIZE - live):
            asked, nonce = next(questions), next(names)
            prompt = tuple(engine.tokenizer.encode(asked.text))
            engine.add(request(prompt, nonce, str(nonce), max_tokens=asked.max_tokens))
        engine.step()
    return engine.stats.accepted - before


@pytest.mark.slow
@pytest.mark.parametrize("in_waves", [False, True], ids=["one by one", "in waves"])
def test_drafting_stops_where_it_does_not_pay_and_comes_back_when_it_would(engine, in_waves):
    names = count()
    play(engine, "library", 200, names, in_waves=in_waves)
    poor = play(engine, "library", 100, names, in_waves=in_waves)
    play(engine, "math", 700, names, in_waves=in_waves)
    good = play(engine, "math", 100, names, in_waves=in_waves)
    assert good > 100 * SIZE * 2
    assert poor < good / 5
