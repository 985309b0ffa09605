"""Recorded requests give the same texts under every arm, and a line that is none is told of by its place."""

import json

import msgspec
import pytest
from msgspec.structs import replace

from bench.experiments.replay import RecordedRequest, play, read_recorded, replay_experiment, stretch_len
from bench.experiments.trials import trial
from bench.prompt_pool import PromptPool
from core.config import EngineSettings, Settings
from core.errors import ConfigError
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
    assert [one.num_identical for one in found.arms] == [6, 6]
    assert found.is_identical
    one, other = found.arms
    assert not replace(found, arms=(one, replace(other, num_identical=5))).is_identical


def test_a_stretch_is_several_turns_long_where_there_are_requests_enough_for_eight():
    assert [stretch_len(number, 16) for number in (5, 20, 256, 10_000)] == [16, 16, 32, 128]
