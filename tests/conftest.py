"""What must hold before any test module is imported, and the Redis of the test run's own."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import structlog
import torch
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from client.redis_executable import redis_executable

# Triton decides when a kernel is defined whether it is interpreted, and kernels are defined on import.
os.environ["TRITON_INTERPRET"] = "1"
# Everything here is tiny: a second thread only waits for the first.
torch.set_num_threads(1)


TESTS = Path(__file__).parent
# Folders whose tests are about real processes, sockets and clocks; all others get one try.
REAL_TIME = {"bench", "cli", "client", "faults", "page", "redis_capacity", "security", "service"}


@pytest.fixture(autouse=True)
def logs_as_they_come():
    """What one test configures of logging, the next one must not feel."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(items):
    """Give what has to be right within a time a second try, which the summary counts.

    Such tests run processes, leases and clients on cores that other tests keep busy, so one of thousands may be late.
    """
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in REAL_TIME:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_addoption(parser):
    """Let a run be on another Redis: what holds on 6.2 has to hold on 7."""
    parser.addoption("--redis-server", help="the redis-server to test with, in place of the one that serve would take")


@pytest.fixture(scope="session")
def redis_binary(request):
    """The executable of every Redis of the run."""
    return redis_executable(request.config.getoption("--redis-server"))


@pytest.fixture(scope="session")
def redis_server(redis_binary):
    """The URL of a real Redis on a unix socket, started once and ended with the run."""
    with tempfile.TemporaryDirectory(prefix="specd-test-") as folder:
        socket = Path(folder) / "redis.sock"
        arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--loglevel", "warning"]
        with subprocess.Popen([redis_binary, *arguments], cwd=folder, stdout=subprocess.DEVNULL) as process:
            with Redis(unix_socket_path=str(socket)) as client:
                until_it_answers(client)
            yield f"unix://{socket}"
            process.terminate()


@pytest.fixture
def redis_url(redis_server):
    """The URL of the run's Redis, empty."""
    with Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


def until_it_answers(client: Redis) -> None:
    """Wait for a server that was just started."""
    for _ in range(500):
        try:
            client.ping()
        except RedisConnectionError:
            time.sleep(0.01)
        else:
            return
    raise TimeoutError("the test run's Redis did not start")
