"""`specd experiment` from the file to the report, on a real Redis."""

import json

import pytest
from redis import Redis

from cli.experiment import duration
from cli.main import main
from client.wire import WORKERS_KEY, units_stream, worker_key
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
    sign_on(redis_url, "m")

    def run(action, *arguments, file=None):
        file = file or ("x.toml" if action in ("validate", "start", "replay") else None)
        named = [str(tmp_path / file)] if file else []
        status = main(["experiment", action, *named, "--redis-url", redis_url, "--model", "m", *arguments])
        told = capsys.readouterr()
        return status, told.out + told.err

    return run


def sign_on(redis_url, model):
    """Have a worker of a model be there, as it says so itself."""
    with Redis.from_url(redis_url) as client:
        client.sadd(WORKERS_KEY, f"worker-of-{model}")
        client.hset(worker_key(f"worker-of-{model}"), "model", model)


def test_an_experiment_that_nobody_would_follow_is_not_started(call, redis_url):
    status, told = call("start", "--model", "unheard")
    assert (status, "no live worker serves model 'unheard'; there are workers of 'm'" in told) == (2, True)
    assert call("status", "--model", "unheard")[1].startswith("no experiment was ever started")
    assert call("start", "--model", "unheard", "--without-workers")[0] == 0


def test_a_report_by_a_file_that_was_edited_says_what_differs(call, redis_url, tmp_path):
    assert call("start")[0] == 0
    experiment = read_experiment(tmp_path / "x.toml")
    with Redis.from_url(redis_url) as client:
        for record in units(experiment, 30):
            client.xadd(units_stream("m", "x"), {"m": encode_record(record)})
    assert call("report", file="x.toml")[0] == 0
    (tmp_path / "edited.toml").write_text(FILE.replace("min_blocks = 20", "min_blocks = 25"), encoding="utf-8")
    status, told = call("report", file="edited.toml")
    assert (status, "in the file stop.min_blocks is 25, was 20" in told) == (2, True)
    (tmp_path / "other.toml").write_text(FILE.replace('id = "x"', 'id = "y"'), encoding="utf-8")
    assert "no results of an experiment 'y'; 'x' runs" in call("report", file="other.toml")[1]


def test_what_has_no_room_is_refused_or_told(call, redis_url, tmp_path):
    large = FILE + "max_blocks = 30000\n"
    (tmp_path / "x.toml").write_text(large, encoding="utf-8")
    assert "stop.max_blocks are 60020 units, of which 50000 have room: it ends there" in call("validate")[1]
    (tmp_path / "x.toml").write_text(large.replace("min_blocks = 20", "min_blocks = 26000"), encoding="utf-8")
    status, told = call("start")
    assert (status, "take fewer blocks" in told) == (2, True)


def test_a_comparison_of_less_than_two_days_is_warned_of(call, tmp_path):
    assert "may be shipped after 0 hours of comparison" in call("validate")[1]
    (tmp_path / "x.toml").write_text(FILE + "max_blocks = 720\nmin_hours = 48\n", encoding="utf-8")
    assert "warning" not in call("validate")[1]
    assert "it takes 48.7 hours" in call("validate")[1]


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
