"""The checks of the real engine's answers find what the queue's guards keep out, and without mistakes find nothing.

Where every answer is a function of the job, a zombie writes the very tokens of its heir, and no text can tell that
the fence is gone. So the fence is tried on sampled answers: their draws are keyed by the claim, and every token tells
under which it was drawn.
"""

import signal

import msgspec
import pytest

from core.types import Sampling, Speculation
from tests.faults.demo_pair import Drawn, Known, demo_job, demo_jobs, undisturbed
from tests.faults.history import following, log_violations
from tests.faults.plants import NAIVE_RESUME, NO_FENCE
from tests.faults.points import Fault
from tests.service.fakes import until_true

# A wrong history may also lack its end: waiting for it ends here.
END_S = 6.0
BUSY_S = 120.0
OFF = Speculation(max_drafts=0)
NONCE = bytes(range(1, 17))


async def judged(world, job, clients, read):
    try:
        return await world.judge([job], clients, END_S if world.plant else BUSY_S, read)
    except TimeoutError:
        return ["an answer has no end", *log_violations(job, clients.logs[job.id], read)]


async def kill_mid_answer(world, plain, real, plant):
    """A worker dies between two appends of a greedy answer."""
    job = demo_jobs(2, seed=2)[1]
    assert job.sampling.temperature == 0.0
    await world.submit([job])
    doomed = world.worker(plant=plant, faults=(Fault("after_append", signal.SIGKILL, 2),), **real)
    async with following(world.url, [job]) as clients:
        await doomed.ended(BUSY_S)
        world.worker(plant=plant, **real)
        return await judged(world, job, clients, Known(undisturbed(plain, [job])).read)


async def wake_a_zombie(world, plain, real, plant):
    """A worker freezes with a sampled token in its hands; its heir writes one as well, and then the first wakes."""
    job = demo_job(demo_jobs(3, seed=3)[2].prompt_ids, Sampling(max_tokens=24, temperature=2.0), speculation=OFF)
    # Two claims may draw the same tokens by chance; of this nonce they draw others.
    job = msgspec.structs.replace(job, nonce=NONCE)
    await world.submit([job])
    zombie = world.worker(plant=plant, faults=(Fault("before_append", signal.SIGSTOP, 3),), **real)
    async with following(world.url, [job]) as clients:
        await until_true(lambda: zombie.is_frozen, BUSY_S)
        heir = world.worker(plant=plant, faults=(Fault("after_append", signal.SIGSTOP),), **real)
        await until_true(lambda: heir.is_frozen, BUSY_S)
        zombie.thaw()
        # Its first append stands where the heir has written one as long; a zombie that is not refused writes on.
        appends = 6 if plant else 3
        await until_true(lambda: zombie.hits.count("after_append") >= appends, BUSY_S)
        heir.thaw()
        return await judged(world, job, clients, Drawn(plain, num_claims=4).read)


SCENES = {NAIVE_RESUME: kill_mid_answer, NO_FENCE: wake_a_zombie}
SYMPTOMS = {NAIVE_RESUME: "is not the undisturbed one", NO_FENCE: "was drawn under no claim"}


@pytest.mark.parametrize("mistake", SCENES)
async def test_with_every_guard_in_place_nothing_is_wrong(world, plain, real, mistake):
    assert await SCENES[mistake](world, plain, real, "") == []


@pytest.mark.parametrize("mistake", SCENES)
async def test_a_planted_mistake_is_found(world, plain, real, mistake):
    world.plant = mistake
    found = await SCENES[mistake](world, plain, real, mistake)
    assert any(SYMPTOMS[mistake] in one for one in found), found
