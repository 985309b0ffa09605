"""Clients that keep a server busy take part in its experiments, and give up on a server that is gone."""

import time

import pytest

from bench.experiments import busy
from bench.experiments.busy import kept_busy
from bench.prompt_pool import PromptPool
from core.errors import QueueError
from tests.bench.fake_server import chunk, serving


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(busy, "RETRY_S", 0.01)


def test_requests_come_without_end_and_say_nothing_of_speculation():
    with serving(lambda _: iter([chunk(1), "[DONE]"])) as (url, bodies):
        with kept_busy(url, PromptPool(["math", "library"], 0), 3):
            until = time.monotonic() + 30
            while len(bodies) < 12 and time.monotonic() < until:
                time.sleep(0.01)
        asked = [body for _, body in bodies]
    assert len(asked) >= 12
    assert not any("speculation" in body for body in asked)
    assert len({body["prompt"] for body in asked}) >= 9
    assert len({body["cache_salt"] for body in asked}) == len(asked)


def test_a_server_that_is_gone_ends_it():
    with (
        pytest.raises(QueueError, match="no answer from"),
        kept_busy("http://127.0.0.1:9", PromptPool(["math"], 0), 2) as failed,
    ):
        assert failed.wait(30)
