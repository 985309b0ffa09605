"""The worker serves whatever comes, ends what it must end, and hands over what it cannot finish."""

import asyncio
import time
from contextlib import AsyncExitStack

import msgspec
import pytest
from structlog.testing import capture_logs

from client.wire import WORKER_GROUP, WORKERS_KEY, dead_stream, job_key, queue_stream, worker_key
from core.errors import EngineError, ReplicaLost
from core.types import Backlog, FinishReason
from service.engine_process.client import EngineGone
from service.heartbeat import Heartbeat
from service.queue import JobQueue
from service.storage.connect import connect
from service.telemetry.worker_metrics import read_workers
from service.worker import Worker
from tests.service.conftest import LEASE_MS
from tests.service.fakes import BYTES, FakeEngine, served, spoken, until, until_true, worker, write_tokenizer
from tests.service.jobs import append, end_of, final_of, new_job, state_of, take, text_of, tokens_of

LEASE_S = LEASE_MS / 1000
REFUSED, BREAKS, POISON = (0, 5), (1, 5), (66, 6)


async def has_streamed(client, job, num_tokens):
    return len(await tokens_of(client, job.id)) >= num_tokens


@pytest.fixture
async def make_worker(settings, tmp_path):
    """Make workers that a test may abandon: what kill -9 leaves of a worker."""
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    async with AsyncExitStack() as stack:

        async def make(engine, name):
            client = await stack.enter_async_context(connect(settings.queue.redis_url, 2.0))
            queue = JobQueue(client, settings.queue, "fake")
            await queue.open()
            told = await stack.enter_async_context(served(engine))
            return Worker(told, tokenizer, queue, Heartbeat(settings.queue.redis_url, settings.queue, "fake", name))

        yield make


async def test_every_job_gets_its_text_and_its_count(settings, queue, client):
    jobs = [new_job(max_tokens=5 + index) for index in range(12)]
    async with worker(settings, FakeEngine()):
        for job in jobs:
            await queue.submit(job)
        finals = [await end_of(client, job) for job in jobs]
    assert [final.usage.completion_tokens for final in finals] == [5 + index for index in range(12)]
    assert [await text_of(client, job) for job in jobs] == [spoken(5 + index) for index in range(12)]
    assert await queue.depth() == 0


async def test_the_engine_knows_what_waits_in_the_queue(settings, queue, client):
    for _ in range(4):
        await queue.submit(new_job(max_tokens=200))
    engine = FakeEngine(num_slots=1, step_s=0.02)
    async with worker(settings, engine):
        await until_true(lambda: engine.backlog.num_waiting == 3)
        assert engine.backlog.oldest_wait_s > 0
    assert engine.backlogs[0] == Backlog(0, 0.0)


async def test_no_more_is_claimed_than_there_are_free_slots_while_none_has_ended(settings, queue, client):
    jobs = [new_job(max_tokens=30) for _ in range(9)]
    for job in jobs:
        await queue.submit(job)
    engine = FakeEngine(num_slots=2, step_s=0.005)
    async with worker(settings, engine):
        await until_true(lambda: len(engine.running) == 2)
        assert (await client.xpending(queue_stream("fake"), WORKER_GROUP))["pending"] == 2
        for job in jobs:
            await end_of(client, job)
    assert engine.most_running == 2


async def test_where_answers_end_fast_a_job_lies_ready_for_the_next_free_slot(settings, queue, client):
    jobs = [new_job(max_tokens=6) for _ in range(40)]
    for job in jobs:
        await queue.submit(job)
    engine = FakeEngine(num_slots=2, step_s=0.005)
    async with worker(settings, engine):
        for job in jobs:
            await end_of(client, job)
    assert engine.most_running == 2
    assert engine.most_waiting == 1


async def test_a_job_that_comes_in_while_all_slots_are_taken_is_left_to_others(settings, queue, client):
    engine = FakeEngine(num_slots=2, step_s=0.005)
    async with worker(settings, engine):
        for job in [new_job(max_tokens=6) for _ in range(20)]:
            await queue.submit(job)
            await end_of(client, job)
        for _ in range(2):
            await queue.submit(new_job(max_tokens=300))
        await until_true(lambda: len(engine.running) == 2)
        await queue.submit(new_job())
        await asyncio.sleep(0.1)
        assert (await client.xpending(queue_stream("fake"), WORKER_GROUP))["pending"] == 2


async def test_a_refused_request_ends_alone_with_its_reason(settings, queue, client):
    refused, served = new_job(REFUSED), new_job()
    async with worker(settings, FakeEngine()):
        for job in (refused, served):
            await queue.submit(job)
        error = (await end_of(client, refused)).error
        assert (await end_of(client, served)).reason is FinishReason.LENGTH
    assert (error.message, error.status, error.code) == ("zeros are refused", 400, "zero")


async def test_a_broken_step_ends_its_jobs_and_later_ones_are_served(settings, queue, client):
    beside, broken, later = new_job(max_tokens=400), new_job(BREAKS), new_job()
    engine = FakeEngine(step_s=0.01)
    with capture_logs() as logs:
        async with worker(settings, engine):
            await queue.submit(beside)
            await until_true(lambda: engine.running)
            await queue.submit(broken)
            finals = [await end_of(client, job) for job in (beside, broken)]
            await queue.submit(later)
            assert (await end_of(client, later)).reason is FinishReason.LENGTH
    assert [final.error.code for final in finals] == ["internal_error"] * 2
    assert "step_failed" in [line["event"] for line in logs]


async def test_an_engine_that_fails_without_requests_ends_the_worker(make_worker, queue):
    class Broken(FakeEngine):
        has_work = True

        def step(self, meanwhile=None):
            raise RuntimeError("past use")

    one = await make_worker(Broken(), "one")
    with pytest.raises(ExceptionGroup) as caught:
        await one.run()
    assert caught.group_contains(EngineError, match="past use")


async def test_a_replica_that_lost_a_rank_ends_the_worker_and_none_of_its_jobs(make_worker, queue, client, settings):
    class Replica(FakeEngine):
        def step(self, meanwhile=None):
            if self.num_steps == 3:
                raise ReplicaLost("rank 1 is gone")
            return super().step()

    job = new_job(max_tokens=40)
    await queue.submit(job)
    one = await make_worker(Replica(), "one")
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(20.0):
            await one.run()
    assert caught.group_contains(ReplicaLost)
    assert 0 < len(await tokens_of(client, job.id)) < 40
    async with worker(settings, FakeEngine()):
        assert (await end_of(client, job)).reason is FinishReason.LENGTH
    assert await text_of(client, job) == spoken(40)


async def test_an_engine_that_died_ends_the_worker_and_what_it_ran_counts_as_tried(
    make_worker, queue, client, settings
):
    class Dying(FakeEngine):
        def step(self, meanwhile=None):
            if self.num_steps == 3:
                told._connection.abort()
            return super().step()

    job, dying = new_job(max_tokens=40), Dying()
    await queue.submit(job)
    one = await make_worker(dying, "one")
    told = one._engine
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(20.0):
            await one.run()
    assert caught.group_contains(EngineGone)
    # Had it been given back of the worker's own will, this would be 0: a job that ends engines is tried so often only.
    assert await client.hget(job_key(job.id), "attempts") == b"1"
    async with worker(settings, FakeEngine()):
        assert (await end_of(client, job)).reason is FinishReason.LENGTH
    assert await text_of(client, job) == spoken(40)


async def test_a_cancelled_job_stops_the_engine(settings, queue, client):
    job = new_job(max_tokens=500)
    engine = FakeEngine(step_s=0.005)
    async with worker(settings, engine):
        await queue.submit(job)
        await until_true(lambda: engine.running)
        await queue.cancel(job.id)
        assert (await end_of(client, job)).reason is FinishReason.CANCELLED
        await until_true(lambda: not engine.running)
    assert engine.aborted == [engine.seen[0].id]
    assert await state_of(client, job.id) == "cancelled"


async def test_a_cancelled_job_that_gets_no_tokens_is_ended_too(settings, queue, client):
    class LongPrefill(FakeEngine):
        def step(self, meanwhile=None):
            time.sleep(0.01)
            return []

    job, engine = new_job(), LongPrefill()
    async with worker(settings, engine):
        await queue.submit(job)
        await until_true(lambda: engine.running)
        await queue.cancel(job.id)
        assert (await end_of(client, job)).reason is FinishReason.CANCELLED
        await until_true(lambda: not engine.running)
    assert await queue.depth() == 0


async def test_a_job_cancelled_while_queued_never_reaches_the_engine(settings, queue, client):
    job = new_job()
    await queue.submit(job)
    await queue.cancel(job.id)
    engine = FakeEngine()
    async with worker(settings, engine):
        assert (await end_of(client, job)).reason is FinishReason.CANCELLED
    assert engine.seen == []


async def test_a_job_whose_last_chunk_told_its_reason_only_gets_its_final(settings, queue, client):
    job = new_job()
    await queue.submit(job)
    lost = await take(queue)
    await queue.append([append(lost, 0, 7, reason=FinishReason.STOP)])
    await queue.release("one", [lost.entry])
    engine = FakeEngine()
    async with worker(settings, engine):
        final = await end_of(client, job)
    assert (final.reason, final.usage.completion_tokens) == (FinishReason.STOP, 1)
    assert engine.seen == []


async def test_a_job_that_ends_its_workers_is_given_up(settings, queue, client):
    job = new_job()
    await queue.submit(job)
    lost = await take(queue)
    for name in ("two", "three"):
        await queue.claim(lost.entry, name)
    await queue.release("three", [lost.entry])
    engine = FakeEngine()
    async with worker(settings, engine):
        assert (await end_of(client, job)).error.code == "attempts_exhausted"
    assert engine.seen == []


async def test_a_job_given_up_is_told_of_with_its_last_worker_and_counted(settings, queue, client):
    job = new_job()
    await queue.submit(job)
    lost = await take(queue)
    for name in ("two", "three"):
        await queue.claim(lost.entry, name)
    await queue.release("three", [lost.entry])
    async with worker(settings, FakeEngine()):
        await end_of(client, job)
        await until(queue.depth, 0)
        workers = [stats async for stats in told(queue)]
    ((_, letter),) = await client.xrange(dead_stream("fake"))
    assert (letter[b"job_id"], letter[b"attempts"], letter[b"last_worker"]) == (job.id.encode(), b"3", b"three")
    assert b"3 attempts" in letter[b"reason"]
    assert await client.ttl(job_key(job.id)) > settings.queue.result_ttl_s
    assert (workers[-1].num_dead, [sum(one.num_dead for one in workers[-1].stats.values())]) == (1, [1])


async def told(queue):
    """Yield what workers tell, until one tells of a job given up."""
    async with asyncio.timeout(5):
        while True:
            workers = await read_workers(queue)
            yield workers
            if any(stats.num_dead for stats in workers.stats.values()):
                return
            await asyncio.sleep(0.05)


async def test_the_number_of_attempts_is_a_setting(settings, queue, client):
    job = new_job()
    await queue.submit(job)
    lost = await take(queue)
    await queue.release("one", [lost.entry])
    engine = FakeEngine()
    one_attempt = msgspec.structs.replace(settings.queue, max_attempts=1)
    async with worker(msgspec.structs.replace(settings, queue=one_attempt), engine):
        assert (await end_of(client, job)).error.code == "attempts_exhausted"
    assert engine.seen == []


async def test_an_answer_that_grows_survives_any_number_of_workers(settings, queue, client):
    job = new_job(max_tokens=20)
    await queue.submit(job)
    claim = await take(queue)
    for count in range(8):
        await queue.append([append(claim, count, BYTES[count])])
        claim = await queue.claim(claim.entry, f"worker-{count}")
    await queue.release("one", [claim.entry])
    async with worker(settings, FakeEngine()):
        assert (await end_of(client, job)).reason is FinishReason.LENGTH
    assert list(await tokens_of(client, job.id)) == list(BYTES[:20])
    assert await client.xlen(dead_stream("fake")) == 0


async def test_what_shared_the_batch_of_a_job_that_ends_workers_is_answered(make_worker, queue, client, monkeypatch):
    class Fragile(FakeEngine):
        """Hangs for good once a poisoned prompt is in its batch: what is left of a worker that was killed."""

        def step(self, meanwhile=None):
            if any(request.prompt_ids == POISON for request, _ in self.running.values()):
                time.sleep(0.01)
                return []
            return super().step()

    innocent, poison = [new_job() for _ in range(3)], new_job(POISON)
    for job in (innocent[0], poison, *innocent[1:]):
        await queue.submit(job)
    for index in range(9):
        one = await make_worker(Fragile(), f"worker-{index}")
        running = asyncio.create_task(one.run())
        try:
            async with asyncio.timeout(LEASE_S * 2.5):
                await end_of(client, poison)
        except TimeoutError:
            await abandon(one, running)
            await asyncio.sleep(LEASE_S)
        else:
            break
    finals = [await end_of(client, job) for job in innocent]
    one.stop()
    await running
    assert [final.reason for final in finals] == [FinishReason.LENGTH] * 3
    assert (await final_of(client, poison.id)).error.code == "attempts_exhausted"
    assert await client.xlen(dead_stream("fake")) == 1


async def test_stopping_finishes_what_runs_and_claims_nothing_more(settings, queue, client):
    running, waiting = new_job(max_tokens=60), new_job()
    engine = FakeEngine(num_slots=1, step_s=0.005)
    async with worker(settings, engine):
        await queue.submit(running)
        await until_true(lambda: engine.running)
        await queue.submit(waiting)
    assert (await final_of(client, running.id)).reason is FinishReason.LENGTH
    assert await final_of(client, waiting.id) is None
    assert await queue.depth() == 1


async def test_what_a_stopping_worker_cannot_finish_is_gone_on_with_at_once(settings, queue, client, monkeypatch):
    monkeypatch.setattr("service.worker.DRAIN_S", 0.1)
    # Far longer than intake may block on its last read and the worker drain.
    job = new_job(max_tokens=450)
    engine = FakeEngine(step_s=0.02)
    async with worker(settings, engine):
        await queue.submit(job)
        await until_true(lambda: engine.running)
    assert await final_of(client, job.id) is None
    assert len(await queue.reclaim("next", 1)) == 1


async def test_a_stopped_worker_is_forgotten(settings, client):
    async with worker(settings, FakeEngine()):
        await until(lambda: client.scard(WORKERS_KEY), 1)
        (name,) = await client.smembers(WORKERS_KEY)
    assert not await client.exists(worker_key(name.decode()))


async def test_a_second_worker_takes_over_and_the_text_is_one_growing_prefix(make_worker, queue, client):
    job = new_job(max_tokens=60)
    first = await make_worker(FakeEngine(step_s=0.02), "first")
    await queue.submit(job)
    abandoned = asyncio.create_task(first.run())
    await until(lambda: has_streamed(client, job, 9), True)
    await abandon(first, abandoned)
    seen = await tokens_of(client, job.id)
    heir = FakeEngine()
    async with asyncio.TaskGroup() as group:
        second = await make_worker(heir, "second")
        group.create_task(second.run())
        final = await end_of(client, job)
        second.stop()
    tokens = await tokens_of(client, job.id)
    assert tokens[: len(seen)] == seen
    assert len(heir.seen[0].output_ids) >= len(seen)
    assert (await text_of(client, job), final.usage.completion_tokens) == (spoken(60), 60)


async def abandon(worker, task):
    """End a worker without any of its goodbyes."""

    async def nothing(*_):
        return None

    worker._leave = nothing
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_worker_that_lost_its_job_drops_it_and_holds_its_entry_no_more(make_worker, queue, client):
    job = new_job(max_tokens=400)
    engine = FakeEngine(step_s=0.01)
    zombie = await make_worker(engine, "zombie")
    async with asyncio.TaskGroup() as group:
        group.create_task(zombie.run())
        await queue.submit(job)
        await until_true(lambda: engine.running)
        (entry,) = zombie._writer.entries
        heir = await queue.claim(entry, "heir")
        await until_true(lambda: not engine.running)
        assert zombie._heartbeat._entries == frozenset()
        zombie.stop()
    assert await queue.depth() == 1
    assert (await queue.append([append(heir, len([t for c in heir.streamed for t in c.token_ids]), 7)]))[0].is_ours


async def test_a_lease_outlives_long_steps(make_worker, queue, client):
    job = new_job(max_tokens=9)
    engine = FakeEngine(step_s=LEASE_S * 1.5)
    slow, idle = await make_worker(engine, "slow"), await make_worker(FakeEngine(), "idle")
    async with asyncio.TaskGroup() as group:
        group.create_task(slow.run())
        await queue.submit(job)
        await until_true(lambda: engine.running)
        group.create_task(idle.run())
        await end_of(client, job)
        slow.stop()
        idle.stop()
    assert await client.hget(job_key(job.id), "epoch") == b"1"


async def test_a_second_entry_of_a_running_job_changes_nothing(settings, queue, client):
    job = new_job(max_tokens=120)
    engine = FakeEngine(step_s=0.01)
    async with worker(settings, engine):
        await queue.submit(job)
        await until_true(lambda: engine.running)
        await client.xadd(queue_stream("fake"), {"j": job.id})
        await end_of(client, job)
        await until(queue.depth, 0)
    assert len(engine.seen) == 1
    assert await text_of(client, job) == spoken(120)


async def test_a_redis_that_was_emptied_is_served_again(settings, queue, client):
    async with worker(settings, FakeEngine()):
        await until(lambda: client.scard(WORKERS_KEY), 1)
        await client.flushall()
        await asyncio.sleep(0.7)
        job = new_job()
        await queue.submit(job)
        await end_of(client, job)


async def test_the_logs_hold_ids_and_numbers_only(settings, queue, client):
    job = new_job(tuple(b"my secret"))
    with capture_logs() as logs:
        async with worker(settings, FakeEngine()):
            await queue.submit(job)
            await end_of(client, job)
    (line,) = [line for line in logs if line["event"] == "request_finished"]
    assert (line["job_id"], line["completion_tokens"]) == (job.id, 8)
    assert "secret" not in repr(logs)
    assert spoken(6) not in repr(logs)
