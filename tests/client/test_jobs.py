"""The client of jobs goes on by itself: after every cut, and with another gateway when one is killed."""

import asyncio
import re
import signal
import sys
from contextlib import asynccontextmanager

import msgspec
import pytest

from client import jobs as jobs_module
from client.blocking_jobs import BlockingJobs
from client.jobs import JobEvent, Jobs
from client.wire import Chunk, Final
from core.config import ServerSettings
from core.errors import QueueError, RequestError
from core.types import FinishReason
from service.main import base_url, free_port
from tests.layers import ROOT
from tests.service.fakes import FakeEngine, fake_settings, running, spoken, until


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(jobs_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(jobs_module, "LONGEST_PAUSE_S", 0.1)


async def followed(jobs, job_id, after="") -> list[JobEvent]:
    return [event async for event in jobs.events(job_id, after=after)]


def text_of(events, choice=0):
    messages = [event.message for event in events if event.choice == choice]
    return "".join(one.text if isinstance(one, Chunk) else one.tail for one in messages)


@asynccontextmanager
async def cutting(settings, cut):
    """Yield the URL of a proxy that passes on what `cut(number of the connection)` says: (events, bytes after them)."""
    connections = []

    async def serve(reader, writer):
        num_events, num_bytes = cut(len(connections))
        connections.append(1)
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", settings.server.port)
        upstream.write(await reader.readuntil(b"\r\n\r\n"))
        try:
            for _ in range(num_events):
                writer.write(await upstream_reader.readuntil(b"\n\n\r\n"))
            writer.write(await upstream_reader.readexactly(num_bytes))
            await writer.drain()
        except asyncio.IncompleteReadError as error:
            writer.write(error.partial)
        finally:
            writer.close()
            upstream.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


async def test_a_job_is_submitted_followed_and_answered(settings):
    async with running(settings, FakeEngine()) as service, Jobs(service.url) as jobs:
        job_id = await jobs.submit(prompt="abc", max_tokens=20, n=2)
        events = await followed(jobs, job_id)
        answer = await jobs.result(job_id)
        assert (await jobs.cancel(job_id))["state"] == "done"
        await jobs.delete(job_id)
        await jobs.delete(job_id)
        with pytest.raises(RequestError, match="no job") as unknown:
            await jobs.state(job_id)
    assert [text_of(events, choice) for choice in range(2)] == [spoken(20), spoken(20, 1)]
    assert [choice["text"] for choice in answer["choices"]] == [spoken(20), spoken(20, 1)]
    finals = [event.message for event in events if isinstance(event.message, Final)]
    assert [(final.reason, final.usage.total_tokens, final.speculated.rounds) for final in finals] == [
        (FinishReason.LENGTH, 23, 7)
    ] * 2
    assert unknown.value.status == 404


@pytest.mark.parametrize("extra", [0, 20])
async def test_a_cut_after_every_event_and_inside_of_the_next_repeats_and_loses_nothing(settings, extra):
    """The first cut comes before any event at all, every other one right after an event or some bytes into the next."""
    async with running(settings, FakeEngine()) as service, Jobs(service.url) as direct:
        job_id = await direct.submit(messages=[{"role": "user", "content": "hi"}], max_tokens=40)
        whole = await followed(direct, job_id)
        async with cutting(settings, lambda number: (min(number, 1), extra)) as (url, connections), Jobs(url) as jobs:
            async with asyncio.timeout(10):
                cut = await followed(jobs, job_id)
    assert cut == whole
    assert text_of(whole) == spoken(40)
    assert len(connections) >= len(whole)


async def test_a_killed_gateway_s_client_goes_on_at_another(settings, tmp_path):
    """The first gateway is a process of its own, and dies by SIGKILL in the middle of the answer."""
    port = free_port("127.0.0.1")
    first = msgspec.structs.replace(settings, server=ServerSettings(port=port, model_name="fake"))
    config = tmp_path / "first.toml"
    config.write_text(
        f'[server]\nport = {port}\nmodel_name = "fake"\n[queue]\nredis_url = "{settings.queue.redis_url}"\n'
        f'[engine]\ntarget = "{settings.engine.target}"\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "cli.main", "serve", "--role", "gateway", "--config", str(config)]
    engine = FakeEngine(step_s=0.02)
    async with running(settings, engine) as service:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        try:
            await until(lambda: is_up(service, base_url(first)), True, timeout_s=60)
            async with Jobs([base_url(first), service.url]) as jobs:
                job_id, events = await jobs.submit(prompt="abc", max_tokens=90), []
                async for event in jobs.events(job_id):
                    events.append(event)
                    if len(events) == 5:
                        process.send_signal(signal.SIGKILL)
                        await process.wait()
                whole = await followed(jobs, job_id)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    assert process.returncode == -signal.SIGKILL
    assert events == whole
    assert text_of(events) == spoken(90)
    assert (len(engine.seen), engine.aborted) == (1, [])


async def is_up(service, url):
    try:
        async with service.http.get(f"{url}/livez") as response:
            return response.status == 200
    except OSError:
        return False


async def test_an_answer_to_submit_that_is_lost_makes_no_second_job(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:

        def cut(number):
            return (0, 20) if number < 3 else (0, 10**6)

        async with cutting_posts(settings, cut) as url, Jobs(url) as jobs:
            job_id = await jobs.submit(prompt="abc", max_tokens=3)
        async with Jobs(service.url) as jobs:
            assert (await jobs.result(job_id))["choices"][0]["text"] == spoken(3)
    assert len(engine.seen) == 1


async def test_a_failed_job_raises_its_error_and_is_not_asked_for_again(settings):
    async with running(settings, FakeEngine()) as service, Jobs(service.url) as jobs:
        job_id = await jobs.submit(prompt=[0])
        with pytest.raises(RequestError, match="zeros are refused"):
            await jobs.result(job_id)
        with pytest.raises(RequestError, match="min_tokens"):
            await jobs.submit(prompt="a", min_tokens=99)


async def test_a_server_that_stays_away_is_given_up(settings):
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    async with Jobs(url, max_failures=3) as jobs:
        with pytest.raises(QueueError, match="given up after 3 attempts"):
            await jobs.submit(prompt="a")
        with pytest.raises(QueueError, match="given up after 3 attempts"):
            await followed(jobs, "a" * 32)


async def test_the_blocking_client_does_the_same(settings):
    def use(url):
        with BlockingJobs(url) as jobs:
            job_id = jobs.submit(prompt="abc", max_tokens=20)
            events = list(jobs.events(job_id))
            rest = list(jobs.events(job_id, after=events[2].id))
            first = next(jobs.events(job_id))
            answer, state = jobs.result(job_id), jobs.cancel(job_id)["state"]
            jobs.delete(job_id)
        return events, rest, first, answer, state

    async with running(settings, FakeEngine()) as service:
        events, rest, first, answer, state = await asyncio.to_thread(use, service.url)
    assert text_of(events) == answer["choices"][0]["text"] == spoken(20)
    assert (rest, first, state) == (events[3:], events[0], "done")


@asynccontextmanager
async def cutting_posts(settings, cut):
    """As `cutting`, for requests with a body: each goes to the gateway whole, what comes back is cut."""
    connections = []

    async def serve(reader, writer):
        _, num_bytes = cut(len(connections))
        connections.append(1)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", settings.server.port)
        upstream.write(head + await reader.readexactly(length))
        writer.write((await upstream_reader.read(num_bytes))[:num_bytes])
        await writer.drain()
        writer.close()
        upstream.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
