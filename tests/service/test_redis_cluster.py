"""The service on a Redis Cluster of three real nodes: what one Redis does, whichever node a job lies on."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from redis.asyncio.cluster import ClusterPipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from client.direct import new_job_id, submit, submit_choices
from client.wire import INTAKE_STREAM, Chunk, Final, IntakeRequest, job_key, out_stream, queue_stream
from core.config_check import check_settings
from core.errors import ConfigError, QueueError
from core.queue_settings import QueueSettings
from service.queue import JobQueue
from service.storage.claims import AppendResult
from service.storage.cluster_reader import ClusterReader, reader_of
from service.storage.connect import client_of
from tests.service.fakes import FakeEngine, fake_settings, running, spoken, until_true
from tests.service.jobs import append, ending, new_job, take, tokens_of
from tests.service.reading import at_work
from tests.service.redis_cluster import redis_cluster, server

OURS = AppendResult(is_ours=True, is_cancelled=False)


@pytest.fixture(scope="module")
def nodes(redis_binary, tmp_path_factory):
    with redis_cluster(redis_binary, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes):
    nodes.flush()
    return nodes


@pytest.fixture
async def client(cluster):
    async with client_of(settings_of(cluster)) as client:
        yield client


@pytest.fixture
async def queue(client, cluster):
    queue = JobQueue(client, settings_of(cluster), "fake")
    await queue.open()
    return queue


def settings_of(cluster) -> QueueSettings:
    return QueueSettings(redis_url=cluster.url, redis_cluster=True, lease_ms=2000, command_timeout_s=2.0)


def service_settings(cluster, folder, **fields):
    usual = {"lease_ms": 5000, "command_timeout_s": 5.0}
    return fake_settings(cluster.url, folder / "model", redis_cluster=True, **(usual | fields))


def job_of_each(cluster):
    """Return a job for each node, which lies there."""
    found = {}
    while len(found) < len(cluster.nodes):
        job = new_job()
        found.setdefault(cluster.owner(job_key(job.id)).port, job)
    return [found[node.port] for node in cluster.nodes]


async def claim_all(queue, jobs):
    for job in jobs:
        await queue.submit(job)
    return [await take(queue) for _ in jobs]


def num_blocked(cluster):
    return sum(node.client.info("clients")["blocked_clients"] for node in cluster.nodes)


async def tokens_from(events, count):
    tokens = []
    async with asyncio.timeout(10):
        while len(tokens) < count:
            tokens += (await events.get())[1].token_ids
    return tokens


@asynccontextmanager
async def reading(cluster, client):
    async with client_of(settings_of(cluster), 1.0) as blocking:
        reader = reader_of(blocking, client)
        assert isinstance(reader, ClusterReader)
        async with at_work(reader):
            yield reader


async def test_a_step_of_jobs_on_all_nodes_is_appended_once_however_often_it_is_written(cluster, queue, client):
    claims = await claim_all(queue, job_of_each(cluster))
    step = [append(claim, 0, 7, 8) for claim in claims]
    for _ in range(2):
        assert [one.is_ours for one in await queue.append(step)] == [True] * 3
    assert await queue.finish([ending(claim, 2) for claim in claims]) == [True] * 3
    assert [await tokens_of(client, claim.job.id) for claim in claims] == [[7, 8]] * 3
    assert await queue.depth() == 0


async def test_one_job_that_is_anothers_leaves_the_rest_of_the_step_alone(cluster, queue):
    first, second, third = await claim_all(queue, job_of_each(cluster))
    await queue.claim(second.entry, "two")
    results = await queue.append([append(claim, 0, 7) for claim in (first, second, third)])
    assert [one.is_ours for one in results] == [True, False, True]


async def test_scripts_that_the_nodes_have_forgotten_are_loaded_again(cluster, queue):
    claims = await claim_all(queue, job_of_each(cluster))
    for node in cluster.nodes:
        node.client.script_flush()
    assert [one.is_ours for one in await queue.append([append(claim, 0, 7) for claim in claims])] == [True] * 3


async def test_followers_of_streams_on_all_nodes_get_everything_from_the_first_entry_on(cluster, queue, client):
    claims = await claim_all(queue, job_of_each(cluster))
    jobs = [claim.job for claim in claims]
    async with reading(cluster, client) as reader, reader.follow(jobs, _unseen) as early:
        await queue.append([append(claim, 0, 1, 2) for claim in claims])
        assert sorted(await tokens_from(early, 6)) == [1, 1, 1, 2, 2, 2]
        # The read of its stream blocks at what comes after 2.
        async with reader.follow(jobs[:1], _unseen) as late:
            assert await tokens_from(late, 2) == [1, 2]
            await queue.append([append(claims[0], 2, 3)])
            assert (await tokens_from(late, 1), await tokens_from(early, 1)) == ([3], [3])
        await queue.finish([ending(claim, 2) for claim in claims[1:]])
        ends = [(await early.get())[1] for _ in range(2)]
        assert all(isinstance(one, Final) for one in ends)


async def test_nothing_is_read_that_nobody_waits_for(cluster, queue, client):
    (claim,) = await claim_all(queue, [new_job()])
    async with reading(cluster, client) as reader:
        async with reader.follow([claim.job], _unseen) as events:
            await queue.append([append(claim, 0, 1)])
            await tokens_from(events, 1)
            await until_true(lambda: num_blocked(cluster) == 1)
        await until_true(lambda: num_blocked(cluster) == 0)


async def test_that_a_cluster_cannot_be_reached_is_a_fault_of_redis_like_any_other(client, monkeypatch):
    """The library's word for it is no RedisError, which everybody here waits for."""

    async def unreachable(*_, **__):
        raise RedisClusterException("Redis Cluster cannot be connected")

    monkeypatch.setattr(ClusterPipeline, "execute", unreachable)
    async with client.pipeline(transaction=False) as pipe:
        pipe.get("a")
        with pytest.raises(RedisConnectionError, match="cannot be connected"):
            await pipe.execute()
    monkeypatch.undo()
    # It looks anew who holds which slots, and goes on.
    async with client.pipeline(transaction=False) as pipe:
        pipe.set("a", 1)
        pipe.get("a")
        assert await pipe.execute() == [True, b"1"]


async def test_a_job_whose_slot_moves_to_another_node_goes_on(cluster, queue, client):
    claims = await claim_all(queue, job_of_each(cluster))
    moving = claims[0]
    home, other = cluster.nodes[:2]
    async with reading(cluster, client) as reader, reader.follow([moving.job], _unseen) as events:
        await queue.append([append(claim, 0, 1) for claim in claims])
        assert await tokens_from(events, 1) == [1]
        cluster.move(job_key(moving.job.id), home, other)
        assert await queue.append([append(claim, 1, 2) for claim in claims]) == [OURS] * 3
        assert await tokens_from(events, 1) == [2]
        assert await queue.finish([ending(moving, 2)]) == [True]
        assert other.client.exists(out_stream(moving.job.id))
    cluster.move(job_key(moving.job.id), other, home)


async def test_whoever_asks_over_http_gets_all_choices_streamed_or_at_once(cluster, tmp_path):
    async with running(service_settings(cluster, tmp_path), FakeEngine()) as service:
        status, body = await service.post(prompt="a", max_tokens=7, n=3)
        assert status == 200
        assert [one["text"] for one in body["choices"]] == [spoken(7, index) for index in range(3)]
        events = await service.stream(prompt="a", max_tokens=7)
        assert "".join(one["choices"][0]["text"] for one in events if one["choices"]) == spoken(7)


async def test_whoever_submits_through_redis_gets_all_choices(cluster, tmp_path):
    async with running(service_settings(cluster, tmp_path), FakeEngine()):
        asked = IntakeRequest(id=new_job_id(), prompt="a", max_tokens=7, n=3)
        found = [[], [], []]
        async for index, event in submit_choices(cluster.url, asked, is_cluster=True):
            found[index].append(event)
    texts = ["".join(one.text if isinstance(one, Chunk) else one.tail for one in events) for events in found]
    assert texts == [spoken(7, index) for index in range(3)]


async def test_a_worker_keeps_its_claims_beyond_a_lease(cluster, tmp_path):
    settings = service_settings(cluster, tmp_path, lease_ms=2000)
    async with running(settings, FakeEngine(step_s=0.25)) as service:
        status, body = await service.post(prompt="a", max_tokens=36)
    assert (status, body["choices"][0]["text"], len(service.engine.seen)) == (200, spoken(36), 1)


async def test_a_client_that_leaves_ends_its_job(cluster, tmp_path):
    async with running(service_settings(cluster, tmp_path), FakeEngine(step_s=0.05)) as service:
        asked = asyncio.create_task(service.post(prompt="a", max_tokens=400))
        await until_true(lambda: service.engine.running)
        asked.cancel()
        await until_true(lambda: not service.engine.running)
        assert service.engine.aborted


@pytest.mark.slow
async def test_answers_outlive_the_node_that_has_them_and_the_one_that_has_the_queue(redis_binary, tmp_path):
    with redis_cluster(redis_binary, tmp_path / "nodes", replicas=1) as cluster:
        engine = FakeEngine(step_s=0.1, num_slots=16)
        async with running(service_settings(cluster, tmp_path, lease_ms=12_000), engine) as service:
            asked = [asyncio.create_task(service.stream(prompt="a", max_tokens=300)) for _ in range(8)]
            await until_true(lambda: len(engine.running) == 8)
            await asyncio.sleep(1.0)
            cluster.owner(queue_stream("fake")).kill()
            answers = await asyncio.gather(*asked)
            assert (await service.post(prompt="a", max_tokens=7))[0] == 200
    texts = ["".join(event["choices"][0]["text"] for event in answer if event["choices"]) for answer in answers]
    assert texts == [spoken(300)] * 8


async def test_a_cluster_that_the_settings_do_not_speak_of_is_refused(cluster):
    plain = QueueSettings(redis_url=cluster.url)
    async with client_of(plain) as client:
        with pytest.raises(QueueError, match=r"node of a Redis Cluster: set queue.redis_cluster = true"):
            await JobQueue(client, plain, "fake").open()
    away = next(node for node in cluster.nodes if node is not cluster.owner(INTAKE_STREAM))
    with pytest.raises(QueueError, match=r"node of a Redis Cluster; say so"):
        await anext(submit(f"redis://127.0.0.1:{away.port}", IntakeRequest(id=new_job_id(), prompt="a", max_tokens=1)))


async def test_a_redis_that_is_no_cluster_is_refused(redis_binary, tmp_path):
    with server(redis_binary, tmp_path / "plain") as plain:
        wanted = QueueSettings(redis_url=f"redis://127.0.0.1:{plain.port}", redis_cluster=True)
        client = client_of(wanted)
        with pytest.raises(QueueError, match="Cluster mode is not enabled on this node"):
            await JobQueue(client, wanted, "fake").open()
        await client.aclose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, "needs a queue.redis_url"),
        ("unix:///redis.sock", "needs a queue"),
        ("redis://h/3", "database 0 only"),
    ],
)
def test_a_url_that_can_be_no_cluster_is_refused_with_the_settings(url, words, tmp_path):
    settings = fake_settings("redis://h", tmp_path / "model")
    queue = msgspec.structs.replace(settings.queue, redis_url=url, redis_cluster=True)
    with pytest.raises(ConfigError, match=words):
        check_settings(msgspec.structs.replace(settings, queue=queue))


def _unseen(_index, _event) -> None: ...
