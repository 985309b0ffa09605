"""Workers and gateways as processes, on the run's Redis or on one of their own."""

import pytest

from tests.faults.demo_pair import MODEL, engine_settings, plain_engine
from tests.faults.processes import Nursery
from tests.faults.proxy import Proxy
from tests.faults.redis_process import RedisProcess
from tests.faults.world import world_on
from tests.service.fakes import write_tokenizer


@pytest.fixture(scope="session")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "model"
    write_tokenizer(folder)
    return folder


@pytest.fixture
async def world(redis_url, nursery, tmp_path, tokenizer_folder):
    async with world_on(redis_url, nursery, tmp_path, tokenizer_folder) as world:
        yield world


@pytest.fixture
async def proxy(redis_url):
    async with Proxy(redis_url.removeprefix("unix://")) as proxy:
        yield proxy


@pytest.fixture
def own_redis(redis_binary, tmp_path_factory):
    # A socket's path may have 108 bytes at most.
    redis = RedisProcess(redis_binary, tmp_path_factory.mktemp("redis"))
    yield redis
    redis.kill()


@pytest.fixture
def forgetful_redis(redis_binary, tmp_path_factory):
    """A Redis that comes back empty."""
    redis = RedisProcess(redis_binary, tmp_path_factory.mktemp("redis"), keeps_data=False)
    yield redis
    redis.kill()


@pytest.fixture
async def forgetful_world(forgetful_redis, nursery, tmp_path, tokenizer_folder):
    """A world on a Redis that loses all it has when it is killed."""
    async with world_on(forgetful_redis.url, nursery, tmp_path, tokenizer_folder) as world:
        yield world


@pytest.fixture
async def own_world(own_redis, nursery, tmp_path, tokenizer_folder):
    """A world on a Redis that may be killed."""
    async with world_on(own_redis.url, nursery, tmp_path, tokenizer_folder) as world:
        yield world


@pytest.fixture(scope="session")
def plain():
    """An engine to which nothing happens."""
    return plain_engine()


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """What a worker is born with to have the real engine."""
    return {"model": MODEL, "engine": engine_settings(tmp_path_factory.mktemp("costs"))}
