"""Named places of a process's path at which a test has it die or freeze; production code knows nothing of them.

The process gets a JobQueue of this module in place of its own. Every pass of a point is counted in a file, before
anything happens there, so that a test can tell that its point was reached.
"""

import os
from collections import Counter
from pathlib import Path

from msgspec import Struct

from service.queue import JobQueue

WORKER_POINTS = ("after_read", "after_claim", "before_append", "after_append", "before_final", "after_final")
# How the names of a queue's streams begin, whatever their priority.
QUEUES = "specd:q:"
AFTER_NOTE, MID_SUBMIT, AFTER_ENTRY, AFTER_LOOK = "after_note", "mid_submit", "after_entry", "after_look"
# Of whoever submits a job, and of the sweeper that gives one another place in the queue.
SUBMIT_POINTS = (AFTER_NOTE, MID_SUBMIT, AFTER_ENTRY)
RESTORE_POINTS = (AFTER_LOOK, MID_SUBMIT, AFTER_ENTRY)
BEFORE_RELEASE = "before_release"


class Fault(Struct, frozen=True):
    """The signal that a process sends itself when it passes `point` for the nth time."""

    point: str
    signal: int
    nth: int = 1


class Points:
    """The points of one process; hits is the file of those passed, one name a line."""

    def __init__(self, faults: tuple[Fault, ...], hits: Path) -> None:
        self._faults, self._hits = faults, hits
        self._counts: Counter[str] = Counter()

    def reach(self, point: str) -> None:
        self._counts[point] += 1
        with self._hits.open("a", encoding="utf-8") as file:
            file.write(f"{point}\n")
        for fault in self._faults:
            if (fault.point, fault.nth) == (point, self._counts[point]):
                os.kill(os.getpid(), fault.signal)


class PointedQueue(JobQueue):
    """A JobQueue that passes the points of its process."""

    points: Points

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._xadd, self.client.xadd = self.client.xadd, self._late_xadd
        self._run, self.scripts.run = self.scripts.run, self._run_script

    async def _late_xadd(self, key, *rest, **options):
        if key.startswith(QUEUES):
            self.points.reach(MID_SUBMIT)
        return await self._xadd(key, *rest, **options)

    async def submit(self, job, *options):
        # Of a Redis that is no Cluster all of it is one script; there is no place to die at.
        return await super().submit_in_parts(job, *options)

    async def note(self, job_id, *options):
        await super().note(job_id, *options)
        self.points.reach(AFTER_NOTE)

    async def _run_script(self, script, call):
        answer = await self._run(script, call)
        if script == "look" and answer:
            self.points.reach(AFTER_LOOK)
        return answer

    async def add_entry(self, job):
        await super().add_entry(job)
        self.points.reach(AFTER_ENTRY)

    async def read(self, *arguments):
        entries = await super().read(*arguments)
        if entries:
            self.points.reach("after_read")
        return entries

    async def claim_all(self, *arguments):
        claims = await super().claim_all(*arguments)
        for claim in claims:
            if claim is not None:
                self.points.reach("after_claim")
        return claims

    async def append(self, appends):
        if appends:
            self.points.reach("before_append")
        results = await super().append(appends)
        if appends:
            self.points.reach("after_append")
        return results

    async def finish(self, endings):
        self.points.reach("before_final")
        return await super().finish(endings)

    async def acknowledge(self, entries):
        if entries:
            self.points.reach("after_final")
        await super().acknowledge(entries)

    async def release(self, worker, entries, *claims):
        if entries:
            self.points.reach(BEFORE_RELEASE)
        await super().release(worker, entries, *claims)
