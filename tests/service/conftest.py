"""A queue on a real Redis, and settings of a service on the byte tokenizer."""

import pytest

from core.queue_settings import QueueSettings
from service.queue import JobQueue
from service.storage.connect import connect
from tests.service.fakes import fake_settings

LEASE_MS = 300


@pytest.fixture
async def client(redis_url):
    client = connect(redis_url, 2.0)
    yield client
    await client.aclose()


@pytest.fixture
async def queue(client, redis_url):
    queue = JobQueue(client, QueueSettings(redis_url=redis_url, lease_ms=LEASE_MS), "fake")
    await queue.open()
    return queue


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model", lease_ms=LEASE_MS)
