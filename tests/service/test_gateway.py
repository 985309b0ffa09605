"""Over real HTTP and a real Redis: right answers, the right errors, and nothing left behind by those who leave."""

import asyncio
import io
import json
import subprocess
import sys

import openai
import pytest
from redis.asyncio import Redis

from client.wire import queue_stream
from tests.service.fakes import FakeEngine, fake_settings, gateway, health, running, spoken, until, until_true

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")


async def sse(service, path="/v1/completions", **body) -> list[bytes]:
    async with service.http.post(service.url + path, json=body | {"stream": True}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        return (await response.read()).split(b"\n\n")


def payloads(events: list[bytes]) -> list[dict]:
    assert events[-2:] == [b"data: [DONE]", b""]
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]


def usage_of(prompt: int, completion: int, cached: int = 0) -> dict:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


# --- Answers -----------------------------------------------------------------------------------------------------


async def test_a_completion_has_text_usage_and_metrics(settings):
    async with running(settings, FakeEngine()) as service:
        status, body = await service.post(prompt="abc", max_tokens=30)
    assert status == 200
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "finish_reason": "length", "logprobs": None, "text": spoken(30)}]
    assert body["usage"] == usage_of(3, 30, cached=1)
    spec = body["metrics"]["speculative_decoding"]
    assert (spec["num_spec_steps"], spec["num_draft_tokens"], spec["num_accepted_draft_tokens"]) == (10, 20, 20)


async def test_a_chat_goes_through_the_template_and_ends_at_a_stop_token(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        status, body = await service.post("/v1/chat/completions", messages=CHAT, stop_token_ids=[ord("e")])
    assert status == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Grüße"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert bytes(engine.seen[0].prompt_ids) == b"<user>hi>"


async def test_token_ids_are_a_prompt_too(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        assert (await service.post(prompt=[104, 105], max_tokens=3))[0] == 200
    assert engine.seen[0].prompt_ids == (104, 105)


async def test_nonces_differ_between_equal_requests(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        for _ in range(2):
            await service.post(prompt="same")
    assert len({request.nonce for request in engine.seen}) == 2


async def test_a_streamed_chat_has_the_bytes_that_clients_expect(settings):
    async with running(settings, FakeEngine()) as service:
        events = await sse(
            service, "/v1/chat/completions", messages=CHAT, max_tokens=7, stream_options={"include_usage": True}
        )
    role, *parts, ending, usage = payloads(events)
    assert role["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == spoken(7)
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * len(parts)
    assert ending["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 7
    assert {body["id"] for body in (role, *parts, ending, usage)} == {role["id"]}
    assert all(body["object"] == "chat.completion.chunk" for body in (role, *parts, ending, usage))


async def test_usage_may_come_with_every_chunk(settings):
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with running(settings, FakeEngine()) as service:
        bodies = payloads(await sse(service, prompt="ab", max_tokens=7, stream_options=options))
    assert [body["usage"]["completion_tokens"] for body in bodies] == [3, 6, 7, 7, 7]
    assert {body["usage"]["prompt_tokens"] for body in bodies} == {2}


async def test_cached_prompt_tokens_are_told(settings):
    async with running(settings, FakeEngine()) as service:
        _, body = await service.post(prompt="abc", max_tokens=30, cache_salt="tenant")
        assert service.engine.seen[0].cache_salt == "tenant"
    assert body["usage"] == usage_of(3, 30, cached=1)


async def test_token_ids_are_returned_when_asked_for(settings):
    async with running(settings, FakeEngine()) as service:
        _, whole = await service.post(prompt="ab", max_tokens=4, return_token_ids=True)
        _, chat = await service.post("/v1/chat/completions", messages=CHAT, max_tokens=4, return_token_ids=True)
        streamed = payloads(await sse(service, prompt="ab", max_tokens=4, return_token_ids=True))
    ids = list(spoken(4).encode())[:4]
    assert (whole["choices"][0]["token_ids"], whole["choices"][0]["prompt_token_ids"]) == (ids, [97, 98])
    assert (chat["choices"][0]["token_ids"], bytes(chat["prompt_token_ids"])) == (ids, b"<user>hi>")
    assert [body["choices"][0].get("token_ids") for body in streamed] == [ids[:3], ids[3:], None]
    assert [body["choices"][0].get("prompt_token_ids") for body in streamed] == [[97, 98], None, None]


async def test_usage_is_sent_only_when_asked_for(settings):
    async with running(settings, FakeEngine()) as service:
        bodies = payloads(await sse(service, prompt="a", max_tokens=3))
    assert all("usage" not in body and body["choices"] for body in bodies)


async def test_streamed_pieces_are_aligned_to_tokens_and_name_accepted_drafts(settings):
    async with running(settings, FakeEngine()) as service:
        bodies = payloads(await sse(service, prompt="a", max_tokens=6))
    told = [body["speculation"] for body in bodies if "speculation" in body]
    assert [part["pieces"] for part in told] == [["G", "r", ""], ["ü", "", "ß"]]
    assert [part["num_drafts"] for part in told] == [2, 2]


async def test_half_a_character_at_the_end_comes_with_the_last_chunk(settings):
    async with running(settings, FakeEngine()) as service:
        _, whole = await service.post(prompt="a", max_tokens=3)
        bodies = payloads(await sse(service, prompt="a", max_tokens=3))
    assert whole["choices"][0]["text"] == "Gr\ufffd"
    assert "".join(body["choices"][0]["text"] for body in bodies) == "Gr\ufffd"


async def test_the_openai_client_reads_both_forms(settings):
    async with (
        running(settings, FakeEngine()) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(model="fake", messages=CHAT, max_tokens=21)
        stream = await client.chat.completions.create(
            model="fake", messages=CHAT, max_tokens=21, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = await client.completions.create(model="fake", prompt="a", max_tokens=21)
        assert [model.id async for model in client.models.list()] == ["fake"]
    assert whole.choices[0].message.content == text.choices[0].text == spoken(21)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == spoken(21)
    assert chunks[-1].usage == whole.usage


async def test_the_openai_client_raises_its_own_errors(settings):
    async with (
        running(settings, FakeEngine()) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="min_tokens") as refused:
            await client.completions.create(model="fake", prompt="a", extra_body={"min_tokens": 99})
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="other", prompt="a")
        stream = await client.completions.create(model="fake", prompt=[0], stream=True)
        with pytest.raises(openai.APIError, match="zeros are refused"):
            _ = [chunk async for chunk in stream]
    assert refused.value.param == "min_tokens"


async def test_fifty_streams_at_once_each_get_all_of_their_own(settings):
    engine = FakeEngine(num_slots=8)
    async with running(settings, engine) as service:

        async def one(index: int) -> None:
            events = await sse(service, prompt="a" * index, max_tokens=index, stream_options={"include_usage": True})
            *parts, usage = payloads(events)
            assert "".join(part["choices"][0]["text"] for part in parts) == spoken(index)
            tokens = sum(len(part["speculation"]["token_ids"]) for part in parts if "speculation" in part)
            assert usage["usage"] == usage_of(index, tokens, cached=1)
            assert tokens == index

        async with asyncio.TaskGroup() as group:
            for index in range(1, 51):
                group.create_task(one(index))
    assert engine.most_running <= 8


# --- Those who leave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels_its_job(settings, stream):
    engine = FakeEngine(step_s=0.01)
    async with running(settings, engine) as service, Redis.from_url(settings.queue.redis_url) as redis:
        body = {"prompt": "a", "max_tokens": 400, "stream": stream}
        asking = asyncio.ensure_future(service.http.post(f"{service.url}/v1/completions", json=body))
        await until_true(lambda: engine.running)
        if stream:
            (await asking).close()
        asking.cancel()
        await until_true(lambda: engine.aborted, 2.0)
        await until(lambda: redis.xlen(queue_stream("fake")), 0, 2.0)
    assert not engine.running


async def test_a_request_that_takes_too_long_is_stopped(redis_url, tmp_path):
    settings = fake_settings(redis_url, tmp_path / "model", request_timeout_s=0.3)
    engine = FakeEngine(step_s=0.02)
    async with running(settings, engine) as service:
        status, body = await service.post(prompt="a", max_tokens=400)
        await until_true(lambda: engine.aborted, 2.0)
    assert (status, body["error"]["code"]) == (504, "timeout")


# --- Errors ------------------------------------------------------------------------------------------------------


async def test_wrong_requests_get_openai_errors(settings):
    json_type = {"Content-Type": "application/json"}
    table = [
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "suffix": "b"}', 400, "suffix"),
        ("POST", "/v1/completions", json_type, b"{", 400, None),
        ("POST", "/v1/completions", json_type, b'{"prompt": ""}', 400, "prompt"),
        ("POST", "/v1/completions", json_type, b'{"prompt": [257]}', 400, "prompt"),
        ("POST", "/v1/completions", json_type, b'{"prompt": [-1]}', 400, "prompt"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "stop_token_ids": [999]}', 400, "stop_token_ids"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "logit_bias": {"257": 1}}', 400, "logit_bias"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "min_tokens": 17}', 400, "min_tokens"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "best_of": 2}', 400, "best_of"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "top_logprobs": 2}', 400, "top_logprobs"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "max_tokens": 600}', 400, "max_tokens"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "' + b"a" * 600 + b'"}', 400, "prompt"),
        ("POST", "/v1/completions", json_type, b'{"prompt": "a", "model": "fak"}', 404, "model"),
        ("POST", "/v1/completions", json_type, b" " * (2 << 20), 413, None),
        ("POST", "/v1/completions", {"Content-Type": "text/plain"}, b'{"prompt": "a"}', 415, None),
        ("POST", "/v1/chat/completions", json_type, b'{"messages": [{"role": "x", "content": ""}]}', 400, "messages"),
        ("GET", "/v1/completions", {}, b"", 405, None),
        ("DELETE", "/v1/models", {}, b"", 405, None),
        ("GET", "/v1/nothing", {}, b"", 404, None),
        ("GET", "/", {}, b"", 404, None),
    ]
    async with running(settings, FakeEngine()) as service:
        for method, path, headers, body, status, param in table:
            async with service.http.request(
                method, service.url + path, headers=headers, data=io.BytesIO(body)
            ) as response:
                error = (await response.json())["error"]
                assert (response.status, error["param"]) == (status, param), (method, path, body[:40], error)
                assert set(error) == {"message", "type", "param", "code"}
                assert error["message"]


async def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(settings):
    async with running(settings, FakeEngine()) as service:
        _, body = await service.post(prompt="a" * 500, max_tokens=20)
    assert body["error"]["code"] == "context_length_exceeded"
    for number in ("500", "20", "520", "512"):
        assert number in body["error"]["message"]


async def test_what_the_engine_refuses_ends_that_request_alone(settings):
    async with running(settings, FakeEngine()) as service:
        refused, answered = await asyncio.gather(service.post(prompt=[0]), service.post(prompt=[2], max_tokens=30))
    assert (refused[0], refused[1]["error"]["code"]) == (400, "zero")
    assert answered[0] == 200


async def test_a_step_that_breaks_is_an_error_and_the_next_request_is_served(settings):
    async with running(settings, FakeEngine()) as service:
        status, body = await service.post(prompt=[1])
        assert (status, body["error"]["type"]) == (500, "api_error")
        assert (await service.post(prompt=[2]))[0] == 200


async def test_without_a_worker_it_says_503_and_when_to_come_back(settings):
    async with gateway(settings, ready_status=503) as http:
        url = f"http://127.0.0.1:{settings.server.port}"
        async with http.post(f"{url}/v1/completions", json={"prompt": "a"}) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "no_worker"
        async with http.get(f"{url}/livez") as response:
            assert response.status == 200
        async with http.get(f"{url}/health") as response:
            assert await response.json() == {"status": "waiting", "redis": True, "workers": 0}


async def test_a_full_queue_says_503(redis_url, tmp_path):
    settings = fake_settings(redis_url, tmp_path / "model", max_queued_requests=1)
    engine = FakeEngine(step_s=0.02, num_slots=1)
    async with running(settings, engine) as service:
        first = asyncio.ensure_future(service.post(prompt="a", max_tokens=90))
        await until_true(lambda: engine.running)
        status, body = await service.post(prompt="b")
        assert (status, body["error"]["code"]) == (503, "queue_full")
        assert (await first)[0] == 200


async def test_redis_out_of_reach_is_503_and_an_unhealthy_gateway_that_lives(settings):
    async with running(settings, FakeEngine()) as service, Redis.from_url(settings.queue.redis_url) as redis:
        await redis.client_pause(3000)
        status, body = await service.post(prompt="a")
        assert (status, body["error"]["code"]) == (503, "queue_down")
        await until(lambda: health(service.http, settings), 503)
        await until(lambda: health(service.http, settings), 200)
        assert (await service.post(prompt="a"))[0] == 200


def test_importing_the_gateway_loads_no_torch():
    code = "import sys, service.gateway; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "False"
