"""However a stream ends, its client can tell: by [DONE], by an error event, or by a connection that breaks off.

What a client must never see is a proper end of the body after half an answer: it would take that for the whole.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from client.wire import out_stream
from service import gateway as gateways
from service import sse
from service.answers import job_events, respond
from service.answers.choices import ChoiceWriter
from service.storage import reader
from service.upkeep import lost_jobs
from tests.service.fakes import FakeEngine, fake_settings, running, until_true

DOORS = ["answer", "job"]
BODY_END = b"0\r\n\r\n"


@asynccontextmanager
async def streamed(service, door, **body):
    """Ask for a stream over a bare connection; yields what reads the rest of it, and its job's id."""
    if door == "job":
        _, job = await service.post("/v1/jobs", **body)
        head, data = f"GET /v1/jobs/{job['id']}/events HTTP/1.1", b""
    else:
        head, data = "POST /v1/completions HTTP/1.1", json.dumps(body | {"stream": True}).encode()
    port = urlsplit(service.url).port
    stream, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
    lines = [head, "Host: specd", "Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
    writer.write("\r\n".join(lines).encode() + data)
    try:
        # A head may end as a body does.
        await stream.readuntil(b"\r\n\r\n")
        yield stream
    finally:
        writer.close()


async def rest_of(stream):
    """Return what is left, up to the end of the body or of the connection."""
    found = b""
    async with asyncio.timeout(20):
        while not found.endswith(BODY_END):
            try:
                data = await stream.read(1 << 16)
            except ConnectionError:
                break
            if not data:
                break
            found += data
    return found


def ending(body):
    """Return how a client would say that a stream ended."""
    if not body.endswith(BODY_END):
        return "broke off"
    last = body[: -len(BODY_END)].rpartition(b"data: ")[2].strip()
    if last == b"[DONE]":
        before = body.rpartition(b"data: [DONE]")[0].rpartition(b"data: ")[2]
        error = json.loads(before.split(b"\r\n")[0]).get("error")
        return error["code"] if error else "done"
    return json.loads(last)["error"]["code"]


async def end_of(settings, engine, door, then=None, **body):
    """Return how a stream ends if `then` is done to the service in the middle of it."""
    async with running(settings, engine) as service:
        asked = {"prompt": "a", "max_tokens": 500} | body
        async with streamed(service, door, **asked) as stream:
            if then:
                await stream.readuntil(b"data: ")
                await then(service, engine)
            return ending(await rest_of(stream))


def job_of(engine):
    return next(iter(engine.running)).rpartition(":")[0]


@pytest.fixture
def engine():
    return FakeEngine(step_s=0.01)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("body", "end"),
    [
        ({"max_tokens": 9}, "done"),
        ({"prompt": [0]}, "zero"),
        ({"prompt": [1]}, "internal_error"),
        ({"deadline_ms": 300}, "deadline_exceeded"),
        ({"max_tokens": 9, "n": 2}, "done"),
        ({"prompt": [0], "n": 2}, "zero"),
    ],
    ids=["whole", "refused", "a step breaks", "late", "two choices", "both refused"],
)
async def test_by_what_becomes_of_the_job(settings, engine, door, body, end):
    assert await end_of(settings, engine, door, **body) == end


async def test_by_a_cancel_from_elsewhere(settings, engine):
    async def cancel(service, engine):
        await service.post(f"/v1/jobs/{job_of(engine)}/cancel")

    assert await end_of(settings, engine, "job", cancel) == "done"


@pytest.mark.parametrize("door", DOORS)
async def test_by_an_entry_that_cannot_be_read(settings, client, engine, door):
    async def spoil(_, engine):
        await client.xadd(out_stream(job_of(engine)), {"m": b"what?"}, id="400-0")

    assert await end_of(settings, engine, door, spoil) == "internal_error"


@pytest.mark.parametrize("door", DOORS)
async def test_by_a_mistake_of_ours(settings, engine, door, monkeypatch):
    spell = ChoiceWriter.part

    def forget_how(choice, chunk):
        if choice.num_tokens > 8:
            raise KeyError("forgotten")
        return spell(choice, chunk)

    monkeypatch.setattr(ChoiceWriter, "part", forget_how)
    assert await end_of(settings, engine, door) == "internal_error"


async def test_by_the_time_an_answer_may_take(redis_url, tmp_path, engine):
    brief = fake_settings(redis_url, tmp_path / "model", request_timeout_s=0.5)
    assert await end_of(brief, engine, "answer") == "timeout"


@pytest.mark.parametrize("door", DOORS)
async def test_by_a_redis_that_does_not_answer(settings, client, engine, door, monkeypatch):
    """The gateway's own reads fail, as they would behind a cut network."""
    monkeypatch.setattr(lost_jobs, "CHECK_S", 0.1)
    monkeypatch.setattr(lost_jobs, "CUT_OFF_S", 0.5)

    async def cut(_, __):
        async def fail(_):
            raise ConnectionError("cut")

        monkeypatch.setattr(reader.StreamReader, "_read_once", fail)

    assert await end_of(settings, engine, door, cut) == "queue_down"


@pytest.mark.parametrize("door", DOORS)
async def test_by_a_gateway_that_stops(settings, engine, door, monkeypatch):
    monkeypatch.setattr(gateways, "SHUTDOWN_S", 0.2)
    async with running(settings, engine) as service, streamed(service, door, prompt="a", max_tokens=500) as stream:
        await stream.readuntil(b"data: ")
        service.stop_gateway()
        assert ending(await rest_of(stream)) == "broke off"


@pytest.mark.parametrize("door", DOORS)
async def test_by_a_client_that_does_not_read(redis_url, tmp_path, door, monkeypatch):
    """Its connection breaks off, and the job that was for it alone is cancelled."""
    monkeypatch.setattr(sse, "WRITE_S", 0.3)
    settings, engine = fake_settings(redis_url, tmp_path / "model"), FakeEngine(max_model_len=1 << 20)
    big, broke = b": " + b"x" * (1 << 20) + b"\n", asyncio.Event()
    send = sse.send

    async def send_more(response, data):
        try:
            await send(response, data + big)
        except ConnectionError:
            broke.set()
            raise

    # More than the buffers between take, with every event.
    monkeypatch.setattr(respond, "send", send_more)
    monkeypatch.setattr(job_events, "send", send_more)
    async with running(settings, engine) as service:
        async with streamed(service, door, prompt="a", max_tokens=100_000) as stream:
            await stream.readuntil(b"data: ")
            job_id = job_of(engine)
            async with asyncio.timeout(20):
                await broke.wait()
            assert ending(await rest_of(stream)) == "broke off"
        if door == "answer":
            await until_true(lambda: engine.aborted)
        else:
            assert job_id in {one.rpartition(":")[0] for one in engine.running}
            await service.post(f"/v1/jobs/{job_id}/cancel")
