r"""Jobs that come straight through Redis: gateways read the intake stream, validate, tokenise and queue.

An entry is one field `request` holding an IntakeRequest as JSON; from a shell:

    redis-cli XADD specd:intake '*' request \
        '{"id": "0123456789abcdef0123456789abcdef", "prompt": "1 + 1 =", "max_tokens": 8}'
    redis-cli XREAD BLOCK 0 STREAMS 'specd:{0123456789abcdef0123456789abcdef}:out' 0

An entry that is wrong ends in its out stream with a Final that says why; one without a usable id is logged.
"""

import re
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.wire import INTAKE_FIELD, INTAKE_GROUP, INTAKE_STREAM, Final, IntakeRequest, Usage, WireError
from core.errors import QueueError, RequestError
from core.types import FinishReason
from service.door.tenants import INTAKE
from service.http.parse import check_depth
from service.jobs import JobMaker, from_intake
from service.log_text import frames
from service.queue import JobQueue
from service.storage.claims import Ending
from service.storage.priority_streams import make_group
from service.tasks import is_cancelled
from service.upkeep.group_healing import GroupHealing

log = structlog.get_logger()

BLOCK_MS = 1000
BATCH = 16
# An entry that a gateway read and did not finish is taken over by another after this long.
ABANDONED_MS = 10_000


class Intake:
    """One gateway's consumer of the intake stream; entries are of max_bytes at most.

    healed is told when its group had to be made again.
    """

    def __init__(
        self, reading: Redis, queue: JobQueue, jobs: JobMaker, max_bytes: int, healed: Callable[[], None]
    ) -> None:
        self._reading, self._queue, self._jobs, self._max_bytes = reading, queue, jobs, max_bytes
        self._healing = GroupHealing(INTAKE_GROUP, self.make_group, healed)
        self._consumer = f"gateway-{uuid.uuid4().hex[:12]}"

    async def run(self) -> None:
        """Take entries until cancelled; a fault of Redis is waited out."""
        while not is_cancelled():
            try:
                await self._read_once()
                self._healing.worked()
            except (RedisError, OSError, QueueError) as error:
                log.warning("intake_read_failed", error=str(error))
                await self._healing.after(error)

    async def make_group(self) -> None:
        """Create the intake's group unless it exists; raises RedisError or OSError."""
        await make_group(self._queue.client, INTAKE_STREAM, INTAKE_GROUP)

    async def _read_once(self) -> None:
        stale: Any = await self._reading.xautoclaim(
            INTAKE_STREAM, INTAKE_GROUP, self._consumer, min_idle_time=ABANDONED_MS, count=BATCH
        )
        rows = list(stale[1])
        if not rows:
            answer: Any = await self._reading.xreadgroup(
                INTAKE_GROUP, self._consumer, {INTAKE_STREAM: ">"}, count=BATCH, block=BLOCK_MS
            )
            rows = [row for _, found in answer or [] for row in found]
        for entry_id, fields in rows:
            # An entry that was deleted while it was pending has no fields.
            if fields:
                await self._take(fields.get(INTAKE_FIELD.encode(), b""))
            async with self._queue.client.pipeline(transaction=False) as pipe:
                pipe.xack(INTAKE_STREAM, INTAKE_GROUP, entry_id)
                pipe.xdel(INTAKE_STREAM, entry_id)
                await pipe.execute()

    async def _take(self, data: bytes) -> None:
        try:
            request = self._read(data)
        except RequestError as error:
            await self._refuse(_find_id(data), error)
            return
        try:
            await self._jobs.submit(await self._jobs.make(from_intake(request), request.id, INTAKE))
        except RequestError as error:
            if error.code == "queue_down":
                # The entry stays unacknowledged and is taken up again.
                raise QueueError(error.message) from error
            # A second entry under one id must not end the first one's stream.
            if error.status != HTTPStatus.CONFLICT:
                await self._refuse(request.id, error)
        except Exception as error:  # noqa: BLE001 - a border: one bad entry must not end the others
            log.error("intake_failed", job_id=request.id, exception=frames(error))  # noqa: TRY400
            await self._refuse(request.id, RequestError("internal error", status=500, code="internal_error"))

    def _read(self, data: bytes) -> IntakeRequest:
        """Read an entry, held to what a body over HTTP is held to; raises RequestError."""
        if len(data) > self._max_bytes:
            raise RequestError(
                f"the entry has {len(data)} bytes, of at most {self._max_bytes}", status=413, code="too_large"
            )
        check_depth(data)
        try:
            return msgspec.json.decode(data, type=IntakeRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError(f"the intake entry is not a valid request: {error}") from error

    async def _refuse(self, job_id: str | None, error: RequestError) -> None:
        log.info("intake_refused", job_id=job_id, code=error.code)
        if job_id is None:
            return
        wire = WireError(error.message, error.status, error.code, error.param)
        final = Final(FinishReason.ERROR, Usage(0, 0), error=wire)
        await self._queue.finish([Ending(job_id, None, final, None)])


def _find_id(data: bytes) -> str | None:
    """Find the job id in an entry that does not decode, so that its sender can be told."""
    found = re.search(rb'"id"\s*:\s*"([0-9a-f]{32})"', data[:4096])
    return found.group(1).decode() if found else None
