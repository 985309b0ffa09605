"""A worker of several processes: who has which part, and what its user meets when it serves and when one dies."""

import os
import signal
import time

import pytest

from cli.serve import role_of
from core.config import EngineSettings, Settings
from core.config_check import check_settings
from core.errors import ConfigError
from core.server_settings import ServerSettings
from core.types import Sampling
from engine.build import build_engine
from service.ranks import torchrun_arguments
from tests.service.test_main import are_gone, command_line, descendants, needs_demo, serving, text_of

TWO = EngineSettings(tensor_parallel=2)


@pytest.mark.parametrize(
    ("role", "engine", "environ", "expected"),
    [
        ("worker", EngineSettings(), {}, "worker"),
        ("worker", TWO, {}, "ranks"),
        ("worker", TWO, {"TORCHELASTIC_RUN_ID": "x", "RANK": "0"}, "worker"),
        ("worker", TWO, {"TORCHELASTIC_RUN_ID": "x", "RANK": "1"}, "follower"),
        # The supervisor starts a worker, whose part it is to have ranks.
        ("all", TWO, {}, "all"),
        ("gateway", TWO, {}, "gateway"),
    ],
)
def test_a_worker_of_several_processes_is_led_by_the_first_that_torchrun_starts(role, engine, environ, expected):
    assert role_of(Settings(ServerSettings(role=role), engine=engine), environ) == expected


def test_the_ranks_get_the_command_line_of_the_worker():
    told = torchrun_arguments(3, ["serve", "--role", "worker", "--config", "x.toml"])
    assert told[-7:] == ["-m", "cli.main", "serve", "--role", "worker", "--config", "x.toml"]
    assert told[told.index("--nproc-per-node") + 1] == "3"


def test_batch_invariant_numerics_are_refused_beside_several_ranks():
    with pytest.raises(ConfigError, match=r"tensor_parallel 2 adds up .* use 'fast'"):
        check_settings(Settings(engine=EngineSettings(tensor_parallel=2, numerics="batch_invariant")))


@pytest.mark.slow
@needs_demo
def test_two_ranks_serve_what_one_does_and_a_stream_outlives_a_dead_follower(monkeypatch):
    engine = EngineSettings(dtype="float32", profile=False)
    sampling = Sampling(max_tokens=64, temperature=0.0, ignore_eos=True)
    (alone,) = build_engine(Settings(engine=engine)).generate(["1 + 1 ="], sampling)
    for name, value in {"TENSOR_PARALLEL": "2", "DTYPE": "float32", "PROFILE": "false"}.items():
        monkeypatch.setenv(f"SPECD_ENGINE__{name}", value)
    with serving() as server:
        assert server.ask(max_tokens=64)["choices"][0]["text"] == alone.text
        with server.open(max_tokens=400, stream=True) as response:
            first = response.readline()
            os.kill(ranks_of(server)[-1], signal.SIGKILL)
            lines = [first, *response]
        assert lines[-2] == b"data: [DONE]\n"
        assert text_of(lines).startswith(alone.text)
        children = descendants(server.process.pid)
    assert len(children) >= 5
    assert are_gone(children)


def ranks_of(server):
    """The processes that torchrun has started, the leader first."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        below = descendants(server.process.pid)
        ranks = sorted(pid for pid in below if b"-u\0-m\0cli.main\0" in command_line(pid))
        if len(ranks) == 2:
            return ranks
    raise AssertionError("no ranks were started")
