"""The private Redis is the executable that was asked for, and nothing else in its place."""

import pytest
from redis.asyncio import Redis

from client.redis_executable import redis_executable
from core.errors import QueueError
from service.storage.redis_server import private_redis


async def test_the_private_redis_is_the_executable_that_was_asked_for(redis_binary, tmp_path):
    wanted, log = tmp_path / "my-redis", tmp_path / "started"
    wanted.write_text(f'#!/bin/sh\ntouch {log}\nexec {redis_binary} "$@"\n', encoding="utf-8")
    wanted.chmod(0o755)
    async with private_redis(None, str(wanted)) as url, Redis.from_url(url) as client:
        assert await client.ping()
    assert log.exists()


def test_an_executable_that_is_not_there_is_named_and_no_other_is_taken(tmp_path):
    with pytest.raises(QueueError, match=r"queue.redis_server .* got '.*/nothing'"):
        redis_executable(str(tmp_path / "nothing"))
