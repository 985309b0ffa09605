"""Clients of the configured Redis, plain or a Cluster: they fail in time and never repeat a command by themselves."""

from typing import Any, cast

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from client.redis_address import redis_address
from core.queue_settings import QueueSettings
from service.storage.redis_cluster import connect_cluster
from service.storage.redis_connections import MAX_CONNECTIONS, packed


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client that fails within `timeout_s` and never repeats a command by itself."""
    # A repeated XADD could land twice; our own writes carry what makes them safe to repeat.
    retry = Retry(NoBackoff(), 0)
    timeouts: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return packed(Redis.from_url(url, **timeouts, retry=retry, protocol=2, max_connections=MAX_CONNECTIONS))


def client_of(settings: QueueSettings, wait_s: float = 0.0) -> Redis:
    """Return a client of the configured Redis whose commands may take wait_s beyond their time; raises ConfigError.

    A Cluster's client takes the commands of a plain one.
    """
    url, timeout_s = redis_url(settings), settings.command_timeout_s + wait_s
    return cast("Redis", connect_cluster(url, timeout_s)) if settings.redis_cluster else connect(url, timeout_s)


def redis_url(settings: QueueSettings) -> str:
    """Return the URL of the configured Redis with its secrets; raises ConfigError if one cannot be read."""
    assert settings.redis_url is not None
    return redis_address(settings.redis_url, settings.redis_password_file, settings.redis_ca_file)
