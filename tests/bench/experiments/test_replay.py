"""Recorded requests give the same texts under every arm, and a line that is none is told of by its place."""

import json

import pytest

from bench.experiments.replay import RecordedRequest, play, read_recorded
from bench.experiments.trials import trial
from core.config import Settings
from core.errors import ConfigError
from drafters.ngram import NGram
from engine.arms import make_arms
from engine.engine import Engine
from policies.fixed import Fixed
from toys import SHAPE, tiny_target


def test_every_arm_gives_every_recorded_request_the_same_text():
    experiment = trial("replayed", {"policy": "off"}, {"policy": "fixed", "parameters": {"length": 4}})
    engine = Engine(tiny_target(), {"ngram": NGram(max_drafts=6)}, {"fixed": lambda: Fixed(2)}, SHAPE, ())
    recorded = [RecordedRequest(f"r{i}", (1, 2, 3, 1, 2, 3 + i), tuple(range(20)), 1.0) for i in range(20)]
    found = play(engine, make_arms(experiment, Settings()), experiment, recorded, "fast")
    assert (found.num_requests, found.num_batches) == (20, 2)
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
