"""Settings of a simulation: flags over the file, and errors that say what would be right."""

import json

import numpy as np
import pytest
from msgspec.structs import replace

from bench.simulate.settings import Lengths, Traffic, read_simulation
from bench.simulate.traffic import Arrivals, draw_length
from core.errors import ConfigError
from tests.bench.simulate.cases import texts

TOML = """
policies = ["off", "mine"]
[named.mine]
kind = "fixed"
length = 2
[traffic]
kind = "poisson"
loads = [2.0]
[traffic.domains.math]
prompt = { mean = 100.0 }
[acceptance.domains.math]
accept = [0.8, 0.7]
"""


def written(tmp_path, text):
    path = tmp_path / "simulation.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_is_simulated_and_flags_win(tmp_path):
    simulation = read_simulation(written(tmp_path, TOML), {"fleet.workers": 3, "traffic.loads": [5.0]})
    assert simulation.named["mine"].length == 2
    assert simulation.traffic.domains["math"].prompt.mean == 100
    assert (simulation.fleet.workers, simulation.traffic.loads) == (3, (5.0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fleet]\nworker = 3", "unknown setting fleet.worker.*did you mean 'workers'"),
        ("[traffic.domains.math]\nprompts = 3", "traffic.domains.math.prompts.*did you mean 'prompt'"),
        ('[named.mine]\nkind = "fixd"', "unknown kind 'fixd'.*did you mean 'fixed'"),
        ('[named.mine]\nkind = "fixed"\nlenght = 3', "named.mine.lenght.*did you mean 'length'"),
        ("[fleet]\nworkers = 0", "fleet.workers"),
        ("[traffic]\nloads = [1.5]", "clients, whole numbers"),
        ('[traffic]\nkind = "trace"', "needs traffic.trace"),
        ("[traffic.bursts]\nvariation = 1.0", "need traffic.kind 'poisson', got 'closed'"),
        ("[traffic.day]\nswing = 1.5", "traffic.day.swing"),
        ("[acceptance.domains.a]\naccept=[0.5]\n[acceptance.domains.b]\naccept=[0.5, 0.5]", "as many positions"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_simulation(written(tmp_path, text), {})


def test_a_trace_is_played_as_it_is_written_and_a_bad_line_is_named(tmp_path):
    path = tmp_path / "trace"
    lines = [{"at_s": 2, "prompt_len": 3, "output_len": 4}, {"at_s": 1, "prompt_len": 5, "output_len": 6}]
    path.write_text("\n".join(map(json.dumps, lines)))
    traffic = Traffic(kind="trace", trace=str(path), loads=(2.0,))
    jobs = list(Arrivals(traffic, 2.0, texts(1), 0).opening())
    assert [(job.arrived_s, job.prompt_len, job.output_len) for job in jobs] == [(0.5, 5, 6), (1.0, 3, 4)]
    path.write_text('{"at_s": 1, "prompt_len": 0, "output_len": 1}')
    with pytest.raises(ConfigError, match="line 1"):
        Arrivals(traffic, 2.0, texts(1), 0)


def test_recorded_requests_ask_for_what_they_asked_and_end_where_they_ended():
    recorded = replace(texts(1, length=10), prompt_len=np.full(4, 5, np.int32), asked=np.full(4, 40, np.int32))
    arrivals = Arrivals(Traffic(kind="closed", loads=(4.0,)), 4.0, recorded, 0)
    first = sorted((job.max_tokens, job.output_len) for job in arrivals.opening())
    # Of the clients' first, as of a loop that had been running, a quarter is asked for, a half, and so on.
    assert first == [(10, 10), (20, 10), (30, 10), (40, 10)]


def test_arrivals_are_as_many_as_the_rate_says():
    arrivals = Arrivals(Traffic(kind="poisson", loads=(50.0,)), 50.0, texts(1), 0).opening()
    times = np.array([next(arrivals).arrived_s for _ in range(2000)])
    assert 2000 / times[-1] == pytest.approx(50, rel=0.1)
    assert np.diff(times).std() == pytest.approx(1 / 50, rel=0.1)


def test_lengths_have_the_mean_and_the_variation_that_are_asked_for():
    random = np.random.default_rng(0)
    drawn = [draw_length(Lengths(mean=200.0, variation=0.5, most=100_000), random) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(200, rel=0.05)
    assert np.std(drawn) / np.mean(drawn) == pytest.approx(0.5, rel=0.1)
