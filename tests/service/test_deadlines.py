"""A job past its deadline is ended wherever it is: in the queue, at its claim, while it runs; by Redis's clock."""

import time

import msgspec
import pytest

from client.wire import Chunk, WireError, deadlines_key, job_key
from core.types import FinishReason
from service.http.http_border import NOT_TO_REPEAT
from service.stream import End
from service.takeover import end_without_work, to_request
from tests.service.fakes import FakeEngine, gateway, running, until, until_true, worker
from tests.service.jobs import append, end_of, ending, events_of, final_of, new_job, state_of, take, tokens_of


async def due_in(queue, wait_ms, **fields):
    """Submit a job that has so long left."""
    job = new_job(deadline_ms=await queue.now_ms() + wait_ms, **fields)
    await queue.submit(job)
    return job


async def test_a_claim_is_told_how_much_is_left_by_the_clock_of_redis(queue, monkeypatch):
    await due_in(queue, 5000)
    # A worker whose clock is a day off.
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    claim = await take(queue)
    assert 3000 < claim.left_ms <= 5000
    assert to_request(claim, "rejection").deadline_s == pytest.approx(86_400 + claim.left_ms / 1000)


async def test_without_a_deadline_nothing_is_ever_late(queue):
    await queue.submit(new_job())
    claim = await take(queue)
    assert (claim.left_ms, to_request(claim, "rejection").deadline_s) == (None, None)
    assert end_without_work(claim, 3) is None


async def test_a_late_job_is_ended_at_its_claim_without_being_run(settings, queue, client):
    job, engine = await due_in(queue, -1), FakeEngine()
    async with worker(settings, engine):
        final = await end_of(client, job)
    assert (final.reason, final.usage.prompt_tokens, engine.seen) == (FinishReason.DEADLINE, 3, [])
    assert await state_of(client, job.id) == "expired"


async def test_an_answer_that_only_lacks_its_final_is_never_late(queue):
    await due_in(queue, -1)
    claim = await take(queue)
    streamed = (Chunk((7,), ("x",), reason=FinishReason.STOP),)
    ended = end_without_work(msgspec.structs.replace(claim, streamed=streamed), 3)
    assert ended == End(claim.request_id, FinishReason.STOP)


async def test_a_job_that_runs_past_its_deadline_is_ended_with_what_it_has(settings, queue, client):
    engine = FakeEngine(step_s=0.02)
    async with worker(settings, engine):
        job = await due_in(queue, 400, max_tokens=500)
        started_s = time.monotonic()
        final = await end_of(client, job)
        assert 0.25 < time.monotonic() - started_s < 2.0
        await until_true(lambda: not engine.running)
        assert await queue.depth() == 0
    assert final.reason is FinishReason.DEADLINE
    assert final.usage.completion_tokens == len(await tokens_of(client, job.id)) > 0


async def test_a_job_that_gets_no_tokens_is_ended_at_its_deadline_too(settings, queue, client):
    class LongPrefill(FakeEngine):
        def step(self, meanwhile=None):
            time.sleep(0.01)
            return []

    engine = LongPrefill()
    async with worker(settings, engine):
        job = await due_in(queue, 300)
        await until_true(lambda: engine.running)
        assert (await end_of(client, job)).reason is FinishReason.DEADLINE
        await until_true(lambda: not engine.running)


async def test_a_job_is_ended_in_the_queue_even_if_no_worker_lives(settings, queue, client):
    async with gateway(settings, ready_status=503):
        late, waiting = await due_in(queue, 100), await due_in(queue, 60_000)
        final = await end_of(client, late)
        await until(queue.depth, 1)
    assert (final.reason, final.usage.prompt_tokens) == (FinishReason.DEADLINE, 3)
    assert await state_of(client, waiting.id) == "queued"
    assert await client.zrange(deadlines_key("fake"), 0, -1) == [waiting.id.encode()]


async def test_the_sweep_leaves_a_running_job_to_its_worker_but_not_for_ever(queue, client):
    job = await due_in(queue, -1)
    claim = await take(queue)
    await queue.append([append(claim, 0, 7)])
    assert await queue.end_overdue() == 0
    await client.hset(job_key(job.id), "deadline", job.deadline_ms - 2 * queue.settings.lease_ms)
    assert await queue.end_overdue() == 1
    final = await final_of(client, job.id)
    assert (final.reason, final.usage.completion_tokens) == (FinishReason.DEADLINE, 1)
    assert not (await queue.append([append(claim, 1, 8)]))[0].is_ours
    assert await tokens_of(client, job.id) == [7]


async def test_the_sweep_forgets_jobs_that_have_ended(queue, client):
    job = await due_in(queue, -1)
    await queue.finish([ending(await take(queue), 0)])
    assert await queue.end_overdue() == 0
    assert [event.reason for event in await events_of(client, job.id)] == [FinishReason.LENGTH]
    assert await client.zcard(deadlines_key("fake")) == 0


async def test_over_http_a_late_answer_is_a_504_that_is_not_to_be_repeated(settings):
    async with running(settings, FakeEngine(step_s=0.02)) as service:
        body = {"prompt": "abc", "max_tokens": 400, "deadline_ms": 300}
        async with service.http.post(f"{service.url}/v1/completions", json=body) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (504, "deadline_exceeded")
            assert response.headers["x-should-retry"] == "false"
        status, body = await service.post(prompt="abc", max_tokens=3, deadline_ms=60_000)
        assert status == 200
        assert service.engine.seen[-1].deadline_s == pytest.approx(time.time() + 60, abs=5)


@pytest.mark.parametrize("deadline_ms", [0, -5, 86_400_001, "soon"])
async def test_a_deadline_out_of_bounds_is_named(settings, deadline_ms):
    async with gateway(settings, ready_status=503) as http:
        body = {"prompt": "abc", "deadline_ms": deadline_ms}
        async with http.post(f"http://127.0.0.1:{settings.server.port}/v1/completions", json=body) as response:
            assert (response.status, (await response.json())["error"]["param"]) == (400, "deadline_ms")


def test_jobs_given_up_are_not_to_be_repeated_either():
    assert WireError("", code="attempts_exhausted").code in NOT_TO_REPEAT
