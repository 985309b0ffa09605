"""Jobs that have lost their place in the queue, found and given another: else their clients would wait for ever.

A job's creator may die between the job and its entry, and Redis may lose a stream while it keeps the jobs. So every job
is noted, before it is made, among the live ones of its model, by the time of the last look at it; gateways look at each
of them every ten seconds, whichever gateway it is. One entry too many is harmless, see `JobQueue.submit`.
"""

from typing import Any

import structlog

from client.wire import decode_job, job_key, live_key, worker_key
from core.errors import QueueError
from service.queue import JobQueue
from service.storage.scripts import Call

log = structlog.get_logger()

# A job is left alone for so long after it was noted, and after each look.
LOOK_AFTER_MS = 10_000
# How many jobs are looked at together.
BATCH = 256


class LostEntries:
    """Restores entries of one model's queue; methods raise RedisError and OSError like the queue's."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue, self._live = queue, live_key(queue.model)
        # Running jobs without an entry whose worker lives, and how far they were: one that stands still is lost, too.
        self._stood: dict[str, tuple[bytes, bytes]] = {}

    async def restore(self) -> int:
        """Look at jobs that were not looked at lately and give those without an entry another; return how many."""
        found = await self._queue.scripts.run("look", Call((self._live,), (LOOK_AFTER_MS, BATCH)))
        if not found:
            return 0
        job_ids = [job_id.decode() for job_id in found]
        rows = await self._rows(job_ids)
        # After the jobs' states: whoever ends a job takes its entry away later.
        present = {fields.get(b"j", b"").decode() for fields, _, _ in await self._queue.entries()}
        lost = {job_id: row for job_id, row in rows.items() if job_id not in present}
        for job_id in set(job_ids) - lost.keys():
            self._stood.pop(job_id, None)
        abandoned = [job_id for job_id, row in lost.items() if await self._is_abandoned(job_id, *row)]
        return sum([await self._restore(job_id) for job_id in abandoned])

    async def _rows(self, job_ids: list[str]) -> dict[str, tuple[bytes, bytes, bytes, bytes]]:
        """Return state, owner, epoch and tokens of those that live; the others are no longer looked at."""
        async with self._queue.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(job_key(job_id), "state", "owner", "epoch", "n")
            rows: list[Any] = await pipe.execute()
        known = {job_id: tuple(row) for job_id, row in zip(job_ids, rows, strict=True)}
        living = {job_id: row for job_id, row in known.items() if row[0] in (b"queued", b"running")}
        await self._ignore([job_id for job_id in job_ids if job_id not in living])
        return living

    async def _is_abandoned(self, job_id: str, state: bytes, owner: bytes, epoch: bytes, count: bytes) -> bool:
        """Tell whether nobody works on a job: a worker that does needs no entry, and a second one would disturb it."""
        if state == b"queued" or not await self._queue.client.exists(worker_key((owner or b"").decode())):
            return True
        place = (epoch, count)
        before, self._stood[job_id] = self._stood.get(job_id), place
        return before == place

    async def _restore(self, job_id: str) -> bool:
        data: Any = await self._queue.client.hget(job_key(job_id), "job")
        try:
            job = decode_job(data or b"")
        except QueueError as error:
            log.warning("entry_not_restored", job_id=job_id, error=str(error))
            await self._ignore([job_id])
            return False
        await self._queue.add_entry(job)
        self._stood.pop(job_id, None)
        log.warning("entry_restored", job_id=job_id)
        return True

    async def _ignore(self, job_ids: list[str]) -> None:
        if job_ids:
            await self._queue.client.zrem(self._live, *job_ids)
