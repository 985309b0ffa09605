"""Answers whose gateway is gone are cancelled, after a grace; whoever is only out of reach with all others is not."""

import pytest
from redis.exceptions import RedisError

from client.wire import answers_key, gateways_key, job_key
from core.types import FinishReason
from service.upkeep.open_answers import GRACE_LOOKS, GoneGateways, OpenAnswers
from tests.service.jobs import final_of, new_job, state_of

OWN, GONE = "g0", "g1"


@pytest.fixture
async def orphan(queue, client):
    """A queued job whose gateway has beaten once."""
    job = new_job()
    await client.sadd(answers_key(GONE), job.id)
    await client.hset(gateways_key("fake"), GONE, 1)
    await queue.submit(job)
    return job


async def look(client, gone):
    """Look once, with a beat of one's own before."""
    if await client.type(gateways_key("fake")) != b"string":
        await client.hincrby(gateways_key("fake"), OWN, 1)
    return await gone.cancel()


async def test_an_answer_is_cancelled_after_so_many_looks_without_a_beat(queue, client, orphan):
    gone = GoneGateways(queue, OWN)
    looks = [await look(client, gone) for _ in range(GRACE_LOOKS + 1)]
    assert looks == [0] * GRACE_LOOKS + [1]
    assert (await final_of(client, orphan.id)).reason is FinishReason.CANCELLED
    assert await client.exists(answers_key(GONE)) == 0
    assert await client.hkeys(gateways_key("fake")) == [OWN.encode()]


async def test_a_beat_begins_the_grace_anew(queue, client, orphan):
    gone = GoneGateways(queue, OWN)
    for _ in range(3 * GRACE_LOOKS):
        await look(client, gone)
        await client.hincrby(gateways_key("fake"), GONE, 1)
    assert await state_of(client, orphan.id) == "queued"


async def test_looks_before_a_fault_of_redis_do_not_count(queue, client, orphan):
    gone = GoneGateways(queue, OWN)
    for _ in range(GRACE_LOOKS):
        await look(client, gone)
    await client.rename(gateways_key("fake"), "elsewhere")
    await client.set(gateways_key("fake"), "no hash")
    with pytest.raises(RedisError):
        await look(client, gone)
    await client.rename("elsewhere", gateways_key("fake"))
    assert [await look(client, gone) for _ in range(GRACE_LOOKS + 1)] == [0] * GRACE_LOOKS + [1]


@pytest.mark.parametrize("own", [{}, {OWN: 1}], ids=["has not beaten yet", "cannot beat"])
async def test_who_does_not_beat_itself_takes_nobody_for_dead(queue, client, orphan, own):
    for name, beats in own.items():
        await client.hset(gateways_key("fake"), name, beats)
    gone = GoneGateways(queue, OWN)
    assert [await gone.cancel() for _ in range(3 * GRACE_LOOKS)] == [0] * (3 * GRACE_LOOKS)
    assert [await look(client, gone) for _ in range(GRACE_LOOKS - 1)] == [0] * (GRACE_LOOKS - 1)
    assert await state_of(client, orphan.id) == "queued"


async def test_other_jobs_are_not_touched(queue, client, orphan):
    other = new_job()
    await queue.submit(other)
    gone = GoneGateways(queue, OWN)
    for _ in range(GRACE_LOOKS + 1):
        await look(client, gone)
    assert (await state_of(client, orphan.id), await state_of(client, other.id)) == ("cancelled", "queued")


async def test_an_answer_is_among_the_open_ones_before_it_is_submitted_and_until_it_has_ended(queue, client):
    answers, job = OpenAnswers(queue), new_job()
    with answers.held([job.id]) as held_in:
        await queue.note(job.id, held_in)
        assert not await client.exists(job_key(job.id))
        await queue.submit(job, held_in)
        assert await client.smembers(answers._key) == {job.id.encode()}
    await answers._beat()
    assert await client.smembers(answers._key) == set()


async def test_what_an_emptied_redis_has_lost_of_it_is_told_again(queue, client):
    answers, job = OpenAnswers(queue), new_job()
    with answers.held([job.id]) as held_in:
        await queue.submit(job, held_in)
        await client.flushall()
        await answers._beat()
        assert await client.smembers(answers._key) == {job.id.encode()}
        assert await client.hlen(gateways_key("fake")) == 1


async def test_a_gateway_signs_off_unless_answers_are_open(queue, client):
    answers = OpenAnswers(queue)
    await answers._beat()
    with answers.held(["a" * 32]):
        await answers._leave()
        assert await client.hlen(gateways_key("fake")) == 1
    await answers._leave()
    assert await client.exists(gateways_key("fake"), answers._key) == 0
