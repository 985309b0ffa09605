"""/v1/responses over real HTTP: OpenAI's typed events, answers that are kept, and those in the background."""

import asyncio
import json

import openai
import pytest

from tests.service.fakes import FakeEngine, fake_settings, running, spoken, until, until_true

SLOW_S = 0.02
FUNCTION = {"type": "function", "name": "f"}


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")


async def call(service, method, path="", **body):
    json_body = body if method == "POST" and not path else None
    async with service.http.request(method, f"{service.url}/v1/responses{path}", json=json_body) as response:
        return response.status, await response.json()


async def create(service, **body):
    status, made = await call(service, "POST", **body)
    assert status == 200, made
    return made


async def events(service, method="POST", path="", **body):
    """Return (name, body) of each event, as they were sent."""
    json_body = body | {"stream": True} if method == "POST" else None
    async with service.http.request(method, f"{service.url}/v1/responses{path}", json=json_body) as response:
        assert response.status == 200, await response.read()
        *found, rest = (await response.read()).split(b"\n\n")
    assert rest == b""
    split = [event.split(b"\n") for event in found]
    return [(name.removeprefix(b"event: ").decode(), json.loads(data.removeprefix(b"data: "))) for name, data in split]


async def status_of(service, response_id):
    return (await call(service, "GET", f"/{response_id}"))[1].get("status")


def text_of(body):
    return body["output"][0]["content"][0]["text"]


# --- Whole -------------------------------------------------------------------------------------------------------


async def test_a_response_has_its_message_its_usage_and_its_metrics(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        made = await create(service, input="hi", instructions="be brief", max_output_tokens=7, metadata={"a": "b"})
    assert bytes(engine.seen[0].prompt_ids) == b"<system>be brief<user>hi>"
    assert (made["object"], made["status"], made["metadata"]) == ("response", "incomplete", {"a": "b"})
    assert made["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text_of(made) == spoken(7)
    assert (made["usage"]["output_tokens"], made["usage"]["input_tokens_details"]) == (7, {"cached_tokens": 1})
    assert made["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] == 5


async def test_an_input_of_messages_is_a_chat(settings):
    engine = FakeEngine()
    said = [
        {"role": "developer", "content": "a"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}], "id": "msg_1"},
        {"role": "user", "content": "d"},
    ]
    async with running(settings, engine) as service:
        await create(service, input=said, max_output_tokens=3)
    assert bytes(engine.seen[0].prompt_ids) == b"<system>a<user>b<assistant>c<user>d>"


async def test_a_response_is_read_again_and_forgotten(settings):
    async with running(settings, FakeEngine()) as service:
        made = await create(service, input="hi", max_output_tokens=7)
        assert await call(service, "GET", f"/{made['id']}") == (200, made)
        assert (await call(service, "DELETE", f"/{made['id']}"))[1]["deleted"]
        assert (await call(service, "GET", f"/{made['id']}"))[0] == 404


async def test_a_response_that_is_not_stored_is_not_there(settings):
    async with running(settings, FakeEngine()) as service:
        made = await create(service, input="hi", max_output_tokens=7, store=False)
        status, body = await call(service, "GET", f"/{made['id']}")
    assert (made["store"], status, body["error"]["code"]) == (False, 404, "job_not_found")


async def test_what_is_wrong_is_refused_by_its_field(settings):
    async with running(settings, FakeEngine()) as service:
        job_id = (await create(service, input="hi", max_output_tokens=3))["id"].removeprefix("resp_")
        for fields, status, param in [
            ({}, 400, "input"),
            ({"input": []}, 400, "input"),
            ({"input": "a", "previous_response_id": "resp_1"}, 400, "previous_response_id"),
            ({"input": "a", "conversation": "c"}, 400, "conversation"),
            ({"input": "a", "tools": [{"type": "web_search"}]}, 400, "tools"),
            ({"input": "a", "max_tokens": 3}, 400, "max_tokens"),
            ({"input": "a", "background": True, "store": False}, 400, "store"),
            ({"input": "a", "model": "other"}, 404, "model"),
            ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "input"),
            ({"input": [{"type": "function_call_output", "output": "x"}]}, 400, "input"),
            ({"input": "a", "tools": [FUNCTION], "tool_choice": "required", "stream": 3}, 400, "stream"),
            ({"input": "a", "tools": [FUNCTION]}, 400, "tools"),
            ({"input": "a", "tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, 400, "tool_choice"),
        ]:
            came, body = await call(service, "POST", **fields)
            assert (came, body["error"]["param"]) == (status, param), (fields, body)
        for method, path, status in [
            ("GET", "/resp_1", 404),
            ("GET", f"/{job_id}", 404),
            ("POST", f"/resp_{job_id}/cancel", 400),
            ("GET", f"/resp_{job_id}?stream=true&starting_after=x", 400),
        ]:
            assert (await call(service, method, path))[0] == status, path


async def test_a_job_is_no_response(settings):
    async with running(settings, FakeEngine()) as service:
        async with service.http.post(f"{service.url}/v1/jobs", json={"prompt": "a", "max_tokens": 3}) as response:
            job_id = (await response.json())["id"]
        assert (await call(service, "GET", f"/resp_{job_id}"))[0] == 404


async def test_an_error_before_the_first_token_is_one_over_http(settings):
    async with running(settings, FakeEngine()) as service:
        assert (await call(service, "POST", input="\x00", max_output_tokens=3))[1]["error"]["code"] == "zero"


# --- Streamed ----------------------------------------------------------------------------------------------------


async def test_a_stream_has_openai_s_events_in_their_order(settings):
    async with running(settings, FakeEngine()) as service:
        found = await events(service, input="hi", max_output_tokens=7)
        (_, last) = found[-1]
        assert await call(service, "GET", f"/{last['response']['id']}") == (200, last["response"])
    names = [name for name, _ in found]
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(names[4:-4]) == {"response.output_text.delta"}
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [body["sequence_number"] for _, body in found] == list(range(len(found)))
    assert [body["type"] for _, body in found] == names
    assert "".join(body["delta"] for _, body in found[4:-4]) == spoken(7) == text_of(last["response"])


async def test_a_fault_in_a_stream_is_its_last_event(settings):
    async with running(settings, FakeEngine()) as service:
        name, body = (await events(service, input="\x00", max_output_tokens=3))[-1]
    assert (name, body["response"]["status"]) == ("response.failed", "failed")
    assert body["response"]["error"]["code"] == "zero"


async def test_a_client_that_leaves_ends_a_response_that_is_not_in_the_background(settings):
    engine = FakeEngine(step_s=SLOW_S)
    async with running(settings, engine) as service:
        asking = asyncio.ensure_future(create(service, input="hi", max_output_tokens=400))
        await until_true(lambda: engine.running)
        asking.cancel()
        await until_true(lambda: engine.aborted)


# --- In the background -------------------------------------------------------------------------------------------


async def test_a_response_in_the_background_is_there_when_it_is_done(settings):
    async with running(settings, FakeEngine(step_s=SLOW_S)) as service:
        made = await create(service, input="hi", max_output_tokens=30, background=True)
        assert (made["status"], made["output"], made["background"]) == ("queued", [], True)
        await until(lambda: status_of(service, made["id"]), "incomplete")
        _, done = await call(service, "GET", f"/{made['id']}")
    assert text_of(done) == spoken(30)


async def test_its_events_go_on_after_any_of_them(settings):
    async with running(settings, FakeEngine()) as service:
        whole = await events(service, input="hi", max_output_tokens=12, background=True)
        response_id = whole[-1][1]["response"]["id"]
        assert await events(service, "GET", f"/{response_id}?stream=true") == whole
        for after in range(len(whole)):
            rest = await events(service, "GET", f"/{response_id}?stream=true&starting_after={after}")
            assert rest == whole[after + 1 :]


async def test_a_client_that_leaves_its_stream_ends_nothing(settings):
    engine = FakeEngine(step_s=SLOW_S)
    async with running(settings, engine) as service:
        body = {"input": "hi", "max_output_tokens": 60, "background": True, "stream": True}
        async with service.http.post(f"{service.url}/v1/responses", json=body) as response:
            await response.content.readline()
            first = json.loads((await response.content.readline()).removeprefix(b"data: "))
        await until(lambda: status_of(service, first["response"]["id"]), "incomplete")
    assert engine.aborted == []


async def test_it_is_cancelled_on_demand(settings):
    engine = FakeEngine(step_s=SLOW_S)
    async with running(settings, engine) as service:
        made = await create(service, input="hi", max_output_tokens=400, background=True)
        await until_true(lambda: engine.running)
        assert (await call(service, "POST", f"/{made['id']}/cancel"))[0] == 200
        await until(lambda: status_of(service, made["id"]), "cancelled")
        assert (await events(service, "GET", f"/{made['id']}?stream=true"))[-1][0] == "response.incomplete"


# --- OpenAI's own client -----------------------------------------------------------------------------------------


async def test_the_openai_client_makes_streams_and_reads_responses(settings):
    async with (
        running(settings, FakeEngine(step_s=SLOW_S)) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        whole = await client.responses.create(model="fake", input="hi", max_output_tokens=21)
        assert whole.output_text == spoken(21)
        async with client.responses.stream(model="fake", input="hi", extra_body={"stop": "5"}) as stream:
            text = "".join([one.delta async for one in stream if one.type == "response.output_text.delta"])
            assert (await stream.get_final_response()).output_text == text == "Grüße, €"
        begun = await client.responses.create(model="fake", input="hi", max_output_tokens=60, background=True)
        follow = await client.responses.retrieve(begun.id, stream=True, starting_after=1)
        last = [one async for one in follow][-1]
        assert last.response.output_text == spoken(60)
        assert last.response.usage == (await client.responses.retrieve(begun.id)).usage
        await client.responses.delete(begun.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(begun.id)
