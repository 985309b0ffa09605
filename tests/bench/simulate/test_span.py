"""A trace is played to its end, what is left out of it is told, and rates are over the seconds that were played."""

import json

import pytest

from bench.simulate.case import Case, play
from bench.simulate.settings import Simulation, Traffic
from bench.simulate.span import Span, span_of
from cli.main import main
from core.errors import ConfigError


@pytest.fixture
def trace(tmp_path):
    """Writes a trace of requests of 20 tokens, one at each of these times."""

    def write(*times):
        path = tmp_path / "trace.jsonl"
        lines = [{"at_s": at_s, "prompt_len": 10, "output_len": 20} for at_s in times]
        path.write_text("\n".join(map(json.dumps, lines)))
        return Traffic(kind="trace", trace=str(path), loads=(1.0,))

    return write


def played(traffic, load=1.0, **fields):
    return play(Case(Simulation(traffic=traffic, **fields), "off", load, 1))


def test_a_trace_longer_than_the_usual_minute_is_played_to_its_last_request(trace):
    outcome = played(trace(*range(0, 301, 20)))
    assert outcome.seconds == 290
    assert outcome.arrived == 15
    # The last one comes as all ends.
    assert outcome.tokens_per_s == pytest.approx(14 * 20 / 290)


def test_a_trace_at_twice_its_speed_takes_half_as_long(trace):
    outcome = played(trace(*range(0, 301, 20)), load=2.0)
    assert outcome.seconds == 140
    assert outcome.tokens_per_s == pytest.approx(14 * 20 / 140)


def test_a_trace_that_is_over_before_the_seconds_are_counts_those_that_were_played(trace):
    outcome = played(trace(0.0, 1.0, 2.0), seconds=60.0, warm_up_s=0.5)
    assert 1.5 < outcome.seconds < 2.5
    assert outcome.tokens_per_s == pytest.approx(40 / outcome.seconds)
    assert outcome.utilisation > 0.1


def test_a_trace_that_ends_before_anything_counts_is_told_what_would_help(trace):
    with pytest.raises(ConfigError, match=r"last request comes after 2 s, and nothing counts before 5 s.*--seconds"):
        played(trace(0.0, 2.0), warm_up_s=5.0)
    with pytest.raises(ConfigError, match=r"had ended after 2\.\d* s, and nothing counts before 50 s.*--warm-up"):
        played(trace(0.0, 2.0), warm_up_s=50.0, seconds=10.0)


def test_requests_that_never_end_are_played_for_a_minute_after_ten_seconds():
    assert span_of(Simulation(), None) == Span(10.0, 70.0)
    assert played(Traffic(kind="poisson", loads=(0.01,)), load=0.01).seconds == 60


def test_the_command_says_what_it_leaves_out_of_a_trace(trace, tmp_path, capsys):
    flags = ["--traffic", "trace", "--trace", trace(0.0, 1.0, 300.0).trace, "--loads", "1", "--policies", "off"]
    output = ["--output", str(tmp_path / "simulated")]
    assert main(["simulate", *flags, *output, "--seconds", "3", "--warm-up", "0"]) == 0
    told = "load 1: the trace is 300 s long, of which only the first 3 s are played; without --seconds all of it is"
    assert told in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((tmp_path / "simulated.json").read_text())["notices"] == [told]
    assert main(["simulate", *flags, *output]) == 0
    assert "of which only" not in capsys.readouterr().out
    assert json.loads((tmp_path / "simulated.json").read_text())["outcomes"][0]["seconds"] == 290
