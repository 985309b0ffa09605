"""Is Redis as the queue needs it: in reach, new enough, keeping what it was given, and open to nobody else."""

import time
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from client.redis_executable import redis_executable
from core.config import Settings, model_name
from core.errors import ConfigError, QueueError
from core.masking import shown
from service.doctor.check import Check, failed, ok, unsure
from service.presence import models_served
from service.storage.connect import client_of

FLOOR = (6, 2)
# Deadlines and leases go by Redis's clock alone; waits in metrics compare it with ours.
MAX_SKEW_S = 1.0


async def check_store(settings: Settings) -> AsyncIterator[Check]:
    """Look at the Redis of the settings, and at who has signed on there."""
    if settings.queue.redis_url is None:
        yield _private()
        return
    try:
        client = client_of(settings.queue)
    except (ConfigError, ValueError) as error:
        yield failed("Redis", str(error), "mend queue.redis_url and the files beside it")
        return
    async with client:
        try:
            told: Any = await client.info()
        except NoPermissionError:
            yield failed("Redis", "its user may not ask INFO", "give it its rights: `specd redis-acl`")
            return
        except (RedisError, OSError) as error:
            where = shown(settings.queue.redis_url)
            yield failed("Redis", f"out of reach at {where}: {error}", "start it, or mend queue.redis_url")
            return
        yield ok("Redis", f"answers at {shown(settings.queue.redis_url)}")
        for check in (_version(told), _memory(told), _persistence(told), *_cluster(settings, told)):
            yield check
        yield await _rights(client)
        yield await _clock(client)
        yield await _workers(client, model_name(settings))


def _private() -> Check:
    try:
        return ok("Redis", f"private, started with the server: {redis_executable()}")
    except QueueError as error:
        return failed("Redis", str(error), "install redis-server 6.2 or later")


def _version(told: dict[str, Any]) -> Check:
    version = str(told["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < FLOOR:
        return failed("Redis version", version, "take 6.2 or later")
    return ok("Redis version", version)


def _memory(told: dict[str, Any]) -> Check:
    policy, most = told.get("maxmemory_policy", "?"), told.get("maxmemory", 0)
    if policy != "noeviction":
        return failed(
            "Redis memory",
            f"maxmemory-policy is {policy}: when memory is short, Redis throws jobs away",
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
        )
    return ok(
        "Redis memory", f"noeviction, {told['used_memory_human']} used of {told['maxmemory_human'] if most else 'all'}"
    )


def _persistence(told: dict[str, Any]) -> Check:
    if told.get("aof_enabled"):
        return ok("Redis persistence", "append-only file")
    return unsure(
        "Redis persistence",
        "no append-only file: a restart of Redis loses every job",
        "set appendonly yes, with appendfsync everysec or always",
    )


def _cluster(settings: Settings, told: dict[str, Any]) -> list[Check]:
    if told.get("cluster_enabled") and not settings.queue.redis_cluster:
        return [failed("Redis Cluster", "Redis is a node of one", "set queue.redis_cluster = true")]
    return []


async def _rights(client: Redis) -> Check:
    try:
        await client.config_get("maxmemory")
    except NoPermissionError:
        return ok("Redis rights", "its user may do no more than it needs, as far as was tried")
    except (RedisError, OSError):
        return ok("Redis rights", "CONFIG is not to be had")
    return unsure(
        "Redis rights",
        "its user may do everything, as FLUSHALL and CONFIG",
        "give each role a user of its own: `specd redis-acl`",
    )


async def _clock(client: Redis) -> Check:
    try:
        now: Any = await client.time()
    except ResponseError as error:
        return failed("clocks", f"Redis does not tell its time: {error}", "give its user its rights: `specd redis-acl`")
    skew_s = time.time() - (int(now[0]) + int(now[1]) / 1e6)
    if abs(skew_s) > MAX_SKEW_S:
        return unsure(
            "clocks",
            f"this machine is {skew_s:+.1f} s off Redis's: queue times are wrong by so much",
            "run NTP on both",
        )
    return ok("clocks", f"{skew_s:+.3f} s apart")


async def _workers(client: Redis, model: str) -> Check:
    cure = "start one: specd serve --role worker"
    try:
        served = await models_served(client)
    except ResponseError as error:
        return unsure("workers", f"who is there cannot be asked: {error}", "look with the gateway's user")
    if model in served:
        return ok("workers", f"{served[model]} serve {model!r}")
    others = f"; there are workers of {', '.join(sorted(served))}" if served else ""
    return failed("workers", f"none serves {model!r}{others}", cure)
