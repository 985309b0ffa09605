"""What a guard keeps out comes in without it: each mistake that is planted makes the history wrong.

The same scenes are played with the code as it is, where nothing may be wrong, and once per mistake.
"""

import signal

import pytest

from client.wire import job_key, out_stream
from tests.faults.history import following, log_violations
from tests.faults.plants import NAIVE_RESUME, NO_COUNT, NO_FENCE, STAR_IDS
from tests.faults.points import Fault
from tests.faults.world import new_jobs
from tests.service.fakes import until_true

# A wrong history may also lack its end: waiting for it ends here.
END_S = 4.0


async def judged(world, jobs, clients):
    """Return what is wrong; the logs are judged as they are where an end does not come."""
    try:
        return await world.judge(jobs, clients, END_S if world.plant else 30.0)
    except TimeoutError:
        return ["an answer has no end", *log_violations(jobs[0], clients.logs[jobs[0].id])]


async def wake_a_zombie(world, proxy, plant):
    """A worker freezes with tokens in its hands; its heir writes as many, and then the first one wakes."""
    jobs = new_jobs(1, max_tokens=60)
    await world.submit(jobs)
    zombie = world.worker(plant=plant, faults=(Fault("before_append", signal.SIGSTOP, 3),))
    async with following(world.url, jobs) as clients:
        await until_true(lambda: zombie.is_frozen)
        heir = world.worker(plant=plant, faults=(Fault("after_append", signal.SIGSTOP),))
        await until_true(lambda: heir.is_frozen)
        zombie.thaw()
        await until_true(lambda: zombie.hits.count("after_append") >= 3)
        heir.thaw()
        return await judged(world, jobs, clients)


async def lose_a_tail(world, proxy, plant):
    """Redis forgets the last tokens of a stream, as after a loss of power, while their writer goes on."""
    jobs = new_jobs(1, max_tokens=60)
    await world.submit(jobs)
    writer = world.worker(plant=plant, faults=(Fault("after_append", signal.SIGSTOP, 3),))
    await until_true(lambda: writer.is_frozen)
    key, out = job_key(jobs[0].id), out_stream(jobs[0].id)
    rows = await world.client.xrange(out)
    async with world.client.pipeline(transaction=True) as pipe:
        pipe.delete(out)
        for entry_id, fields in rows[:-1]:
            pipe.xadd(out, fields, id=entry_id)
        pipe.expire(out, 600)
        pipe.hset(key, "n", int(rows[-2][0].partition(b"-")[0]))
        await pipe.execute()
    writer.thaw()
    async with following(world.url, jobs) as clients:
        return await judged(world, jobs, clients)


async def lose_a_reply(world, proxy, plant):
    """An append reaches Redis and its answer is lost on the way back, so that the writer repeats it."""
    jobs = new_jobs(1, max_tokens=60)
    await world.submit(jobs)
    num_cut = proxy.num_cut_replies
    proxy.cut_reply_to(b"c/1")
    world.worker(url=proxy.url, plant=plant)
    async with following(world.url, jobs) as clients:
        found = await judged(world, jobs, clients)
    assert proxy.num_cut_replies == num_cut + 1
    return found


async def kill_mid_answer(world, proxy, plant):
    """A worker dies between two appends."""
    jobs = new_jobs(1, max_tokens=60)
    await world.submit(jobs)
    doomed = world.worker(plant=plant, faults=(Fault("after_append", signal.SIGKILL, 3),))
    async with following(world.url, jobs) as clients:
        await doomed.ended()
        world.worker(plant=plant)
        return await judged(world, jobs, clients)


SCENES = {NO_FENCE: wake_a_zombie, NO_COUNT: lose_a_tail, STAR_IDS: lose_a_reply, NAIVE_RESUME: kill_mid_answer}
# What the checker has to say of each; a plant that only kept its worker from working would show no tokens at all.
SYMPTOMS = {
    NO_FENCE: "tokens do not follow from one another",
    NO_COUNT: "stands after",
    STAR_IDS: "tokens do not follow from one another",
    NAIVE_RESUME: "tokens do not follow from one another",
}


async def play(world, proxy, mistake, plant):
    world.plant = plant
    return await SCENES[mistake](world, proxy, plant)


@pytest.mark.parametrize("mistake", SCENES)
async def test_with_every_guard_in_place_nothing_is_wrong(world, proxy, mistake):
    assert await play(world, proxy, mistake, "") == []


@pytest.mark.parametrize("mistake", SCENES)
async def test_a_planted_mistake_is_found(world, proxy, mistake):
    found = await play(world, proxy, mistake, mistake)
    assert any(SYMPTOMS[mistake] in one for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", SCENES)
async def test_a_planted_mistake_is_found_twenty_times_of_twenty(world, proxy, mistake):
    caught = 0
    for _ in range(20):
        await world.client.flushall()
        found = await play(world, proxy, mistake, mistake)
        caught += any(SYMPTOMS[mistake] in one for one in found)
        await world.end()
    assert caught == 20
