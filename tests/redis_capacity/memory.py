"""What jobs take of Redis's memory: by job, by token of the prompt, and by token of the answer."""

from msgspec import Struct

from client.wire import Chunk, Final, Usage
from core.queue_settings import QueueSettings
from core.types import FinishReason
from service.queue import JobQueue
from service.storage.claims import Append, Ending
from service.storage.connect import client_of
from tests.redis_capacity.load import MODEL, new_job

NUM_JOBS = 50
LONG_PROMPT, ANSWER = 2000, 600


class Memory(Struct, frozen=True):
    """Bytes of Redis's own count: of a job with one prompt token and no answer yet, waiting or ended; of one more token
    of the prompt; of one more token of the answer, by how many tokens came with each step.
    """

    waiting_job: float
    ended_job: float
    prompt_token: float
    answer_token: dict[int, float]


async def measure_memory(url: str, num_jobs: int = NUM_JOBS) -> Memory:
    """Return what jobs take on an empty Redis, the mean of so many."""
    settings = QueueSettings(redis_url=url)
    async with client_of(settings) as client:
        queue = JobQueue(client, settings, MODEL)
        await queue.open()
        waiting = await _bytes_of(queue, num_jobs, 1, 0, 1, is_ended=False)
        ended = await _bytes_of(queue, num_jobs, 1, 0, 1)
        long_prompt = await _bytes_of(queue, num_jobs, 1 + LONG_PROMPT, 0, 1)
        by_step = {size: (await _bytes_of(queue, num_jobs, 1, ANSWER, size) - ended) / ANSWER for size in (1, 3, 6)}
    return Memory(waiting, ended, (long_prompt - ended) / LONG_PROMPT, by_step)


async def _bytes_of(
    queue: JobQueue, num_jobs: int, prompt_len: int, answer_len: int, per_step: int, *, is_ended: bool = True
) -> float:
    """Return the bytes that one such job takes, the mean of some."""
    # What the first of anything takes belongs to no job.
    await queue.submit(new_job(answer_len, prompt_len))
    before = await _used(queue)
    jobs = [new_job(answer_len, prompt_len) for _ in range(num_jobs)]
    for job in jobs:
        await queue.submit(job)
    if is_ended:
        claims = []
        while entries := await queue.read("one", num_jobs, 1):
            claims += [claim for entry in entries if (claim := await queue.claim(entry, "one"))]
        chunk = Chunk(tuple(range(1000, 1000 + per_step)), (" word",) * per_step, per_step - 1, per_step - 1)
        for count in range(0, answer_len, per_step):
            await queue.append([Append(claim.job.id, claim.epoch, count, chunk) for claim in claims])
        final = Final(FinishReason.LENGTH, Usage(prompt_len, answer_len))
        await queue.finish([Ending(claim.job.id, claim.epoch, final, claim.entry) for claim in claims])
    after = await _used(queue)
    await queue.client.flushall()
    await queue.make_group()
    return (after - before) / num_jobs


async def _used(queue: JobQueue) -> float:
    told = await queue.client.info("memory")
    return float(told["used_memory_dataset"])
