"""Holds tenants to their limits over all gateways: what has been asked for is counted in Redis."""

import math
from collections.abc import Sequence
from typing import Any

from client.wire import job_key
from core.errors import RequestError
from service.door.tenants import Tenant
from service.queue import LIVE_TTL_S, STATES, JobQueue
from service.storage.scripts import Call

# The share of a minute's requests that may come at once.
BURST_SHARE = 1 / 6
# A job that was counted and is not to be found after so long was never submitted, or is forgotten.
SUBMIT_MS = 60_000
# When to come again is not known where jobs have to end first.
RETRY_S = 1
ENDED = frozenset(state.encode() for state in STATES.values())


class TenantLimits:
    """Counts requests and jobs of tenants. Its methods raise RedisError and OSError like the queue's."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def check_rate(self, tenant: Tenant) -> None:
        """Count a request; raises RequestError if the tenant asks too often."""
        per_minute = tenant.limits.requests_per_minute
        if per_minute is None:
            return
        burst = max(1, math.floor(per_minute * BURST_SHARE))
        call = Call((_key(tenant, "rate"),), (round(60_000_000 / per_minute), burst))
        if wait_us := await self._queue.scripts.run("rate", call):
            raise RequestError(
                f"more than the {per_minute} requests a minute that this API key may make; try again soon",
                status=429,
                code="rate_limit_exceeded",
                retry_after_s=math.ceil(wait_us / 1e6),
            )

    async def take(self, tenant: Tenant, job_ids: Sequence[str]) -> None:
        """Count jobs that are about to be submitted; raises RequestError if the tenant has too many at once."""
        most = tenant.limits.max_concurrency
        if most is None:
            return
        key = _key(tenant, "jobs")
        call = Call((key,), (most, LIVE_TTL_S, *job_ids))
        # Who has ended is looked for only when there is no room.
        if await self._queue.scripts.run("take", call) and (
            not await self._drop_ended(key) or await self._queue.scripts.run("take", call)
        ):
            raise RequestError(
                f"{len(job_ids)} more would be more than the {most} requests at once that this API key may have",
                status=429,
                code="too_many_at_once",
                retry_after_s=RETRY_S,
            )

    async def release(self, tenant: Tenant, job_ids: Sequence[str]) -> None:
        """Count jobs no longer that are not to be found any more, so that nobody could tell that they have ended."""
        if tenant.limits.max_concurrency is not None:
            await self._queue.client.zrem(_key(tenant, "jobs"), *job_ids)

    async def _drop_ended(self, key: str) -> int:
        client = self._queue.client
        counted: Any = await client.zrange(key, 0, -1, withscores=True)
        async with client.pipeline(transaction=False) as pipe:
            for job_id, _ in counted:
                pipe.hget(job_key(job_id.decode()), "state")
            states = await pipe.execute()
        oldest_ms = await self._queue.now_ms() - SUBMIT_MS
        ended = [
            job_id
            for (job_id, counted_ms), state in zip(counted, states, strict=True)
            if state in ENDED or (state is None and counted_ms < oldest_ms)
        ]
        return await client.zrem(key, *ended) if ended else 0


def _key(tenant: Tenant, what: str) -> str:
    """Return a key of a tenant's, whose name consists of letters that no key gives a meaning to."""
    return f"specd:t:{{{tenant.name}}}:{what}"
