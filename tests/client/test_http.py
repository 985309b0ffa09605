"""The HTTP client gives the same events as the stream in Redis, and the server's own words when it refuses."""

import pytest
from aiohttp import web

from client.http import stream_chat, stream_completion
from client.wire import Chunk, Final, Speculated, Usage
from core.errors import QueueError, RequestError
from core.types import FinishReason
from service.main import free_port
from tests.service.fakes import FakeEngine, fake_settings, running, spoken


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")


async def test_a_completion_comes_as_chunks_and_a_final(settings):
    async with running(settings, FakeEngine()) as service:
        *chunks, final = [event async for event in stream_completion(service.url, "abc", max_tokens=8)]
    assert chunks[0] == Chunk((71, 114, 195), ("G", "r", ""), verified=2, num_drafts=2)
    assert "".join(chunk.text for chunk in chunks) + final.tail == spoken(8)
    assert final == Final(FinishReason.LENGTH, Usage(3, 8, 1), Speculated(3, 6, 6), final.tail)


async def test_a_chat_s_half_character_is_in_the_final(settings):
    async with running(settings, FakeEngine()) as service:
        messages = [{"role": "user", "content": "hi"}]
        *_, final = [event async for event in stream_chat(service.url, messages, max_tokens=3)]
    assert (final.tail, final.reason) == ("\ufffd", FinishReason.LENGTH)


async def test_a_refusal_carries_the_server_s_words(settings):
    async with running(settings, FakeEngine()) as service:
        with pytest.raises(RequestError, match="max_tokens") as refused:
            _ = [event async for event in stream_completion(service.url, "abc", max_tokens=0)]
    assert (refused.value.status, refused.value.param) == (400, "max_tokens")


async def test_a_failure_in_mid_stream_is_an_error_too(settings):
    async with running(settings, FakeEngine()) as service:
        with pytest.raises(RequestError, match="zeros are refused"):
            _ = [event async for event in stream_completion(service.url, "\0")]


async def test_more_than_one_choice_is_refused_before_anything_is_sent():
    with pytest.raises(RequestError, match="n must be 1 here, got 2"):
        _ = [event async for event in stream_completion("http://127.0.0.1:1", "abc", n=2)]


async def test_no_server_is_said_so():
    with pytest.raises(QueueError, match="no answer from http://127"):
        _ = [event async for event in stream_completion(f"http://127.0.0.1:{free_port('127.0.0.1')}", "abc")]


@pytest.mark.parametrize("body", [b"", b'data: {"choices": [], "object": "x"', b": ka\n"])
async def test_a_stream_that_breaks_off_is_no_answer(body):
    async def answer(_):
        return web.Response(body=body, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port("127.0.0.1")
    await web.TCPSite(runner, "127.0.0.1", port).start()
    with pytest.raises(QueueError, match="broke off"):
        _ = [event async for event in stream_completion(f"http://127.0.0.1:{port}", "abc")]
    await runner.cleanup()
