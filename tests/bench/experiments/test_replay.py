"""Recorded requests are drawn as they were and give the same texts under every arm; what is no request is told of."""

import json

import msgspec
import pytest
from msgspec.structs import replace

from bench.experiments.replay import play, read_recorded, replay_experiment, stretch_len
from bench.experiments.trials import trial
from bench.prompt_pool import PromptPool
from core.config import EngineSettings, Settings
from core.errors import ConfigError
from core.grammar import Grammar, GrammarKind
from core.recorded_request import VERSION, RecordedRequest
from core.types import Sampling
from drafters.ngram import NGram
from engine.arms import make_arms
from engine.engine import Engine
from models.folders import target_folder
from models.tokenizer import Tokenizer
from policies.fixed import Fixed
from toys import SHAPE, tiny_target


def test_every_arm_gives_every_recorded_request_the_same_text():
    experiment = trial("replayed", {"policy": "off"}, {"policy": "fixed", "parameters": {"length": 4}})
    engine = Engine(tiny_target(), {"ngram": NGram(max_drafts=6)}, {"fixed": lambda: Fixed(2)}, SHAPE, ())
    recorded = [RecordedRequest(f"r{i}", (1, 2, 3, 1, 2, 3 + i), tuple(range(20)), 1.0) for i in range(20)]
    found = play(engine, make_arms(experiment, Settings()), experiment, recorded, "fast")
    assert (found.num_requests, found.num_stretches) == (20, 2)
    assert [one.num_identical for one in found.arms] == [20, 20]
    counts = engine.stats.groups["ngram", "replayed/treatment"]
    assert counts.accepted > 0
    assert counts.verified > counts.accepted
    assert engine.stats.groups["ngram", "replayed/control"].verified == 0
    assert "| treatment |" in found.markdown


def test_a_line_without_token_ids_is_told_of_by_its_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"id": "a", "prompt_ids": [1], "answer_ids": [2], "prompt": "x"}) + '\n{"id": "b", "prompt": "x"}\n'
    )
    lines = read_recorded(path)
    assert next(lines) == RecordedRequest("a", (1,), (2,))
    with pytest.raises(ConfigError, match=r"a.jsonl:2 is no recorded request"):
        next(lines)


def test_a_line_of_an_older_specd_tells_the_temperature_and_one_of_a_newer_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    known = {"id": "a", "prompt_ids": [1], "answer_ids": [2], "temperature": 0.5}
    law = {"temperature": 0.5, "top_p": 0.8, "logit_bias": [[3, -1.0]]}
    newer = {"version": VERSION + 1, "sampling": {"x": 1}}
    lines = [known, known | {"version": VERSION, "sampling": law}, known | newer]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = read_recorded(path)
    assert next(found).law == Sampling(temperature=0.5)
    assert next(found).law == Sampling(temperature=0.5, top_p=0.8, logit_bias=((3, -1.0),))
    with pytest.raises(ConfigError, match=r"a.jsonl:3 is a recorded request of version 3; this specd reads up to 2"):
        next(found)


def two_arms():
    return trial("replayed", {"policy": "off"}, {"policy": "fixed", "parameters": {"length": 4}})


def make_toy(eos=()):
    return Engine(tiny_target(), {"ngram": NGram(max_drafts=6)}, {"fixed": lambda: Fixed(2)}, SHAPE, eos)


def recorded_with(number, **law):
    """Requests whose answers were of 20 tokens."""
    return [
        RecordedRequest(f"r{i}", (1, 2, 3, 1, 2, 3 + i % 8), tuple(range(20)), 1.0, VERSION, Sampling(**law))
        for i in range(number)
    ]


def test_requests_are_replayed_under_the_law_they_were_recorded_with():
    engine, experiment = make_toy(eos=(5,)), two_arms()
    # Nothing but the end of the text has a chance, after the tokens there must be.
    recorded = recorded_with(4, logit_bias=((5, 100.0),), top_k=1, min_tokens=3, max_tokens=500)
    found = play(engine, make_arms(experiment, Settings()), experiment, recorded, "fast")
    plays = len(found.arms) * (1 + found.num_stretches)
    assert engine.stats.emitted == 4 * 4 * plays
    assert found.num_old == 0
    assert "temperature alone" not in found.markdown


def test_what_cannot_be_replayed_is_left_out_and_counted_by_its_name():
    engine, experiment = make_toy(), two_arms()
    kept = recorded_with(3)
    others = [
        RecordedRequest("g", (1,), (1,), 1.0, VERSION, Sampling(grammar=Grammar(GrammarKind.REGEX, "a*"))),
        RecordedRequest("b", (1,), (1,), 1.0, VERSION, Sampling(logit_bias=((10**6, 1.0),))),
        RecordedRequest("p", (10**6,), (1,), 1.0),
        RecordedRequest("q", (10**6,), (1,), 1.0),
    ]
    found = play(engine, make_arms(experiment, Settings()), experiment, [*others, *kept], "fast")
    assert found.num_requests == 3
    assert found.left_out == {"grammar": 1, "logit_bias": 1, "prompt": 2}
    assert "left out, as they cannot be replayed: 1 for their grammar, 1 for their logit_bias, 2 for" in found.markdown
    with pytest.raises(ConfigError, match=r"no recorded requests to play; left out for their grammar, .*: 4"):
        play(engine, make_arms(experiment, Settings()), experiment, others, "fast")


@pytest.mark.parametrize(("concurrency", "most"), [(2, 2), (None, SHAPE.max_num_seqs)])
def test_so_many_requests_run_at_once_as_were_asked_for_or_as_there_are_slots(concurrency, most):
    engine, experiment = make_toy(), two_arms()
    arms = make_arms(experiment, Settings())
    # Of two at once a stretch is of four requests, and of sixteen of as many; the steps of the last are remembered.
    found = play(engine, arms, experiment, recorded_with(32), "fast", concurrency=concurrency)
    assert max(record.sampling for record in engine.recent.records()) == most
    assert found.concurrency == most
    assert f"{most} at once" in found.markdown
    assert [one.num_identical for one in found.arms] == [32, 32]


def test_more_at_once_than_there_are_slots_is_refused_before_anything_is_loaded(tmp_path):
    settings = Settings(engine=EngineSettings(target=str(tmp_path / "nowhere"), max_num_seqs=8))
    for wrong in (0, 9):
        with pytest.raises(ConfigError, match=f"--concurrency must be 1 to engine.max_num_seqs, 8, got {wrong}"):
            replay_experiment(settings, two_arms(), [tmp_path / "none"], wrong)


@pytest.fixture
def recording(tmp_path):
    """What a server wrote of six answers of the demo, twice over: files may overlap."""
    tokenizer, questions = Tokenizer(target_folder("demo")), PromptPool(["math", "library"], 0).questions[:6]
    lines = [
        {"kind": "recorded", "id": f"job-{i}", "prompt_ids": tokenizer.encode(one.text), "answer_ids": [1] * 12}
        | {"prompt": one.text, "answer": "", "temperature": (0.0, 1.0)[i % 2], "finish_reason": "length"}
        for i, one in enumerate(questions)
    ]
    path = tmp_path / "recorded.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    return [path, path]


def test_recorded_traffic_has_identical_texts_under_every_policy_to_the_bit(recording):
    experiment = trial("bits", {"policy": "fixed", "parameters": {"length": 7}}, {"policy": "load_adaptive"})
    numerics = EngineSettings(numerics="batch_invariant", profile=False, max_num_seqs=3)
    found = replay_experiment(Settings(engine=numerics), experiment, recording)
    assert (found.num_requests, found.num_stretches, found.must_be_identical) == (6, 2, True)
    assert "6 were recorded by an older specd, with their temperature alone" in found.markdown
    assert [one.num_identical for one in found.arms] == [6, 6]
    assert found.is_identical
    one, other = found.arms
    assert not replace(found, arms=(one, replace(other, num_identical=5))).is_identical


def test_a_stretch_is_several_turns_long_where_there_are_requests_enough_for_eight():
    assert [stretch_len(number, 16) for number in (5, 20, 256, 10_000)] == [16, 16, 32, 128]
