"""A worker's sign of life in Redis: what it serves, and what it has done so far, for whoever asks who is there."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.wire import WORKERS_KEY, worker_key
from service.queue import JobQueue
from service.tasks import is_cancelled
from service.telemetry.worker_stats import STATS_FIELD

log = structlog.get_logger()

# How old what a worker tells of itself may be; the sign itself is renewed at least every third of a lease.
STATS_S = 1.0


async def models_served(client: Redis) -> Counter[str]:
    """Return how many live workers serve each model; raises RedisError or OSError."""
    found: Any = await client.smembers(WORKERS_KEY)
    served: Any = [await client.hget(worker_key(name.decode()), "model") for name in sorted(found)]
    return Counter(model.decode() for model in served if model is not None)


class Presence:
    """One worker's entry among the live ones; stats returns its WorkerStats, encoded."""

    def __init__(self, queue: JobQueue, worker: str, max_model_len: int, stats: Callable[[], bytes]) -> None:
        self._queue, self._worker, self._stats = queue, worker, stats
        # What the last renewal's round trip took.
        self.redis_s: float | None = None
        self._facts = {"model": queue.model, "max_model_len": max_model_len}

    async def keep(self) -> None:
        """Renew the entry until cancelled; a worker that falls silent is forgotten after a lease."""
        key, lease_ms = worker_key(self._worker), self._queue.settings.lease_ms
        while not is_cancelled():
            try:
                async with self._queue.client.pipeline(transaction=False) as pipe:
                    pipe.hset(key, mapping=self._facts | {STATS_FIELD: self._stats()})  # type: ignore[arg-type]
                    pipe.pexpire(key, lease_ms)
                    pipe.sadd(WORKERS_KEY, self._worker)
                    started_s = time.perf_counter()
                    await pipe.execute()
                    self.redis_s = time.perf_counter() - started_s
            except (RedisError, OSError) as error:
                log.warning("register_failed", error=str(error))
            await asyncio.sleep(min(lease_ms / 3000, STATS_S))

    async def leave(self) -> None:
        """Take the entry away."""
        await self._queue.client.delete(worker_key(self._worker))
