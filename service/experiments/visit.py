"""A look at a model's experiments from outside of the service, as the command line takes it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from core.config import Settings, model_name
from core.errors import ConfigError, QueueError
from service.experiments.store import ExperimentStore
from service.queue import JobQueue
from service.storage.connect import client_of

Result = TypeVar("Result")


def visit_store(settings: Settings, act: Callable[[ExperimentStore, JobQueue], Awaitable[Result]]) -> Result:
    """Do something with the experiments in the Redis of the settings, and return what it returns; raises SpecdError."""
    if settings.queue.redis_url is None:
        raise ConfigError("experiments are kept in Redis: name the server's with --redis-url or queue.redis_url")

    async def connected() -> Result:
        async with client_of(settings.queue) as client:
            queue = JobQueue(client, settings.queue, model_name(settings))
            return await act(ExperimentStore(client, queue.model), queue)

    try:
        return asyncio.run(connected())
    except (RedisError, OSError) as error:
        raise QueueError(f"Redis is out of reach: {error}") from error
