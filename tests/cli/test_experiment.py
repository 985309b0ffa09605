"""`specd experiment` from the file to the report, on a real Redis."""

import json

import pytest
from redis import Redis

from cli.experiment import duration
from cli.main import main
from client.wire import units_stream
from core.experiments.spec import read_experiment
from core.experiments.unit_sums import UnitRecord, UnitSums, encode_record
from tests.core.experiments.test_analysis import units

FILE = """
id = "x"
[arms.control]
policy = "fixed"
[arms.treatment]
policy = "load_adaptive"
[stop]
pre_blocks = 10
min_blocks = 20
"""


@pytest.fixture
def call(redis_url, tmp_path, capsys):
    (tmp_path / "x.toml").write_text(FILE, encoding="utf-8")

    def run(action, *arguments):
        named = [str(tmp_path / "x.toml")] if action in ("validate", "start", "replay") else []
        status = main(["experiment", action, *named, "--redis-url", redis_url, "--model", "m", *arguments])
        told = capsys.readouterr()
        return status, told.out + told.err

    return run


def test_an_experiment_is_started_watched_judged_and_stopped(call, redis_url, tmp_path):
    assert call("status") == (0, "no experiment was ever started for this model\n")
    assert call("stop") == (2, "specd: no experiment was ever started for this model\n")
    status, told = call("validate")
    assert status == 0
    assert "a block is 2 slots of 120 s; it takes 2.0 hours to 27.3 hours" in told
    assert call("start")[0] == 0
    assert call("start")[0] == 2
    assert "experiment x: runs\nit begins in" in call("status")[1]
    experiment = read_experiment(tmp_path / "x.toml")
    with Redis.from_url(redis_url) as client:
        for record in units(experiment, 60, effect=1.2):
            client.xadd(units_stream("m", "x"), {"m": encode_record(record)})
    status, told = call("report", "--output", str(tmp_path / "out"))
    assert (status, told.startswith("# Experiment x: ship")) == (0, True)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["advice"] == "ship"
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert call("stop", "--why", "seen enough") == (0, "experiment x is stopped\n")
    assert "experiment x: stopped, seen enough\n121 units from 1 worker, 12100 requests\n" in call("status")[1]
    assert call("stop") == (0, "experiment x had stopped before: seen enough\n")


def test_where_nobody_takes_part_status_says_who_does_not(call, redis_url, tmp_path):
    assert call("start")[0] == 0
    idle = UnitRecord("x", read_experiment(tmp_path / "x.toml").digest, "w", 1, "control", UnitSums(seconds=60.0))
    with Redis.from_url(redis_url) as client:
        client.xadd(units_stream("m", "x"), {"m": encode_record(idle)})
    told = call("status")[1]
    assert "1 unit from 1 worker, 0 requests" in told
    assert "no request has taken part: those that name their own `speculation` do not" in told


def test_a_time_is_told_in_minutes_up_to_two_hours():
    assert [duration(seconds) for seconds in (320, 7199, 7200)] == ["5 minutes", "120 minutes", "2.0 hours"]


def test_without_a_redis_or_a_file_it_says_what_is_missing(capsys):
    assert main(["experiment", "status"]) == 2
    assert "name the server's with --redis-url" in capsys.readouterr().err
    assert main(["experiment", "validate"]) == 2
    assert "needs the experiment's FILE" in capsys.readouterr().err


def test_a_replay_of_more_requests_at_once_than_there_are_slots_is_refused(call):
    status, told = call("replay", "--recorded", "none.jsonl", "--concurrency", "100000")
    assert status == 2
    assert "--concurrency must be 1 to engine.max_num_seqs" in told
