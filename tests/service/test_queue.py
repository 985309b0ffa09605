"""No token is lost, repeated or reordered, whoever writes, dies or wakes up late: Redis itself refuses."""

import asyncio

import pytest
from redis.exceptions import ResponseError

from client.wire import WORKER_GROUP, Chunk, Final, Usage, WireError, job_key, out_stream, queue_stream
from core.errors import QueueError
from core.queue_settings import QueueSettings
from core.types import Backlog, FinishReason
from service.queue import JobQueue
from service.storage.claims import AppendResult, DeadLetter, Ending
from service.storage.connect import connect
from service.storage.scripts import SCRIPTS
from tests.service.conftest import LEASE_MS
from tests.service.jobs import append, ending, events_of, final_of, new_job, state_of, take, tokens_of

STREAM = queue_stream("fake")
OURS = AppendResult(is_ours=True, is_cancelled=False)
NOT_OURS = AppendResult(is_ours=False, is_cancelled=False)


async def wait_out_lease():
    await asyncio.sleep(LEASE_MS / 1000 * 1.1)


async def claimed(queue):
    await queue.submit(new_job())
    return await take(queue)


async def test_a_burst_of_commands_opens_as_many_connections_as_it_needs(queue):
    jobs = [new_job() for _ in range(300)]
    assert all(await asyncio.gather(*(queue.submit(job) for job in jobs)))


async def test_a_claimed_id_is_taken_however_often_it_is_submitted(queue):
    claim = await claimed(queue)
    assert [await queue.submit(claim.job) for _ in range(3)] == [False] * 3
    assert await queue.depth() == 1


async def test_a_submission_that_broke_off_before_its_entry_is_repeated_to_its_end(queue, client):
    job = new_job()
    await queue.submit(job)
    await client.delete(STREAM)
    await queue.make_group()
    assert not await queue.submit(job)
    assert (await take(queue)).job == job


async def test_jobs_queued_before_any_worker_came_are_seen(client):
    await client.xadd(STREAM, {"j": "a" * 32})
    queue = JobQueue(client, QueueSettings(), "fake")
    await queue.open()
    assert [entry.job_id for entry in await queue.read("one", 1, 10)] == ["a" * 32]


async def test_a_claim_returns_the_job_and_raises_its_epoch(queue):
    first = await claimed(queue)
    await wait_out_lease()
    (entry,) = await queue.reclaim("two", 5)
    second = await queue.claim(entry, "two")
    assert (first.epoch, first.streamed) == (1, ())
    assert (second.job, second.epoch) == (first.job, 2)
    assert second.request_id != first.request_id


async def test_claims_without_a_new_token_are_counted(queue):
    first = await claimed(queue)
    second = await queue.claim(first.entry, "two")
    await queue.append([append(second, 0, 7)])
    third = await queue.claim(first.entry, "three")
    assert [claim.attempts for claim in (first, second, third)] == [1, 2, 1]


async def test_a_claim_that_is_given_back_does_not_count_unless_it_is_a_zombies(queue):
    first = await claimed(queue)
    await queue.release("one", [first.entry], [first])
    second = await queue.claim(first.entry, "two")
    await queue.release("one", [first.entry], [first])
    third = await queue.claim(first.entry, "three")
    assert [(one.attempts, one.last_worker) for one in (first, second, third)] == [(1, ""), (1, "one"), (2, "two")]


async def test_a_job_given_up_can_be_queued_again_and_goes_on_from_its_tokens(queue, client):
    claim = await claimed(queue)
    await queue.append([append(claim, 0, 7)])
    final = Final(FinishReason.ERROR, Usage(3, 1), error=WireError("given up"))
    letter = DeadLetter(claim.job.id, 3, "one", "given up")
    await queue.finish([Ending(claim.job.id, claim.epoch, final, claim.entry, letter)])
    requeue = (SCRIPTS["requeue"], 2, job_key(claim.job.id), out_stream(claim.job.id), 86400)
    assert [await client.eval(*requeue) for _ in range(2)] == [1, 0]
    await client.xadd(STREAM, {"j": claim.job.id})
    again = await take(queue)
    assert (again.attempts, await queue.append([append(again, 1, 8)])) == (1, [OURS])
    assert await queue.finish([ending(again, 2)]) == [True]
    assert await tokens_of(client, claim.job.id) == [7, 8]
    assert (await final_of(client, claim.job.id)).reason is FinishReason.LENGTH


async def test_a_job_that_did_not_fail_is_not_queued_again(queue, client):
    claim = await claimed(queue)
    requeue = (SCRIPTS["requeue"], 2, job_key(claim.job.id), out_stream(claim.job.id), 86400)
    assert await client.eval(*requeue) == 0
    await queue.finish([ending(claim, 0)])
    assert await client.eval(*requeue) == 0


async def test_a_zombies_append_is_refused(queue, client):
    zombie = await claimed(queue)
    heir = await queue.claim(zombie.entry, "two")
    assert await queue.append([append(zombie, 0, 66)]) == [NOT_OURS]
    assert await queue.append([append(heir, 0, 7)]) == [OURS]
    assert await tokens_of(client, heir.job.id) == [7]


async def test_a_zombie_can_neither_end_the_job_nor_take_its_entry_away(queue, client):
    zombie = await claimed(queue)
    await queue.claim(zombie.entry, "two")
    assert await queue.finish([ending(zombie, 0)]) == [False]
    assert await events_of(client, zombie.job.id) == []
    assert (await client.xpending(STREAM, WORKER_GROUP))["pending"] == 1
    assert await queue.depth() == 1


async def test_a_repeated_append_is_recognised_and_leaves_one_entry(queue, client):
    claim = await claimed(queue)
    assert [await queue.append([append(claim, 0, 7, 8)]) for _ in range(3)] == [[OURS]] * 3
    assert await queue.append([append(claim, 2, 9)]) == [OURS]
    assert await tokens_of(client, claim.job.id) == [7, 8, 9]
    assert [entry_id for entry_id, _ in await client.xrange(out_stream(claim.job.id))] == [b"2-0", b"3-0"]


@pytest.mark.parametrize("count", [0, 5])
async def test_an_append_after_tokens_that_redis_does_not_hold_is_refused(queue, client, count):
    claim = await claimed(queue)
    await queue.append([append(claim, 0, 7, 8)])
    assert await queue.append([append(claim, count, 9)]) == [NOT_OURS]
    assert await tokens_of(client, claim.job.id) == [7, 8]


async def test_one_broken_job_does_not_harm_the_appends_beside_it(queue, client):
    claims = [await claimed(queue), await claimed(queue)]
    await client.set(out_stream(claims[0].job.id), "not a stream")
    assert await queue.append([append(claim, 0, 7) for claim in claims]) == [NOT_OURS, OURS]


async def test_all_streams_of_a_step_take_one_round_trip(queue, client):
    claim = await claimed(queue)
    before = (await client.info("stats"))["total_reads_processed"]
    await queue.append([append(claim, count, 5) for count in range(50)])
    after = (await client.info("stats"))["total_reads_processed"]
    assert after - before <= 3
    assert len(await tokens_of(client, claim.job.id)) == 50


async def test_a_job_ends_once(queue, client):
    claim = await claimed(queue)
    await queue.finish([ending(claim, 0)])
    assert await queue.finish([ending(claim, 0, FinishReason.ERROR)]) == [True]
    assert [event.reason for event in await events_of(client, claim.job.id)] == [FinishReason.LENGTH]
    assert await state_of(client, claim.job.id) == "done"
    assert await queue.append([append(claim, 0, 7)]) == [NOT_OURS]


async def test_an_ended_job_leaves_the_queue_and_expires(queue, client):
    claim = await claimed(queue)
    await queue.append([append(claim, 0, 7)])
    await queue.finish([ending(claim, 1)])
    assert await queue.depth() == 0
    assert (await client.xpending(STREAM, WORKER_GROUP))["pending"] == 0
    assert 0 < await client.ttl(job_key(claim.job.id)) <= queue.settings.result_ttl_s
    assert 0 < await client.ttl(out_stream(claim.job.id)) <= queue.settings.result_ttl_s


async def test_even_an_unfinished_stream_expires(queue, client):
    claim = await claimed(queue)
    await queue.append([append(claim, 0, 7)])
    assert await client.ttl(out_stream(claim.job.id)) > 0


async def test_a_silent_workers_job_goes_on_from_the_streamed_tokens(queue):
    lost = await claimed(queue)
    await queue.append([append(lost, 0, 7, 8)])
    assert await queue.reclaim("two", 5) == []
    await wait_out_lease()
    (entry,) = await queue.reclaim("two", 5)
    heir = await queue.claim(entry, "two")
    assert [chunk.token_ids for chunk in heir.streamed] == [(7, 8)]
    assert await queue.append([append(heir, 2, 9)]) == [OURS]


async def test_a_released_entry_is_taken_over_at_once(queue):
    claim = await claimed(queue)
    await queue.release("one", [claim.entry])
    assert await queue.reclaim("two", 5) == [claim.entry]


async def test_a_claim_sees_that_only_the_final_is_missing(queue):
    lost = await claimed(queue)
    await queue.append([append(lost, 0, 7, reason=FinishReason.STOP)])
    heir = await queue.claim(lost.entry, "two")
    assert heir.streamed[-1].reason is FinishReason.STOP


async def test_a_second_entry_of_an_ended_job_is_acknowledged(queue, client):
    claim = await claimed(queue)
    await queue.finish([ending(claim, 0)])
    await client.xadd(STREAM, {"j": claim.job.id})
    assert await take(queue) is None
    assert await queue.depth() == 0


async def test_a_job_that_cannot_be_read_can_be_refused(queue, client):
    job = new_job()
    await queue.submit(job)
    await client.hset(job_key(job.id), "job", b"\xc1 no job")
    (entry,) = await queue.read("one", 1, 200)
    with pytest.raises(QueueError, match="no job"):
        await queue.claim(entry, "one")
    await queue.refuse(entry, WireError("unreadable"))
    assert (await final_of(client, job.id)).reason is FinishReason.ERROR
    assert await queue.depth() == 0


async def test_a_job_cancelled_while_queued_ends_at_once_and_leaves_its_place(queue, client):
    gone, waiting = new_job(), new_job()
    for job in (gone, waiting):
        await queue.submit(job)
    await queue.cancel(gone.id)
    assert ((await final_of(client, gone.id)).reason, await queue.depth()) == (FinishReason.CANCELLED, 1)
    assert await state_of(client, gone.id) == "cancelled"
    assert (await take(queue)).job == waiting


async def test_a_job_cancelled_between_two_workers_says_so_when_claimed_again(queue):
    claim = await claimed(queue)
    await queue.cancel(claim.job.id)
    await queue.release("one", [claim.entry])
    (entry,) = await queue.reclaim("two", 1)
    assert (await queue.claim(entry, "two")).is_cancelled


async def test_it_tells_which_jobs_are_not_wanted_any_more(queue):
    wanted, unwanted = await claimed(queue), await claimed(queue)
    await queue.cancel(unwanted.job.id)
    assert await queue.are_cancelled([wanted.job.id, unwanted.job.id, "f" * 32]) == [False, True, False]


async def test_an_append_hears_of_a_cancellation(queue):
    claim = await claimed(queue)
    await queue.cancel(claim.job.id)
    assert await queue.append([append(claim, 0, 7)]) == [AppendResult(is_ours=True, is_cancelled=True)]


async def test_cancelling_what_is_unknown_changes_nothing(queue, client):
    await queue.cancel("0" * 32)
    assert await client.exists(job_key("0" * 32)) == 0


async def test_a_gateway_may_refuse_an_unknown_job_but_not_end_one_that_exists(queue, client):
    job = new_job()
    await queue.submit(job)
    refusal = Final(FinishReason.ERROR, Usage(0, 0), error=WireError("no"))
    ended = await queue.finish([Ending(job.id, None, refusal, None), Ending("a" * 32, None, refusal, None)])
    assert ended == [False, True]
    assert await state_of(client, job.id) == "queued"
    assert await events_of(client, "a" * 32) == [refusal]


async def test_the_scripts_survive_a_redis_that_forgot_them(queue, client):
    await client.script_flush()
    await queue.submit(new_job())
    await client.script_flush()
    claim = await take(queue)
    await client.script_flush()
    assert await queue.append([append(claim, 0, 7)]) == [OURS]
    await client.script_flush()
    await queue.finish([ending(claim, 1)])
    assert len(await events_of(client, claim.job.id)) == 2


async def test_a_full_redis_is_waited_out_and_no_job_is_lost(queue, client):
    claim = await claimed(queue)
    await client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ResponseError, match="used memory"):
            await queue.append([append(claim, 0, 7)])
    finally:
        await client.config_set("maxmemory", 0)
    assert await queue.append([append(claim, 0, 7)]) == [OURS]


async def test_a_redis_out_of_reach_is_named(tmp_path):
    url = f"unix://{tmp_path}/nothing.sock"
    client = connect(url, 0.5)
    with pytest.raises(QueueError, match="out of reach"):
        await JobQueue(client, QueueSettings(redis_url=url), "fake").open()
    await client.aclose()


def test_a_chunks_text_is_its_pieces():
    assert Chunk((1, 2), ("a", "b")).text == "ab"


async def test_the_backlog_is_what_no_worker_has_taken_and_how_long_the_oldest_of_it_has_waited(queue):
    assert await queue.backlog() == Backlog(0, 0.0)
    for _ in range(3):
        await queue.submit(new_job())
    await asyncio.sleep(0.1)
    claim = await take(queue)
    waiting = await queue.backlog()
    assert waiting.num_waiting == 2
    assert 0.1 <= waiting.oldest_wait_s < 5.0
    await take(queue)
    await take(queue)
    assert await queue.backlog() == Backlog(0, 0.0)
    await queue.finish([ending(claim, 0)])
    assert await queue.backlog() == Backlog(0, 0.0)
