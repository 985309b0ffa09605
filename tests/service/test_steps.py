"""GET /specd/steps and `specd explain`: what policies did lately, through a real worker and gateway."""

import io

import pytest
from rich.console import Console

from cli.explain import show
from client.steps import WorkerSteps, fetch_steps
from core.errors import QueueError
from core.step_record import StepRecord
from tests.service.fakes import FakeEngine, running

RECORD = StepRecord(
    step=9,
    drafter="dspark",
    policy="load_adaptive",
    sequences=3,
    sampling=3,
    stale=1,
    context_len=40.0,
    survival=2.5,
    extra_rows=0,
    kv_free=0.75,
    queue_depth=2,
    oldest_wait_s=1.25,
    rule="best 12",
    planned=14,
    followed=2,
    probed=0,
    predicted_step_s=0.0051,
    predicted_tokens=9.5,
    drafted=14,
    verified=12,
    accepted=7,
    tokens=10,
    rows=15,
    step_s=0.0062,
)


class RecordingEngine(FakeEngine):
    def snapshot(self):
        return super().snapshot() | {"recent_steps": [RECORD]}


async def test_the_last_steps_of_every_worker_are_told(settings):
    async with running(settings, RecordingEngine()):
        url = f"http://127.0.0.1:{settings.server.port}"
        (worker,) = await fetch_steps(url)
        assert worker.steps == (RECORD,)


async def test_who_does_not_answer_is_an_error_in_words():
    with pytest.raises(QueueError, match=r"no answer from http://127\.0\.0\.1:1"):
        await fetch_steps("http://127.0.0.1:1")


def shown(worker, num_steps=16):
    console = Console(file=io.StringIO(), width=160)
    show(console, worker, num_steps)
    return console.file.getvalue()


def test_expectation_and_outcome_stand_side_by_side():
    text = shown(WorkerSteps("a", (RECORD,)))
    assert "best 12" in text
    assert "9.5 -> 10" in text
    assert "5.1 -> 6.2" in text
    assert "2 requests wait" in text


def test_a_worker_without_drafts_says_so():
    assert "no step with a drafter so far" in shown(WorkerSteps("a", ()))
