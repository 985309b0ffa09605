"""`specd bench` from its flags to its files, on the demo pair; and what it refuses."""

import json
from contextlib import contextmanager

import pytest
from rich.console import Console

from bench import command
from bench.command import fit_builds, open_targets
from bench.interleave import Schedule, fit_schedule
from bench.load import Load
from bench.modes import make_modes
from cli.main import main
from cli.parser import make_parser
from core.config import EngineSettings
from core.errors import ConfigError
from tests.bench.fake_server import chunk, serving


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    stem = tmp_path_factory.mktemp("bench") / "load"
    flags = ["--modes", "off", "fixed:3", "--concurrency", "1", "3", "--minutes", "0.01", "--output", str(stem)]
    assert main(["bench", *flags]) == 0
    return stem


def test_a_run_writes_its_report_and_figures(report):
    names = {path.name for path in report.parent.iterdir()}
    assert names == {"load.json", "load_speed_t1.png", "load_lengths_t1.png", "load_step_t1.png"}


def test_a_report_says_what_was_run_where(report):
    told = json.loads(report.with_suffix(".json").read_text())
    assert "cores" in told["machine"]
    assert told["place"] == "in-process"
    assert told["command"].count("--modes") <= 1
    assert told["engine"]["max_num_seqs"] == 3


def test_speculation_verifies_drafts_and_off_none(report):
    rows = json.loads(report.with_suffix(".json").read_text())["rows"]
    by_mode = {(row["mode"], row["concurrency"]): row for row in rows}
    assert len(by_mode) == 4
    assert by_mode["off", 3]["verify_length"] == 0 < by_mode["fixed:3", 3]["verify_length"] <= 3
    assert by_mode["fixed:3", 1]["accepted_length"] > 2
    assert len(by_mode["fixed:3", 1]["rates"]) == 4
    assert by_mode["fixed:3", 1]["ratio"]["low"] > 0


@pytest.mark.parametrize(
    ("minutes", "num_builds", "rounds"),
    [
        (8.0, 4, 17),  # two minutes each: 9 s of them to settle in, 18 windows for each of two loads and modes
        (2.0, 2, 7),
        (1.0, 1, 9),  # half of it is too short for four rounds beside settling
    ],
)
def test_engines_are_built_anew_where_there_is_time(minutes, num_builds, rounds):
    schedule, builds = fit_builds(fit_schedule(minutes, 1.5, 2, 2), minutes, 1.5, 2, 2)
    assert (builds, schedule.rounds, schedule.window_s) == (num_builds, rounds, 1.5)
    assert schedule.settle_s == (4.5 if builds > 1 else 0.0)


def test_every_mode_is_built_first_in_its_turn_and_all_windows_count(monkeypatch):
    opened = []

    @contextmanager
    def opens(modes, arguments):
        opened.append([mode.name for mode in modes])
        yield list(modes)

    def measure(targets, loads, pool, schedule, seed, report):
        return {load: {target.name: [f"{target.name} of {seed}"] for target in targets} for load in loads}

    monkeypatch.setattr(command, "open_targets", opens)
    monkeypatch.setattr(command, "measure", measure)
    arguments = make_parser().parse_args(["bench", "--seed", "5"])
    modes, load = make_modes(["off", "fixed:3"], "dspark", EngineSettings()), Load(1, 1.0)
    measured = {load: {mode.name: [] for mode in modes}}
    for build in range(2):
        command.add_build(measured, modes, build, Schedule(1, 1.0, 1.0), arguments, Console())
    assert opened == [["off", "fixed:3"], ["fixed:3", "off"]]
    assert measured == {load: {"off": ["off of 5", "off of 6"], "fixed:3": ["fixed:3 of 5", "fixed:3 of 6"]}}


def test_a_wrong_mode_ends_before_anything_is_loaded(capsys):
    assert main(["bench", "--modes", "of"]) == 2
    assert "unknown mode 'of'; did you mean 'off'" in capsys.readouterr().err


def asked_of(url, bodies, mode):
    arguments = make_parser().parse_args(["bench", "--url", url])
    with open_targets(make_modes([mode], "dspark", EngineSettings()), arguments) as (target,):
        connection = target._connect()
    connection.close()
    return connection._fields


@pytest.mark.parametrize(
    ("mode", "speculation"),
    [
        ("off", "off"),
        ("fixed:3", {"policy": "fixed", "max_drafts": 3}),
        ("confidence", {"policy": "confidence"}),
        ("confidence@ngram", {"policy": "confidence", "drafter": "ngram"}),
    ],
)
def test_a_running_server_is_asked_for_a_mode_by_request(mode, speculation):
    with serving(lambda _: iter([chunk(1)])) as (url, bodies):
        assert asked_of(url, bodies, mode) == {"model": "served", "speculation": speculation}


def test_a_running_server_cannot_be_asked_for_a_policys_value():
    with serving(lambda _: iter([])) as (url, bodies), pytest.raises(ConfigError, match="cannot ask for"):
        asked_of(url, bodies, "confidence:0.5")
